"""Weak and strong views, CutMix, and the order of batches."""

import numpy as np
import pytest
import torch

from protoseg_deploy.data import find_data
from protoseg_deploy.data.loading import TrainingBatches
from protoseg_deploy.data.photometric import augment, draw_augmentation
from protoseg_deploy.data.views import at_input_scale, resize_mask, weak_view
from protoseg_deploy.methods.cutmix import CutMix
from protoseg_deploy.recipe import Train
from tests.conftest import with_values


def coded_image(height, width):
    """An image whose red channel equals the mask, so that geometry can be compared."""
    mask = (torch.arange(height)[:, None] // 8 * 3 + torch.arange(width)[None] // 8).to(torch.uint8)
    return torch.stack([mask * 4, mask * 0, mask * 0]), mask


def test_weak_view_moves_image_and_mask_alike():
    image, mask = coded_image(60, 80)
    for seed in range(30):
        torch.manual_seed(seed)
        view = weak_view(image, mask, Train(crop=48, scale=(0.5, 2.0)), 255)
        assert view.image.shape == (3, 48, 48)
        inside = view.mask != 255
        difference = (view.image[0].float() / 4 - view.mask.float()).abs()[inside]
        # interpolation blurs the edges of the 8-pixel cells; the bulk must agree
        assert (difference < 0.6).float().mean() > 0.65, seed


def test_padding_is_ignored_never_a_class():
    image, mask = coded_image(20, 30)
    view = weak_view(image, mask, Train(crop=64, scale=(1.0, 1.0)), 255)
    assert (view.mask == 255).sum() == 64 * 64 - 20 * 30
    assert torch.equal(view.mask[:20, :30], mask) or torch.equal(view.mask[:20, :30], mask.flip(-1))


def test_unlabeled_view_marks_the_outside():
    image, _ = coded_image(20, 30)
    view = weak_view(image, None, Train(crop=64, scale=(1.0, 1.0)), 255)
    assert (view.mask == 0).sum() == 20 * 30
    assert (view.mask == 255).sum() == 64 * 64 - 20 * 30


def test_outside_and_inside_of_an_unlabeled_view_differ_where_class_zero_is_ignored():
    image, _ = coded_image(20, 30)
    view = weak_view(image, None, Train(crop=64, scale=(1.0, 1.0)), 0)
    assert (view.mask == 0).sum() == 20 * 30


@pytest.mark.parametrize("scale", [(0.5, 0.6), (1.3, 1.4)])
@pytest.mark.parametrize("input_scale", [1.0, 0.7])
def test_masks_are_not_shifted_against_images(scale, input_scale):
    columns = torch.arange(240, dtype=torch.uint8).expand(200, 240)
    offsets = []
    for seed in range(20):
        torch.manual_seed(seed)
        image = at_input_scale(columns.expand(3, -1, -1), input_scale)
        mask = resize_mask(columns, image.shape[-2:])
        view = weak_view(image, mask, Train(crop=64, scale=scale, flip=False), 255)
        offsets.append((view.mask.float() - view.image[0].float()).mean().item())
    # A ramp of one grey level a pixel: half a pixel of a view is 0.37 levels or more. Some kernels truncate.
    assert abs(np.mean(offsets)) < 0.25


def test_a_view_does_not_depend_on_how_an_image_lies_in_memory():
    pixels = torch.randint(256, (90, 120, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    decoded = pixels.permute(2, 0, 1)
    for seed in range(10):
        for input_scale in (1.0, 0.5):
            views = []
            for image in (decoded, decoded.contiguous()):
                torch.manual_seed(seed)
                scaled = at_input_scale(image, input_scale)
                views.append(weak_view(scaled, None, Train(crop=40, scale=(0.5, 2.0)), 255).image)
            assert torch.equal(*views)
            assert views[0].is_contiguous()


def test_input_scale_shrinks_what_a_crop_sees():
    image, mask = coded_image(64, 64)
    image = at_input_scale(image, 0.5)
    view = weak_view(image, resize_mask(mask, image.shape[-2:]), Train(crop=64, scale=(1.0, 1.0)), 255)
    assert (view.mask != 255).sum() == 32 * 32


def test_every_part_of_an_image_can_be_in_the_crop():
    image, mask = coded_image(64, 96)
    seen = set()
    for seed in range(300):
        torch.manual_seed(seed)
        seen |= set(weak_view(image, mask, Train(crop=16, scale=(1.0, 1.0)), 255).mask.unique().tolist())
    assert seen == set(mask.unique().tolist())


@pytest.mark.parametrize(("scale", "least"), [((1.0, 1.0), 60), ((1.0, 2.0), 60), ((0.5, 0.5), 55)])
def test_a_crop_for_a_class_holds_a_pixel_of_it_anywhere(scale, least):
    """A patch of 4x4 pixels in an image of 150x200; shrunk it may be lost at the edge of a crop."""
    image, mask = coded_image(150, 200)
    mask = torch.zeros_like(mask)
    mask[71:75, 40:44] = 1
    image[0] = mask * 200
    places = []
    for seed in range(60):
        torch.manual_seed(seed)
        view = weak_view(image, mask, Train(crop=32, scale=scale), 255, class_index=1)
        assert view.image.shape == (3, 32, 32)
        if (view.mask == 1).any():
            assert view.image[0][view.mask == 1].float().mean() > 50, "image and mask are cut alike"
            places.append((view.mask == 1).nonzero()[0].tolist())
    assert len(places) >= least
    assert len({row for row, _ in places}) > 10
    assert len({column for _, column in places}) > 10


def test_a_crop_for_a_class_that_is_not_there_is_any_crop():
    image, mask = coded_image(60, 80)
    views = []
    for class_index in (None, 250):
        torch.manual_seed(3)
        views.append(weak_view(image, mask, Train(crop=32), 255, class_index))
    assert torch.equal(views[0].image, views[1].image)
    assert torch.equal(views[0].mask, views[1].mask)


def test_strong_view_changes_colours_not_places():
    generator = torch.Generator().manual_seed(0)
    image = torch.zeros(3, 40, 40, dtype=torch.uint8)
    image[:, 10:30, 10:30] = torch.randint(100, 255, (3, 1, 1), generator=generator).byte()
    changed = 0
    for seed in range(20):
        torch.manual_seed(seed)
        strong = augment(image[None], draw_augmentation()[None])[0]
        assert strong.dtype == torch.uint8
        assert strong.shape == image.shape
        changed += not torch.equal(strong, image)
        inner, outer = strong[:, 18:22, 18:22].float().mean(), strong[:, :3, :3].float().mean()
        assert inner > outer, "the bright square stays where it is"
    assert changed >= 15


def test_cutmix_boxes_have_the_promised_size_and_paste_the_partner():
    generator = torch.Generator().manual_seed(0)
    shares, mixed_images = [], 0
    for _ in range(100):
        cutmix = CutMix.draw(torch.Size([4, 50, 70]), 0.5, generator)
        for box in cutmix.boxes:
            if box.any():
                mixed_images += 1
                rows, columns = box.any(1).sum().item(), box.any(0).sum().item()
                assert rows * columns == box.sum().item(), "one rectangle"
                shares.append(rows * columns / (50 * 70))
    assert 150 < mixed_images < 250
    assert min(shares) > 0.01
    assert 0.3 < max(shares) < 0.44
    values = torch.arange(4).view(4, 1, 1).expand(4, 50, 70)
    mixed = cutmix(values)
    assert torch.equal(mixed, torch.where(cutmix.boxes, values ^ 1, values))
    images = values[:, None].expand(4, 3, 50, 70)
    assert torch.equal(cutmix(images)[:, 0], mixed), "images and labels are cut by the same box"


def test_a_batch_depends_on_seed_and_step_only(tiny_recipe):
    sets = find_data(tiny_recipe.data, need_unlabeled=True, need_val=True)
    torch.manual_seed(1)
    first = TrainingBatches(tiny_recipe, sets.labeled, sets.unlabeled).batch(3)
    state = torch.manual_seed(2).get_state()
    batches = TrainingBatches(tiny_recipe, sets.labeled, sets.unlabeled)
    batches.batch(0)
    assert torch.equal(torch.get_rng_state(), state), "drawing a batch leaves the global generator alone"
    again = batches.batch(3)
    for name, value in vars(first).items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, getattr(again, name)), name
    reseeded = TrainingBatches(with_values(tiny_recipe, train={"seed": 1}), sets.labeled, sets.unlabeled).batch(3)
    assert not torch.equal(first.strong, reseeded.strong)


def test_masks_in_batches_hold_classes_and_ignore_only(tiny_recipe):
    sets = find_data(tiny_recipe.data, need_unlabeled=True, need_val=True)
    batches = TrainingBatches(tiny_recipe, sets.labeled, sets.unlabeled)
    values = np.unique(np.concatenate([batches.batch(step).labels.numpy().ravel() for step in range(8)]))
    assert set(values.tolist()) <= {0, 1, 2, 255}
