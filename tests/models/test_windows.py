"""Windows against a plain loop: one window at a time, averaged by NumPy."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from protoseg_deploy.errors import UsageError
from protoseg_deploy.models import (
    DeployedSegmenter,
    NetworkSpec,
    Segmenter,
    WindowedSegmenter,
    Windows,
    build_segmenter,
)
from protoseg_deploy.recipe import ClassTable, Model, Train

CLASSES = ClassTable(("a", "b", "c"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)))


def network(backbone: str = "resnet10t", classes: ClassTable = CLASSES, decoder: str = "deeplabv3plus") -> Segmenter:
    torch.manual_seed(0)
    model = Model(backbone=backbone, weights="none", decoder=decoder, decoder_channels=8, low_level_channels=8)
    built = build_segmenter(NetworkSpec(model, classes)).eval()
    torch.nn.init.normal_(built.head.weight)
    return built


def noise(*size: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))


def positions(length: int, side: int, stride: int) -> list[int]:
    """Step by step to the border; the last window is pushed against it."""
    found, start = [], 0
    while start + side < length:
        found.append(start)
        start += stride
    return [*found, max(0, length - side)]


def plain_loop(segmenter: Segmenter, image: torch.Tensor, side: int, stride: int, scale: float = 1.0) -> np.ndarray:
    """``[H,W]`` classes and the logits ``[C,H,W]`` behind them, in float64."""
    pixels = image.permute(2, 0, 1)[None].float()
    if scale != 1.0:
        size = [int(length * scale) for length in image.shape[:2]]
        pixels = F.interpolate(pixels, size=size, mode="bilinear", align_corners=False)
    height, width = pixels.shape[-2:]
    canvas = np.empty((3, max(height, side), max(width, side)), np.float32)
    canvas[:] = segmenter.mean.numpy()[0]
    canvas[:, :height, :width] = pixels[0].numpy()
    total = np.zeros((segmenter.num_classes, *canvas.shape[1:]))
    count = np.zeros(canvas.shape[1:])
    for top in positions(canvas.shape[1], side, stride):
        for left in positions(canvas.shape[2], side, stride):
            here = np.s_[top : top + side, left : left + side]
            with torch.inference_mode():
                logits = segmenter(torch.from_numpy(canvas[:, *here])[None])[0]
            total[:, *here] += logits.numpy()
            count[here] += 1
    assert count.min() >= 1
    mean = (total / count)[:, :height, :width]
    if scale != 1.0:
        mean = F.interpolate(torch.from_numpy(mean)[None], size=image.shape[:2], mode="bilinear")[0].numpy()
    return mean


@pytest.mark.parametrize(
    ("size", "side", "stride", "scale"),
    [
        ((70, 101), 32, 21, 1.0),  # neither side is a whole number of strides
        ((64, 96), 32, 32, 1.0),  # no overlap
        ((40, 90), 64, 40, 1.0),  # padded below
        ((20, 17), 48, 32, 1.0),  # padded on both sides, one window
        ((70, 101), 24, 16, 0.5),
        ((30, 41), 48, 32, 1.5),
    ],
)
@pytest.mark.parametrize("batch", [1, 5])
def test_equals_one_window_at_a_time(size: tuple[int, int], side: int, stride: int, scale: float, batch: int) -> None:
    segmenter, image = network(), noise(*size)
    expected = plain_loop(segmenter, image, side, stride, scale)
    with torch.inference_mode():
        windowed = WindowedSegmenter(segmenter, scale, Windows(side, stride, batch))
        rows = windowed.logit_rows(image)
        (class_map,) = windowed(image[None])
    np.testing.assert_allclose(rows.permute(1, 0, 2).numpy(), expected, atol=2e-4)
    assert class_map.dtype == torch.uint8
    first, second = np.sort(expected, axis=0)[-1], np.sort(expected, axis=0)[-2]
    sure = first - second > 1e-3
    assert sure.mean() > 0.95
    np.testing.assert_array_equal(class_map[0].numpy()[sure], expected.argmax(axis=0)[sure])


@pytest.mark.parametrize("backbone", ["resnet10t", "vit_tiny_patch16_224"])
def test_one_window_is_the_whole_image(backbone: str) -> None:
    segmenter, images = network(backbone, decoder="fpn"), noise(2, 48, 48)
    with torch.inference_mode():
        whole = DeployedSegmenter(segmenter).full_size_logits(images)
        windowed = WindowedSegmenter(segmenter, 1.0, Windows(48, 32))
        rows = torch.stack([windowed.logit_rows(image) for image in images])
        torch.testing.assert_close(rows.permute(0, 2, 1, 3), whole, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(windowed(images)[0], whole.argmax(1).to(torch.uint8))


def test_a_window_beyond_the_image_is_the_whole_padded_image() -> None:
    segmenter, image = network(decoder="lraspp"), noise(30, 41)
    padded = segmenter.mean.view(3).repeat(48, 48, 1)
    padded[:30, :41] = image
    with torch.inference_mode():
        whole = DeployedSegmenter(segmenter).full_size_logits(padded[None])[0, :, :30, :41]
        rows = WindowedSegmenter(segmenter, 1.0, Windows(48, 32)).logit_rows(image)
    torch.testing.assert_close(rows.permute(1, 0, 2), whole, atol=1e-4, rtol=1e-4)


def test_padding_is_nothing_to_the_network() -> None:
    segmenter = network()
    blank = segmenter.mean.expand(1, 3, 8, 8)
    assert segmenter.normalise(blank).abs().max() == 0


def test_one_class_against_an_implicit_background() -> None:
    classes = ClassTable(("background", "thing"), ((0, 0, 0), (1, 1, 1)), binary=True)
    segmenter, image = network(classes=classes), noise(40, 60)
    with torch.inference_mode():
        rows = WindowedSegmenter(segmenter, 1.0, Windows(32, 21, batch=3)).logit_rows(image)
    np.testing.assert_allclose(rows.permute(1, 0, 2).numpy(), plain_loop(segmenter, image, 32, 21), atol=2e-4)


def test_cityscapes_takes_eight_windows() -> None:
    windows = Windows(769, 513)
    assert windows.starts(1024) == [0, 255]
    assert windows.starts(2048) == [0, 513, 1026, 1279]
    assert windows.starts(769) == windows.starts(500) == [0]
    assert windows.starts(770) == [0, 1]


def test_what_a_recipe_says() -> None:
    assert Windows.of_recipe(Train()) is None
    assert Windows.of_recipe(Train(eval_window=769, eval_batch=4)) == Windows(769, 513, 4)
    assert Windows.of_recipe(Train(eval_window=64, eval_stride=64)) == Windows(64, 64)


@pytest.mark.parametrize(("side", "stride", "batch"), [(64, 65, 1), (64, 0, 1), (64, 32, 0)])
def test_gaps_are_refused(side: int, stride: int, batch: int) -> None:
    with pytest.raises(UsageError):
        Windows(side, stride, batch)
