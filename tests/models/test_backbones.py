"""What backbones give to decoders."""

import socket

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from protoseg_deploy.errors import UsageError
from protoseg_deploy.models import Segmenter, require_buildable
from protoseg_deploy.models.backbones import Backbone
from protoseg_deploy.models.pretrained import pretrained_source
from protoseg_deploy.recipe import Model


@pytest.mark.parametrize("name", ["test_vit", "vit_tiny_patch16_224", "vit_small_patch16_dinov3"])
def test_all_maps_of_a_vit_pass_its_last_normalisation(name):
    torch.manual_seed(0)
    backbone = Backbone(name).eval()
    norm = backbone.net.model.norm
    torch.nn.init.uniform_(norm.weight, 0.5, 2.0)
    torch.nn.init.normal_(norm.bias)
    whole = timm.create_model(name, num_classes=0, dynamic_img_size=True).eval()
    whole.load_state_dict(backbone.net.model.state_dict())
    side = 4 * backbone.strides[0]
    image = torch.randn(2, 3, side, 2 * side)
    with torch.inference_mode():
        maps = [level.flatten(2).transpose(1, 2) for level in backbone(image)]
        classified = whole.forward_features(image)[:, whole.num_prefix_tokens :]
        torch.testing.assert_close(maps[-1], classified, atol=1e-5, rtol=1e-5)
        for level in maps:
            plain = (level - norm.bias) / norm.weight
            torch.testing.assert_close(plain.mean(2), torch.zeros(2, 32), atol=1e-4, rtol=0)
            torch.testing.assert_close(plain.var(2, correction=0), torch.ones(2, 32), atol=1e-2, rtol=0)


@pytest.mark.parametrize("name", ["xcit_nano_12_p16_224", "vit_tiny_r_s16_p8_224"])
def test_what_has_blocks_of_one_stride_is_a_vit(name):
    network = Segmenter(Model(backbone=name, weights="none", decoder="fpn", decoder_channels=8), 3).eval()
    assert network.backbone.is_plain_vit
    with torch.inference_mode():
        assert network(torch.randint(0, 256, (1, 3, 70, 61), dtype=torch.uint8)).shape == (1, 3, 70, 61)


def step(name, decoder):
    """A network of such a backbone after a backward pass, and its logits."""
    torch.manual_seed(0)
    network = Segmenter(Model(backbone=name, weights="none", decoder=decoder, decoder_channels=8), 3).train()
    logits = network(torch.randint(0, 256, (2, 3, 70, 61), dtype=torch.uint8))
    logits.sum().backward()
    return network, logits


@pytest.mark.parametrize("decoder", ["lraspp", "fpn_lite", "fpn", "deeplabv3plus", "dpt"])
@pytest.mark.parametrize("name", ["mambaout_femto", "test_convnext"])
def test_maps_reach_decoders_channels_first_whatever_the_family_gives(name, decoder):
    network, logits = step(name, decoder)
    assert logits.shape == (2, 3, 70, 61)
    assert network.backbone.channels == [level.shape[1] for level in network.backbone(torch.zeros(1, 3, 64, 64))]
    assert all(parameter.grad is not None for parameter in network.decoder.parameters())


@pytest.mark.parametrize("prefix", ["timm/", "hf_hub:timm/", "hf-hub:timm/"])
def test_names_as_the_documentation_of_timm_writes_them(prefix):
    assert Backbone(prefix + "resnet10t.c3_in1k").channels == Backbone("resnet10t").channels


@pytest.mark.parametrize(
    ("name", "decoder", "says"),
    [
        ("resnt50.a1_in1k", "fpn", "did you mean 'resnet50'"),
        ("resnet10t.c3_in1kk", "fpn", "did you mean 'c3_in1k'"),
        ("hf_hub:somebody/theirs", "fpn", "no model"),
        ("crossvit_tiny_240", "fpn", "not those of a pyramid"),
        ("convmixer_768_32", "fpn", "3 feature maps of one stride; fpn makes a pyramid of 4"),
        ("convmixer_768_32", "dpt", "3 feature maps of one stride; dpt makes a pyramid of 4"),
        ("botnet26t_256", "fpn", "one size only"),
    ],
)
def test_what_cannot_be_used_is_one_error(name, decoder, says):
    with pytest.raises(UsageError, match=rf"^model\.backbone: .*{says}"):
        require_buildable(Model(backbone=name, weights="none", decoder=decoder))


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub that nobody answers at, and an empty cache."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")
        yield tmp_path


def test_without_a_network_pretrained_weights_are_missed_at_once(hub, monkeypatch):
    monkeypatch.setattr(timm, "create_model", None)  # the hub is not even asked
    with pytest.raises(UsageError, match=r"^model\.weights: .*'resnet10t' cannot be fetched: 127\.0\.0\.1") as caught:
        pretrained_source("resnet10t")
    assert "`none`" in caught.value.hint


def test_weights_that_were_fetched_before_need_no_network(hub):
    config = timm.get_pretrained_cfg("test_resnet")
    snapshot = hub / f"models--{config.hf_hub_id.replace('/', '--')}" / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs/main").write_text("0123")
    torch.manual_seed(1)
    weights = timm.create_model("test_resnet").state_dict()
    save_file(weights, snapshot / "model.safetensors")
    require_buildable(Model(backbone="test_resnet"))
    network = Segmenter(Model(backbone="test_resnet"), 3, pretrained=True)
    assert torch.equal(network.backbone.net.conv1[0].weight, weights["conv1.0.weight"])


def test_a_model_without_pretrained_weights_is_named(hub):
    name = next(name for name in timm.list_models("resnet*") if not timm.get_pretrained_cfg(name).has_weights)
    with pytest.raises(UsageError, match=rf"^model\.weights: timm has no pretrained weights for '{name}'"):
        require_buildable(Model(backbone=name))
