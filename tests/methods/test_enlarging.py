"""Enlarging by products with band matrices against torch's interpolation."""

import pytest
import torch
from torch.nn import functional as F

from protoseg_deploy.methods.enlarging import enlarge, shrink

CASES = [  # map, padded size, image size
    ((10, 7), (40, 28), (40, 28)),
    ((40, 33), (160, 132), (155, 130)),
    ((9, 12), (129, 65), (129, 65)),  # no whole factor, several blocks
    ((1, 1), (5, 3), (5, 3)),
    ((12, 9), (12, 9), (12, 9)),
    ((30, 20), (11, 13), (11, 13)),  # smaller
]


@pytest.mark.parametrize(("size", "padded", "image"), CASES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_enlarging_is_bilinear_interpolation(size, padded, image, layout):
    coarse = torch.randn(3, 5, *size, generator=torch.Generator().manual_seed(0)).contiguous(memory_format=layout)
    expected = F.interpolate(coarse, size=padded, mode="bilinear", align_corners=False)[..., : image[0], : image[1]]
    torch.testing.assert_close(enlarge(coarse, padded, image), expected)


@pytest.mark.parametrize(("size", "padded", "image"), CASES)
def test_shrinking_is_the_transpose(size, padded, image):
    """``<enlarge(x), y> = <x, shrink(y)>``."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randn(2, 4, *size, generator=generator, dtype=torch.float64)
    gradient = torch.randn(2, 4, *image, generator=generator, dtype=torch.float64)
    shrunk = shrink(gradient, padded, size)
    assert shrunk.shape == coarse.shape
    torch.testing.assert_close((enlarge(coarse, padded, image) * gradient).sum(), (coarse * shrunk).sum())
