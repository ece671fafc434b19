"""Graphs as ONNX Runtime's CPU provider gets them."""

from pathlib import Path

import onnx

from protoseg_deploy.runtimes.rounding import emulate_rounding, has_low_precision
from protoseg_deploy.runtimes.sparse_argmax import with_sparse_argmax

_MOST_THREADS = 4
_MOST_MIXED = 0.3
"""With one thread, upsampling everywhere is quicker from that share of mixed cells on; threads speed it up more."""


def loadable_on_cpu(path: Path, threads: int = 1) -> bytes:
    """A graph whose low precision is emulated, and whose logits are upsampled where classes meet if that is quicker.

    It has lost its folder: where its weights are external, the session needs the option
    ``session.model_external_initializers_file_folder_path``, set to the folder of `path`.

    Args:
        path: an ``.onnx`` file.
        threads: of the session.

    Raises:
        google.protobuf.message.DecodeError: `path` is no ONNX file.
        OSError: it cannot be read.
        RuntimeError, TypeError, ValueError: its types contradict each other.
    """
    model = onnx.load(path, load_external_data=False)
    if has_low_precision(model):
        model = emulate_rounding(model)
    if threads <= _MOST_THREADS:
        model = with_sparse_argmax(model, _MOST_MIXED / threads**0.75)
    content: bytes = model.SerializeToString()
    return content
