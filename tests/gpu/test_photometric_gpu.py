"""Strong views made on a GPU."""

import pytest
import torch

from protoseg_deploy.data.photometric import augment, draw_augmentation

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


def test_strong_views_equal_those_of_the_cpu_and_do_not_wait() -> None:
    torch.manual_seed(0)
    images = torch.randint(256, (8, 3, 161, 161), dtype=torch.uint8)
    augmentations = torch.stack([draw_augmentation() for _ in images])
    on_gpu = images.cuda(), augmentations.cuda()
    augment(*on_gpu)
    torch.cuda.set_sync_debug_mode("error")
    try:
        views = augment(*on_gpu)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert (views.cpu().int() - augment(images, augmentations).int()).abs().max() <= 1
