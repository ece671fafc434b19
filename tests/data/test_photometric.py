"""Strong views against torchvision's transforms and a plain sequence of formulas."""

import colorsys

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torchvision.transforms.v2 import functional as TF

from protoseg_deploy.data.photometric import augment, augmentation, blurred, draw_augmentation, recoloured

LUMA = torch.tensor([0.299, 0.587, 0.114])


def photo(height: int = 70, width: int = 45, seed: int = 0) -> torch.Tensor:
    """Smooth colours with some noise, ``[3,H,W]`` uint8; all values occur, the extremes often."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 6, 5, generator=generator) * 320 - 32
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")[0]
    return (smooth + torch.randn(3, height, width, generator=generator) * 8).clamp(0, 255).byte()


def strong(image: torch.Tensor, **changes: float) -> torch.Tensor:
    return augment(image[None], augmentation(**changes)[None])[0]


def largest_difference(one: torch.Tensor, other: torch.Tensor) -> int:
    return int((one.int() - other.int()).abs().max())


def luma(image: torch.Tensor) -> torch.Tensor:
    return torch.tensordot(LUMA, image.float(), 1)


@pytest.mark.parametrize("factor", [0.5, 0.83, 1.2, 1.5])
@pytest.mark.parametrize("change", ["brightness", "contrast", "saturation"])
def test_one_change_is_torchvisions(change, factor):
    image = photo()
    wanted = getattr(TF, f"adjust_{change}")(image, factor)
    assert largest_difference(strong(image, **{change: factor}), wanted) <= 1


def test_no_saturation_is_greyscale():
    image = photo()
    assert largest_difference(strong(image, saturation=0.0), TF.rgb_to_grayscale(image, 3)) <= 1


def test_no_augmentation_is_the_same_image():
    image = torch.arange(256, dtype=torch.uint8).repeat(3, 1)[:, None].expand(3, 16, 256)
    assert torch.equal(strong(image), image)
    batch = image[None]
    nothing = augmentation()[None]
    colours = recoloured(batch, nothing)
    assert torch.equal(blurred(colours, nothing[:, 12]), batch), "a blur of zero pixels changes nothing"


# Sides of less than, exactly, and more than a block of the blur, and of blocks and a rest.
@pytest.mark.parametrize("size", [(16, 17), (32, 32), (64, 33), (70, 129)])
@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0])
def test_blur_is_torchvisions(size, sigma):
    image = photo(*size)
    assert largest_difference(strong(image, sigma=sigma), TF.gaussian_blur(image, [13, 13], [sigma, sigma])) <= 1


@pytest.mark.parametrize("turn", [-0.25, -0.1, 0.05, 0.2])
def test_hue_turns_by_the_angle_asked_for_and_the_luma_stays(turn):
    generator = torch.Generator().manual_seed(1)
    # Colours in the middle of the cube, so that none is clamped, and far from grey, so that their hue is well defined.
    colours = torch.randint(80, 176, (3, 40, 40), generator=generator, dtype=torch.uint8)
    saturated = (colours.amax(0) - colours.amin(0)) > 60
    turned, shifted = strong(colours, hue=turn), TF.adjust_hue(colours, turn)
    assert (luma(turned) - luma(colours)).abs().max() < 1
    assert (luma(shifted) - luma(colours)).abs().max() > 10, "this is where the two differ"
    differences = []
    for ours, theirs in zip(turned[:, saturated].T.tolist(), shifted[:, saturated].T.tolist(), strict=True):
        difference = colorsys.rgb_to_hsv(*ours)[0] - colorsys.rgb_to_hsv(*theirs)[0]
        differences.append((difference + 0.5) % 1 - 0.5)
    assert len(differences) > 300
    degrees = 360 * np.abs(differences)
    assert np.mean(degrees) < 2.5  # HSV measures hues along a hexagon
    assert np.max(degrees) < 5


def test_changes_follow_each_other_and_are_clamped_once():
    image = photo(60, 50, seed=3)
    changes = {"brightness": 1.3, "contrast": 0.6, "saturation": 1.4, "sigma": 1.1}
    pixels = image.double().numpy() * changes["brightness"]
    mean = np.tensordot(LUMA.double(), pixels, 1).mean()
    pixels = mean + changes["contrast"] * (pixels - mean)
    grey = np.tensordot(LUMA.double(), pixels, 1)
    pixels = (grey + changes["saturation"] * (pixels - grey)).clip(0, 255)
    blurred = np.stack([gaussian_filter(plane, changes["sigma"], mode="mirror", radius=6) for plane in pixels])
    assert np.abs(strong(image, **changes).numpy() - blurred).max() <= 0.51


def test_each_image_of_a_batch_has_an_augmentation_of_its_own():
    torch.manual_seed(0)
    images = torch.stack([photo(48, 48, seed) for seed in range(12)])
    augmentations = torch.stack([draw_augmentation() for _ in images])
    assert 0 < (augmentations[:, 12] > 0).sum() < 12, "some are blurred, some are not"
    views = augment(images, augmentations)
    for image, changes, view in zip(images, augmentations, views, strict=True):
        assert torch.equal(augment(image[None], changes[None])[0], view)
    at_once = blurred(recoloured(images, augmentations), augmentations[:, 12])
    assert largest_difference(at_once, views) <= 1, "what a GPU computes"


def test_draws_have_the_shares_and_ranges_promised():
    torch.manual_seed(0)
    draws = torch.stack([draw_augmentation() for _ in range(4000)])
    assert draws.dtype == torch.float32
    assert draws.shape == (4000, 13)
    matrices, sigma = draws[:, :9].view(-1, 3, 3), draws[:, 12]
    grey = (matrices - matrices[:, :1]).abs().amax((1, 2)) < 1e-5
    untouched = (matrices - torch.eye(3)).abs().amax((1, 2)) < 1e-5
    assert grey.float().mean() == pytest.approx(0.2, abs=0.025)
    assert untouched[~grey].float().mean() == pytest.approx(0.2, abs=0.025)
    assert (sigma > 0).float().mean() == pytest.approx(0.5, abs=0.03)
    assert 0.1 <= sigma[sigma > 0].min() < 0.15
    assert 1.95 < sigma.max() <= 2.0
    # All three channels are equal in a grey pixel: it is multiplied by brightness times contrast.
    gain = matrices.sum(2)
    assert (gain - gain[:, :1]).abs().max() < 1e-5
    assert 0.25 <= gain.min() < 0.4
    assert 2.0 < gain.max() <= 2.25
    # brightness x (1 - contrast), so that brightness alone is what the two add up to
    brightness = gain[:, 0] + draws[:, 9:12].sum(1)
    assert 0.5 - 1e-5 <= brightness.min() < 0.52
    assert 1.48 < brightness.max() <= 1.5 + 1e-5


def test_draws_come_from_the_global_generator():
    torch.manual_seed(5)
    first = draw_augmentation()
    second = draw_augmentation()
    torch.manual_seed(5)
    assert torch.equal(draw_augmentation(), first)
    assert not torch.equal(first, second)
