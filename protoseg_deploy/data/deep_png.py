"""PNG colours of 16 bits, which Pillow cuts to 8: torchvision reads them as they are."""

from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray


def read_16_bit_png(file: BinaryIO) -> NDArray[np.uint16]:
    """The samples of a PNG of 16 bits, ``[H,W,bands]``.

    Raises:
        RuntimeError: it is damaged.
    """
    import torch  # only here: checking other data does not wait for it
    from torchvision.io import ImageReadMode, decode_png

    file.seek(0)
    content = torch.frombuffer(bytearray(file.read()), dtype=torch.uint8)
    values: NDArray[Any] = decode_png(content, ImageReadMode.UNCHANGED).permute(1, 2, 0).numpy()
    return values.astype(np.uint16, copy=False)
