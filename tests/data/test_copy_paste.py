"""Pasting classes, pixel by pixel."""

import numpy as np
import torch

from protoseg_deploy.data.copy_paste import paste_classes
from protoseg_deploy.data.views import View


def random_view(seed):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.randint(0, 5, (12, 12), generator=generator, dtype=torch.uint8)
    mask[:, -2:] = 255
    return View(torch.randint(0, 256, (3, 12, 12), generator=generator, dtype=torch.uint8), mask)


def test_pixels_of_the_classes_come_from_the_donor_and_no_others():
    view, donor = random_view(0), random_view(1)
    pasted = paste_classes(view, donor, (1, 3))
    for row, column in np.ndindex(12, 12):
        source = donor if donor.mask[row, column] in (1, 3) else view
        assert torch.equal(pasted.image[:, row, column], source.image[:, row, column])
        assert pasted.mask[row, column] == source.mask[row, column]
    assert pasted.image.dtype == pasted.mask.dtype == torch.uint8


def test_classes_the_donor_does_not_show_paste_nothing():
    view = random_view(0)
    pasted = paste_classes(view, random_view(1), (7, 7))
    assert torch.equal(pasted.image, view.image)
    assert torch.equal(pasted.mask, view.mask)
