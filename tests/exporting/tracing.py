"""The same network is traced once: tests of what an export does around its graphs need not wait for every one."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import onnx
import torch
from torch import Tensor

from protoseg_deploy.models import DeployedSegmenter
from tests.made_once import made_once

FORWARD = DeployedSegmenter.forward
EXPORT = torch.onnx.export


@contextmanager
def traced_once_in(folder: Path) -> Iterator[None]:
    """Take traces of networks with the same layers, weights and options from a folder, for a block.

    Within such a block, another one changes nothing.
    """
    if torch.onnx.export is not EXPORT:
        yield
        return

    def export_once(module: DeployedSegmenter, images: tuple[Tensor, ...], **options: object) -> object:
        if DeployedSegmenter.forward is not FORWARD:  # changed by a test
            return EXPORT(module, images, **options)
        told = {name: value for name, value in options.items() if name != "custom_translation_table"}
        shapes = [(image.dtype, image.shape) for image in images]
        digest = hashlib.sha256(repr((module, module.input_scale, shapes, sorted(told.items()))).encode())
        for name, tensor in chain(module.named_parameters(), module.named_buffers()):
            digest.update(name.encode() + tensor.detach().numpy().tobytes())

        def make(path: Path) -> None:
            onnx.save(EXPORT(module, images, **options).model_proto, path)

        return SimpleNamespace(model_proto=onnx.load(made_once(folder / f"{digest.hexdigest()}.onnx", make)))

    torch.onnx.export = export_once
    try:
        yield
    finally:
        torch.onnx.export = EXPORT
