"""Strong views: colours and focus of a weak view, disturbed."""

from functools import cache

import torch
from torch import Tensor
from torchvision.transforms import v2


def draw_disturbance() -> Tensor:
    """``[P]`` float32 parameters of one strong view, drawn from torch's global generator."""
    return torch.randint(2**31, (1,)).to(torch.float32)


def disturb(images: Tensor, disturbances: Tensor) -> Tensor:
    """``[B,3,S,S]`` uint8 weak views and ``[B,P]`` parameters to ``[B,3,S,S]`` uint8 strong views, on their device."""
    views = []
    for image, disturbance in zip(images, disturbances, strict=True):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(disturbance[0]))
            views.append(_disturbance()(image))
    return torch.stack(views)


@cache
def _disturbance() -> v2.Transform:
    return v2.Compose(
        [
            v2.RandomApply([v2.ColorJitter(0.5, 0.5, 0.5, 0.25)], p=0.8),
            v2.RandomGrayscale(p=0.2),
            v2.RandomApply([v2.GaussianBlur(kernel_size=13, sigma=(0.1, 2.0))], p=0.5),
        ]
    )
