"""Weights files: what fits is loaded whatever its wrapping, what does not is named."""

import pickle

import pytest
import timm
import torch
from safetensors.torch import save_file

from protoseg_deploy.errors import UsageError
from protoseg_deploy.models.backbones import Backbone
from protoseg_deploy.models.weights import load_backbone_weights


@pytest.fixture(scope="module")
def weights():
    torch.manual_seed(5)
    return timm.create_model("resnet10t", pretrained=False).state_dict()


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "module.backbone.", "backbone.net."])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_usual_wrappings_are_understood(tmp_path, weights, prefix, wrapper):
    named = {prefix + name: tensor for name, tensor in weights.items()}
    torch.save({wrapper: named} if wrapper else named, tmp_path / "w.pth")
    backbone = Backbone("resnet10t")
    report = load_backbone_weights(backbone, tmp_path / "w.pth")
    assert torch.equal(backbone.net.state_dict()["layer4.0.conv1.weight"], weights["layer4.0.conv1.weight"])
    assert set(report.unused) == {"fc.weight", "fc.bias"}


@pytest.mark.parametrize(
    "name", ["convnext_atto", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "fastvit_t8"]
)
def test_renamed_modules_of_feature_pyramids_are_matched(tmp_path, name):
    full = timm.create_model(name, pretrained=False)
    save_file(full.state_dict(), tmp_path / "w.safetensors")
    backbone = Backbone(name)
    report = load_backbone_weights(backbone, tmp_path / "w.safetensors")
    assert report.loaded == len(backbone.net.state_dict())


def test_weights_of_another_backbone_are_refused_with_their_keys(tmp_path, weights):
    torch.save(weights, tmp_path / "w.pth")
    with pytest.raises(UsageError) as caught:
        load_backbone_weights(Backbone("mobilenetv3_small_050"), tmp_path / "w.pth")
    assert "missing (" in caught.value.message
    assert "unexpected (" in caught.value.message


def test_a_misshapen_tensor_is_named(tmp_path, weights):
    changed = dict(weights, **{"layer1.0.conv1.weight": torch.zeros(3, 3)})
    torch.save(changed, tmp_path / "w.pth")
    with pytest.raises(UsageError, match=r"layer1\.0\.conv1\.weight \(3, 3\) instead of"):
        load_backbone_weights(Backbone("resnet10t"), tmp_path / "w.pth")


def test_broken_files_are_refused_by_name(tmp_path, weights):
    torch.save(weights, tmp_path / "torn.pth")
    (tmp_path / "torn.pth").write_bytes((tmp_path / "torn.pth").read_bytes()[:5000])
    (tmp_path / "text.pth").write_text("hello")
    (tmp_path / "text.safetensors").write_text("hello")
    (tmp_path / "empty.pth").write_bytes(b"")
    torch.save({"epoch": 3}, tmp_path / "nothing.pth")
    for name in ("torn.pth", "text.pth", "text.safetensors", "empty.pth", "nothing.pth", "absent.pth"):
        with pytest.raises(UsageError, match=name.replace(".", r"\.")):
            load_backbone_weights(Backbone("resnet10t"), tmp_path / name)


class _Bomb:
    def __reduce__(self):
        return (exec, ("raise SystemExit('executed')",))


def test_nothing_in_a_file_is_executed(tmp_path):
    with (tmp_path / "bomb.pth").open("wb") as file:
        pickle.dump({"state_dict": _Bomb()}, file)
    with pytest.raises(UsageError, match=r"bomb\.pth"):
        load_backbone_weights(Backbone("resnet10t"), tmp_path / "bomb.pth")
