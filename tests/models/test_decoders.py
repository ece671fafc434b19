"""What decoders are made of, and what a recipe leaves to them."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from protoseg_deploy.models import NetworkSpec, Segmenter, build_segmenter, load_network, save_network
from protoseg_deploy.recipe import ClassTable, Model

CLASSES = ClassTable(("a", "b", "c"), ((0, 0, 0), (255, 0, 0), (0, 255, 0)))


def network(backbone: str = "mobilenetv3_small_050", decoder: str = "deeplabv3plus", **more: object) -> Segmenter:
    torch.manual_seed(0)
    return Segmenter(Model(backbone=backbone, decoder=decoder, weights="none", **more), 3)


def dense_spatial_convolutions(segmenter: Segmenter) -> int:
    return sum(
        layer.groups == 1 and max(layer.kernel_size) > 1
        for layer in segmenter.decoder.modules()
        if isinstance(layer, nn.Conv2d)
    )


@pytest.mark.parametrize(
    ("backbone", "mobile"),
    [
        ("mobilenetv2_100", True),
        ("mobilenetv3_small_050", True),
        ("mobilenetv4_conv_small", True),
        ("tf_efficientnet_lite0", True),
        ("efficientvit_b0", True),
        ("ghostnetv2_100", True),
        ("efficientnet_b7", False),
        ("convnext_tiny", False),
        ("resnet18", False),
        ("vit_tiny_patch16_224", False),
    ],
)
def test_mobile_backbones_are_small_and_of_depthwise_convolutions(backbone: str, mobile: bool) -> None:
    with torch.device("meta"):
        decoder = "fpn" if backbone.startswith("vit") else "lraspp"
        assert network(backbone, decoder).spec.separable is mobile


@pytest.mark.parametrize("decoder", ["deeplabv3plus", "fpn"])
def test_convolutions_are_separable_for_mobile_backbones_unless_a_recipe_says_otherwise(decoder: str) -> None:
    assert dense_spatial_convolutions(network(decoder=decoder)) == 0
    assert dense_spatial_convolutions(network(decoder=decoder, separable=False)) > 0
    assert dense_spatial_convolutions(network("resnet10t", decoder)) > 0
    assert dense_spatial_convolutions(network("resnet10t", decoder, separable=True)) == 0


def test_the_light_decoder_works_at_stride_4_with_convolutions_of_one_channel() -> None:
    segmenter = network(decoder="fpn_lite")
    assert dense_spatial_convolutions(segmenter) == 0
    output = segmenter.forward_features(torch.zeros(2, 3, 64, 96, dtype=torch.uint8))
    assert output.logits.shape == (2, 3, 16, 24)
    assert output.embedding is output.head_input


def test_what_a_recipe_leaves_open_is_settled_in_the_file(tmp_path: Path) -> None:
    spec = NetworkSpec(Model(backbone="mobilenetv3_small_050", weights="none", decoder="fpn"), CLASSES)
    segmenter = build_segmenter(spec)
    assert (segmenter.spec.decoder_channels, segmenter.spec.separable) == (64, True)
    save_network(tmp_path / "a.safetensors", segmenter.state_dict(), NetworkSpec(segmenter.spec, CLASSES))
    assert load_network(tmp_path / "a.safetensors")[1].model == segmenter.spec


def test_networks_of_versions_without_separable_convolutions_have_none(tmp_path: Path) -> None:
    segmenter = network(separable=False, decoder_channels=16)
    path = tmp_path / "a.safetensors"
    save_network(path, segmenter.state_dict(), NetworkSpec(segmenter.spec, CLASSES))
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["protoseg_network"])
    del header["model"]["separable"]
    save_file(segmenter.state_dict(), path, {"protoseg_network": json.dumps(header)})
    loaded, spec = load_network(path)
    assert spec.model.separable is False
    assert dense_spatial_convolutions(loaded) == dense_spatial_convolutions(segmenter)
