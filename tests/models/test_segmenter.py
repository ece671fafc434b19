"""Networks: every family and decoder, any size, nothing of the prototypes inside."""

import pytest
import torch
from torch.nn import functional as F

from protoseg_deploy.errors import UsageError
from protoseg_deploy.models import DeployedSegmenter, Segmenter, build_segmenter, load_network, save_network
from protoseg_deploy.models.saved import NetworkSpec
from protoseg_deploy.recipe import ClassTable, Model, class_table, load_recipe, shipped_recipe_names


def spec_of(backbone, decoder="lraspp", **more):
    return Model(backbone=backbone, decoder=decoder, weights="none", decoder_channels=16, **more)


@pytest.mark.parametrize(
    ("backbone", "decoder"),
    [
        ("resnet10t", "deeplabv3plus"),
        ("mobilenetv3_small_050", "lraspp"),
        ("efficientnet_b0", "fpn"),
        ("convnext_atto", "deeplabv3plus"),
        ("regnety_002", "lraspp"),
        ("swin_tiny_patch4_window7_224", "fpn"),
        ("fastvit_t8", "lraspp"),
        ("vit_tiny_patch16_224", "fpn"),
        ("vit_small_patch14_dinov2", "fpn"),
        ("vit_small_patch16_dinov3", "fpn"),
    ],
)
def test_every_family_takes_odd_sizes_and_trains(backbone, decoder):
    torch.manual_seed(0)
    network = Segmenter(spec_of(backbone, decoder), 5).train()
    for height, width in ((90, 117), (64, 64)):
        output = network.forward_features(torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8))
        assert output.full_size_logits().shape == (2, 5, height, width)
        for features in ("head_input", "decoder_concat"):
            assert output.features(features).shape[1] == network.feature_channels(features)
            assert output.features(features).shape[-2:] == output.logits.shape[-2:]
    output.full_size_logits().mean().backward()
    assert all(parameter.grad is not None for parameter in network.head.parameters())
    reached = [parameter.grad is not None for parameter in network.backbone.parameters()]
    assert sum(reached) > 0.8 * len(reached)


@pytest.mark.parametrize("height_width", [(360, 480), (517, 333), (17, 23)])
def test_sizes_people_have(height_width):
    network = Segmenter(spec_of("mobilenetv3_small_050", "deeplabv3plus"), 3).eval()
    with torch.inference_mode():
        assert network(torch.zeros(1, 3, *height_width)).shape == (1, 3, *height_width)


@pytest.mark.parametrize("stride", [8, 16, 32])
def test_output_stride_is_what_was_asked_for(stride):
    network = Segmenter(spec_of("resnet10t", "deeplabv3plus", output_stride=stride), 3).eval()
    pyramid = network.forward_features(torch.zeros(1, 3, 128, 128)).pyramid
    assert pyramid[-1].shape[-1] == 128 // stride


def test_decoder_width_is_settable():
    def wide(width):
        return Segmenter(spec_of("resnet10t", "deeplabv3plus").model_copy(update={"decoder_channels": width}), 3)

    assert wide(32).head.in_channels - wide(16).head.in_channels == 16


def test_images_are_normalised_by_the_backbones_statistics():
    network = Segmenter(spec_of("vit_tiny_patch16_224", "fpn"), 3)
    assert network.mean.flatten().tolist() == pytest.approx([127.5] * 3)
    assert Segmenter(spec_of("resnet10t"), 3).std.flatten().tolist() == pytest.approx([58.395, 57.12, 57.375])


def test_uint8_and_float_images_give_the_same_logits():
    network = Segmenter(spec_of("resnet10t"), 3).eval()
    images = torch.randint(0, 256, (1, 3, 40, 40), dtype=torch.uint8)
    assert torch.equal(network(images), network(images.float()))


def test_padding_reaches_no_pixel_of_the_image_through_the_crop():
    """A family that pads gives as many logits as pixels, and the same as an image padded by hand."""
    network = Segmenter(spec_of("convnext_atto", "fpn"), 3).eval()
    assert network.backbone.size_multiple > 1
    image = torch.rand(1, 3, 50, 70) * 255
    multiple = network.backbone.size_multiple
    grey = network.mean.expand(1, 3, -(-50 // multiple) * multiple, -(-70 // multiple) * multiple).clone()
    grey[..., :50, :70] = image
    with torch.inference_mode():
        assert torch.allclose(network(image), network(grey)[..., :50, :70], atol=1e-5)


def test_one_class_is_thresholded_at_zero():
    network = Segmenter(spec_of("resnet10t"), 2, binary=True).eval()
    assert network.head.out_channels == 1
    images = torch.randint(0, 256, (1, 33, 47, 3), dtype=torch.uint8)
    with torch.inference_mode():
        logits = network(images.permute(0, 3, 1, 2))
        assert torch.equal(DeployedSegmenter(network)(images)[0].bool(), logits[:, 1] > 0)


def test_deployed_network_upsamples_before_it_decides():
    torch.manual_seed(0)
    network = Segmenter(spec_of("resnet10t"), 4).eval()
    images = torch.randint(0, 256, (2, 45, 61, 3), dtype=torch.uint8)
    with torch.inference_mode():
        class_map, confidence, logits = DeployedSegmenter(network, confidence=True, logits=True)(images)
        low = network.forward_features(images.permute(0, 3, 1, 2)).logits
        expected = F.interpolate(low, size=(45, 61), mode="bilinear")
    assert class_map.dtype == confidence.dtype == torch.uint8
    assert torch.allclose(logits, expected, atol=1e-5 * float(expected.abs().max()))
    assert torch.equal(class_map.long(), logits.argmax(1))
    probabilities = logits.softmax(1).amax(1) * 255
    assert (confidence.float() - probabilities).abs().max() <= 0.5 + 1e-3


def test_input_scale_is_inside():
    torch.manual_seed(0)
    network = Segmenter(spec_of("resnet10t"), 4).eval()
    images = torch.randint(0, 256, (1, 64, 80, 3), dtype=torch.uint8)
    with torch.inference_mode():
        halved = F.avg_pool2d(images.permute(0, 3, 1, 2).float(), 2)
        expected = F.interpolate(network.forward_features(halved).logits, size=(64, 80), mode="bilinear")
        found = DeployedSegmenter(network, 0.5).full_size_logits(images)
    assert torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize(
    ("backbone", "decoder", "message"),
    [
        ("resnet_10t", "lraspp", "did you mean 'resnet10t'"),
        ("vit_tiny_patch16_224", "deeplabv3plus", "plain ViT"),
        ("vit_tiny_patch16_224", "lraspp", "plain ViT"),
        ("mixer_s16_224", "fpn", "mixer_s16_224"),
    ],
)
def test_what_cannot_be_built_is_said(backbone, decoder, message):
    with pytest.raises(UsageError, match=message):
        Segmenter(spec_of(backbone, decoder), 3)


def test_pretrained_weights_without_a_network_are_a_clear_error(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UsageError, match=r"model\.weights: the pretrained weights of 'resnet18'"):
        Segmenter(spec_of("resnet18"), 3, pretrained=True)


@pytest.mark.parametrize("name", shipped_recipe_names())
def test_every_shipped_recipe_builds_its_network(name):
    recipe = load_recipe(name)
    data = recipe.data
    classes = class_table(data) if isinstance(data.classes, list) else ClassTable(("a", "b"), ((0, 0, 0), (1, 1, 1)))
    network = build_segmenter(NetworkSpec(recipe.model, classes, data.input_scale)).eval()
    with torch.inference_mode():
        assert network(torch.zeros(1, 3, 65, 65)).shape == (1, len(classes), 65, 65)


def test_published_networks_have_512_prototype_channels():
    for name in ("voc-resnet101-pcr", "cityscapes-resnet101-pcr"):
        recipe = load_recipe(name)
        network = Segmenter(recipe.model, 21)
        assert network.feature_channels(recipe.method.prototypes.features) == 512
        assert network.backbone.strides[-1] == 8


def test_network_files_say_what_they_are(tmp_path):
    classes = ClassTable(("a", "b", "c"), ((0, 0, 0), (1, 2, 3), (4, 5, 6)))
    spec = NetworkSpec(spec_of("resnet10t"), classes, 0.5, 254, {"run": "x", "miou_percent": 12.5})
    network = build_segmenter(spec).eval()
    save_network(tmp_path / "n.safetensors", network.state_dict(), spec)
    loaded, loaded_spec = load_network(tmp_path / "n.safetensors")
    assert loaded_spec == spec
    images = torch.rand(1, 3, 40, 40) * 255
    assert torch.equal(loaded(images), network(images))
