"""Weights files: what fits is loaded whatever its wrapping, what does not is named."""

import os
import pickle
import random

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


def with_tensor(weights, tensor):
    return {**weights, "layer1.0.conv1.weight": tensor}


def odd_tensors(tensor):
    """Of the right name and shape, but no weights: (tensor, words of the error)."""
    return {
        "int8": (tensor.to(torch.int8), "is int8"),
        "bool": (tensor > 0, "is bool"),
        "int64": (tensor.long(), "is int64"),
        "complex": (tensor.to(torch.complex64), "is complex64"),
        "float8": (tensor.to(torch.float8_e4m3fn), "is float8_e4m3fn"),
        "sparse": (tensor.to_sparse(), "is sparse"),
        "meta": (tensor.to("meta"), "is without data"),
        "nan": (torch.full_like(tensor, float("nan")), "holds NaN"),
        "inf": (torch.full_like(tensor, float("-inf")), "holds infinity"),
        "too large for float32": (torch.full_like(tensor, 1e300, dtype=torch.float64), "holds infinity"),
    }


def test_tensors_that_are_no_weights_are_refused_by_name(tmp_path, weights):
    for kind, (tensor, words) in odd_tensors(weights["layer1.0.conv1.weight"]).items():
        path = tmp_path / f"{kind}.pth"
        torch.save(with_tensor(weights, tensor), path)
        backbone = Backbone("resnet10t")
        before = backbone.net.state_dict()["layer1.0.conv1.weight"].clone()
        with pytest.raises(UsageError) as caught:
            load_backbone_weights(backbone, path)
        assert path.name in caught.value.message
        assert "layer1.0.conv1.weight " + words in caught.value.message
        assert torch.equal(backbone.net.state_dict()["layer1.0.conv1.weight"], before)


def test_a_negative_variance_is_refused(tmp_path, weights):
    torch.save({**weights, "bn1.running_var": -weights["bn1.running_var"]}, tmp_path / "w.pth")
    with pytest.raises(UsageError, match=r"bn1\.running_var holds negative variances"):
        load_backbone_weights(Backbone("resnet10t"), tmp_path / "w.pth")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_types_are_cast_and_named(tmp_path, weights, dtype):
    torch.save({name: tensor.to(dtype) for name, tensor in weights.items()}, tmp_path / "w.pth")
    backbone = Backbone("resnet10t")
    with pytest.raises(UsageError, match="num_batches_tracked is"):  # counters are no floating-point numbers
        load_backbone_weights(backbone, tmp_path / "w.pth")
    cast = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    torch.save(cast, tmp_path / "w.pth")
    report = load_backbone_weights(backbone, tmp_path / "w.pth")
    assert report.cast == (str(dtype).removeprefix("torch."),)
    loaded = backbone.net.state_dict()["conv1.0.weight"]
    assert loaded.dtype == torch.float32
    assert torch.equal(loaded, weights["conv1.0.weight"].to(dtype).float())


@pytest.mark.parametrize("seed", range(12))
def test_a_damaged_pickle_is_one_error(tmp_path, weights, seed):
    """Bytes changed inside the archive's pickle, which passes for one until it is read."""
    path = tmp_path / "w.pth"
    torch.save(weights, path, _use_new_zipfile_serialization=False)
    content = bytearray(path.read_bytes())
    generator = random.Random(seed)
    for _ in range(40):
        content[generator.randrange(60, 3000)] = generator.randrange(256)
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"w\.pth"):
        load_backbone_weights(Backbone("resnet10t"), path)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "w.pth")
    with pytest.raises(UsageError, match="a named pipe"):
        load_backbone_weights(Backbone("resnet10t"), tmp_path / "w.pth")
