"""Network files: one that is not what its header says, or that no network can compute with, is one error."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from protoseg_deploy.errors import ProtosegError
from protoseg_deploy.models import NetworkSpec, build_segmenter, load_network, read_network_spec, save_network
from protoseg_deploy.models.tensor_checks import NotFiniteError
from protoseg_deploy.recipe import ClassTable, Model

SPEC = NetworkSpec(
    Model(backbone="test_resnet", weights="none", decoder="lraspp", decoder_channels=16),
    ClassTable(("a", "b", "c"), ((0, 0, 0), (255, 0, 0), (0, 255, 0))),
    provenance={"step": 3, "miou_percent": float("nan")},
)


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return build_segmenter(SPEC).state_dict()


@pytest.fixture
def network(weights: dict[str, torch.Tensor], tmp_path: Path) -> Path:
    save_network(tmp_path / "network.safetensors", weights, SPEC)
    return tmp_path / "network.safetensors"


def rewrite(path: Path, tensors: dict[str, torch.Tensor] | None = None, **changes: object) -> None:
    """Change tensors or fields of the header; a field given as ``{key: value}`` is merged."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["protoseg_network"])
    for key, value in changes.items():
        header[key] = {**header[key], **value} if isinstance(value, dict) else value
    save_file({**load_file(path), **(tensors or {})}, path, {"protoseg_network": json.dumps(header)})


def test_a_network_comes_back_as_it_was_saved(network: Path, weights: dict[str, torch.Tensor]) -> None:
    loaded, spec = load_network(network)
    assert (spec.model, spec.classes) == (SPEC.model, SPEC.classes)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in loaded.state_dict().items())
    assert not loaded.training


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"input_scale": float("inf")}, "input_scale"),
        ({"input_scale": float("nan")}, "input_scale"),
        ({"input_scale": 0}, "input_scale"),
        ({"input_scale": 1e9}, "input_scale"),
        ({"ignore_index": -1}, "ignore_index"),
        ({"ignore_index": 10**30}, "ignore_index"),
        ({"surprise": 1}, "surprise"),
        ({"classes": {"colors": []}}, "0 colours for 3 names"),
        ({"classes": {"colors": [[0, 0, 256]] * 3}}, "classes.colors"),
        ({"classes": {"names": ["a"], "colors": [[0, 0, 0]]}}, "1 of at least 2"),
        ({"classes": {"binary": True}}, "binary, and 3 names"),
        ({"classes": {"names": ["a", "b"], "colors": [[0, 0, 0], [1, 1, 1]]}}, "head.weight (3, "),
        ({"model": {"decoder_channels": 65_536}}, "do not fit the network they name"),
        ({"model": {"decoder_channels": 10**30}}, "model.decoder_channels"),
        ({"model": {"decoder": "deeplabv3plus", "aspp_dilations": [1] * 10**5}}, "aspp_dilations"),
        ({"model": {"decoder_channels": 24}}, "do not fit the network they name"),
        ({"model": {"decoder": "unet"}}, "model.decoder"),
        ({"model": {"backbone": "no_such_model"}}, "no_such_model"),
        ({"model": {"backbone": "resnet10t"}}, "do not fit the network they name"),
    ],
)
def test_a_header_that_lies_is_one_error(network: Path, changes: dict[str, object], words: str) -> None:
    rewrite(network, **changes)
    with pytest.raises(ProtosegError) as caught:
        load_network(network)
    assert words in caught.value.message


@pytest.mark.parametrize(
    "header", ["[" * 100_000, '{"model": ' * 5000, "null", "[]", "{}", "\x00", '{"model": 1e999}', " " * 5_000_000]
)
def test_a_header_of_another_shape_is_one_error(network: Path, header: str) -> None:
    save_file(load_file(network), network, {"protoseg_network": header})
    with pytest.raises(ProtosegError, match=r"network\.safetensors"):
        read_network_spec(network)


def test_tensors_of_other_names_shapes_and_types(network: Path, weights: dict[str, torch.Tensor]) -> None:
    name = "head.weight"
    for tensor, words in (
        (weights[name].int(), "head.weight I32 instead of float32"),
        (weights[name].half(), "head.weight F16 instead of float32"),
        (weights[name].double(), "head.weight F64 instead of float32"),
        (weights[name] > 0, "head.weight BOOL instead of float32"),
        (weights[name][:2].clone(), "head.weight (2, "),
        (weights[name][..., 0].clone(), "head.weight (3, "),
    ):
        rewrite(network, {name: tensor})
        with pytest.raises(ProtosegError) as caught:
            load_network(network)
        assert words in caught.value.message
    rewrite(network, {name: weights[name], "extra": torch.zeros(1)})
    with pytest.raises(ProtosegError, match=r"unexpected \(1\): extra"):
        load_network(network)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("kind", ["running_var", "running_mean", "head.bias"])
def test_one_number_that_is_not_finite(network: Path, kind: str, value: float) -> None:
    """Neither written nor loaded, and the tensor is named."""
    weights = load_file(network)
    name = next(name for name in weights if name.endswith(kind))
    weights[name][0] = value
    before = network.read_bytes()
    with pytest.raises(NotFiniteError) as caught:
        save_network(network, weights, SPEC)
    assert name in caught.value.message
    assert network.read_bytes() == before
    rewrite(network, weights)
    with pytest.raises(NotFiniteError) as caught:
        load_network(network)
    assert name in caught.value.message
    assert network.name in caught.value.message


def test_a_torn_file_and_what_is_no_file(network: Path, tmp_path: Path) -> None:
    content = network.read_bytes()
    for length in (0, 7, 8, 100, len(content) // 2, len(content) - 1):
        network.write_bytes(content[:length])
        with pytest.raises(ProtosegError, match=r"network\.safetensors"):
            load_network(network)
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(ProtosegError, match="a named pipe"):
        load_network(tmp_path / "pipe.safetensors")
    with pytest.raises(ProtosegError, match="no network file at"):
        load_network(tmp_path / "absent.safetensors")
