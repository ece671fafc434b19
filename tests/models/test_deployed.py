"""What is deployed computes the function of the trained network, however it lays out the numbers."""

import pytest
import torch
from torch.nn import functional as F

from protoseg_deploy.models import DeployedSegmenter, NetworkSpec, build_segmenter
from protoseg_deploy.models.deployed import scale_images, upsample_rows
from protoseg_deploy.recipe import ClassTable, Model


def classes(count: int, *, binary: bool = False) -> ClassTable:
    return ClassTable(tuple(f"c{n}" for n in range(count)), tuple((n % 256, n // 256, 0) for n in range(count)), binary)


@pytest.mark.parametrize("count", [2, 11, 300])
@pytest.mark.parametrize(
    ("small", "size"), [((5, 7), (33, 50)), ((16, 12), (16, 12)), ((9, 1), (4, 3)), ((1, 1), (7, 5))]
)
def test_rows_are_the_bilinear_upsampling(count: int, small: tuple[int, int], size: tuple[int, int]) -> None:
    logits = torch.randn(2, count, *small, generator=torch.Generator().manual_seed(0))
    rows = upsample_rows(logits, size)
    expected = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
    assert rows.shape == (2, size[0], count, size[1])
    torch.testing.assert_close(rows.permute(0, 2, 1, 3), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("backbone", "decoder", "scale", "table"),
    [
        ("resnet10t", "lraspp", 1.0, classes(3)),
        ("resnet10t", "deeplabv3plus", 0.5, classes(2, binary=True)),
        ("test_vit", "fpn", 1.0, classes(3)),  # pads its images
        ("test_vit", "fpn", 0.75, classes(3)),
    ],
)
@torch.no_grad()
def test_class_maps_follow_from_the_network(backbone: str, decoder: str, scale: float, table: ClassTable) -> None:
    torch.manual_seed(0)
    spec = NetworkSpec(Model(backbone=backbone, weights="none", decoder=decoder, decoder_channels=16), table, scale)
    segmenter = build_segmenter(spec).eval()
    images = torch.randint(0, 256, (2, 61, 90, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    output = segmenter.forward_features(scale_images(images.permute(0, 3, 1, 2).float(), scale))
    logits = output.full_size_logits() if output.padded_size != output.image_size else output.logits
    expected = F.interpolate(logits, size=(61, 90), mode="bilinear", align_corners=False)

    module = DeployedSegmenter(segmenter, scale, confidence=True, logits=True).eval()
    class_map, confidence, found = module(images)
    assert class_map.dtype == confidence.dtype == torch.uint8
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(module.full_size_logits(images), found)
    torch.testing.assert_close(class_map.long(), found.argmax(dim=1))
    assert (confidence - found.softmax(1).amax(1) * 255).abs().max() <= 0.51


def test_the_first_of_equal_classes_wins() -> None:
    spec = NetworkSpec(
        Model(backbone="resnet10t", weights="none", decoder="lraspp", decoder_channels=16), classes(300), 1.0
    )
    segmenter = build_segmenter(spec).eval()
    torch.nn.init.zeros_(segmenter.head.weight)
    torch.nn.init.constant_(segmenter.head.bias, -1.0)
    segmenter.head.bias.data[[270, 280, 299]] = 2.0
    with torch.no_grad():
        (class_map,) = DeployedSegmenter(segmenter)(torch.zeros(1, 20, 30, 3, dtype=torch.uint8))
    assert class_map.dtype == torch.int32
    assert class_map.unique().tolist() == [270]
