"""Weights files that people find: what fits is loaded, anything else is named, and nothing in a file is run."""

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from protoseg_deploy.models import build_segmenter
from tests.corpus.judging import Case, Place
from tests.corpus.kits import recipe_tree, spec, write_recipe
from tests.corpus.launching import Ended
from tests.corpus.spoiling import flipped

Weights = dict[str, torch.Tensor]


def plain() -> Weights:
    """Weights of the recipe's backbone, as timm names them."""
    torch.manual_seed(1)
    return dict(build_segmenter(spec()).backbone.net.state_dict())


def _train(file: str, write: Callable[[Path], object]) -> Callable[[Place], list[object]]:
    def make(place: Place) -> list[object]:
        write(place / file)
        recipe = write_recipe(place / "mine.yaml", recipe_tree(place.kits.data()))
        run = place.output("run")
        return ["train", recipe, "--run", run, f"model.weights={file}", "train.steps=1"]

    return make


def _is_trained(place: Place, ended: Ended) -> None:
    with safe_open(place / "run" / "last.safetensors", framework="pt") as file:
        assert all(file.get_tensor(name).isfinite().all() for name in file.keys())  # noqa: SIM118


def loads(name: str, content: Callable[[], Any], file: str = "w.pth") -> Case:
    save = save_file if file.endswith(".safetensors") else torch.save
    return Case(name, _train(file, lambda path: save(content(), path)), right=_is_trained, must_pass=True)


def either(name: str, content: Callable[[], Any], file: str = "w.pth") -> Case:
    save = save_file if file.endswith(".safetensors") else torch.save
    return Case(name, _train(file, lambda path: save(content(), path)), (file,), right=_is_trained)


def refuses(name: str, content: Callable[[], Any], file: str = "w.pth") -> Case:
    save = save_file if file.endswith(".safetensors") else torch.save
    return Case(name, _train(file, lambda path: save(content(), path)), (file,))


def file_is(name: str, write: Callable[[Path], object], file: str = "w.pth") -> Case:
    return Case(name, _train(file, write), (file,))


def _cast(dtype: torch.dtype) -> Callable[[], Weights]:
    return lambda: {n: tensor.to(dtype) if tensor.is_floating_point() else tensor for n, tensor in plain().items()}


def _filled(value: float) -> Callable[[], Weights]:
    def content() -> Weights:
        weights = plain()
        first = next(name for name, tensor in weights.items() if tensor.ndim == 4)
        weights[first].view(-1)[0] = value
        return weights

    return content


def _quantised() -> Weights:
    first, tensor = next((name, tensor) for name, tensor in plain().items() if tensor.ndim == 4)
    return plain() | {first: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8)}


def _shaped(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[], Weights]:
    def content() -> Weights:
        first, tensor = next((name, tensor) for name, tensor in plain().items() if tensor.ndim == 4)
        return plain() | {first: change(tensor)}

    return content


class _Command:
    """What a hostile pickle runs when it is read."""

    def __reduce__(self) -> Any:
        return os.system, ("touch pwned",)


def _endless() -> dict[str, Any]:
    content: dict[str, Any] = {}
    content["model"] = content
    return content


def _deep() -> Any:
    content: Any = plain()
    for _ in range(200):
        content = {"model": content}
    return content


def _saved(path: Path) -> bytes:
    torch.save(plain(), path)
    return path.read_bytes()


def _cut(size: int) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(_saved(path)[:size])


def _flip(seed: int) -> Callable[[Path], object]:
    """Bits of the pickle inside the archive flipped, checksums made right."""

    def write(path: Path) -> None:
        torch.save(plain(), path)
        with zipfile.ZipFile(path) as archive:
            entries = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in entries:
                archive.writestr(name, flipped(content, seed, 3) if name.endswith("data.pkl") else content)

    return write


FIT = [
    loads("plain", plain),
    loads("safetensors", plain, "w.safetensors"),
    loads("wrapped", lambda: {"epoch": 3, "state_dict": plain()}),
    loads("prefixes", lambda: {f"module.backbone.{name}": tensor for name, tensor in plain().items()}),
    loads("more-than-is-needed", lambda: plain() | {"fc.weight": torch.zeros(3, 3)}),
    loads("half", _cast(torch.float16)),
    either("bfloat16", _cast(torch.bfloat16), "w.safetensors"),
    either("double", _cast(torch.float64)),
    either("with-numbers-beside", lambda: plain() | {"epoch": 3, "args": {"lr": 0.1}}),
    either("a-pickle-of-old", lambda: plain()),
]
MISFITS = [
    refuses("empty-map", dict),
    refuses("a-list", lambda: list(plain().values())),
    refuses("a-tensor", lambda: torch.zeros(3)),
    refuses("a-number", lambda: 5),
    refuses("nothing", lambda: None),
    refuses("one-missing", lambda: dict(list(plain().items())[1:])),
    refuses("of-another-network", lambda: {"a.weight": torch.zeros(3, 3)}),
    refuses("keys-of-numbers", lambda: dict(enumerate(plain().values()))),
    refuses("keys-of-markup", lambda: {f"[/red]{name}": tensor for name, tensor in plain().items()}),
    refuses("wrapped-around-itself", _endless),
    refuses("wrapped-200-times", _deep),
    refuses("values-of-text", lambda: dict.fromkeys(plain(), "weight")),
    refuses("nan", _filled(float("nan"))),
    refuses("infinite", _filled(float("inf"))),
    refuses("nan-safetensors", _filled(float("nan")), "w.safetensors"),
    refuses("integers", _cast(torch.int32)),
    refuses("bytes", _cast(torch.int8)),
    refuses("booleans", _cast(torch.bool)),
    refuses("complex", _cast(torch.complex64)),
    refuses("integers-safetensors", _cast(torch.int32), "w.safetensors"),
    refuses("quantised", _quantised),
    refuses("of-no-memory", lambda: {name: tensor.to("meta") for name, tensor in plain().items()}),
    refuses("sparse", _shaped(lambda tensor: tensor.to_sparse())),
    refuses("a-channel-less", _shaped(lambda tensor: tensor[:-1])),
    refuses("without-axes", _shaped(lambda tensor: tensor.sum())),
    refuses("empty-tensor", _shaped(lambda tensor: tensor[:0])),
    refuses("a-whole-module", lambda: build_segmenter(spec())),
    refuses("hostile", lambda: {"state_dict": _Command()}),
]
FILES = [
    file_is("missing", lambda path: None),
    file_is("empty", lambda path: path.write_bytes(b"")),
    file_is("text", lambda path: path.write_bytes(b"no weights")),
    file_is("page-of-a-web-server", lambda path: path.write_bytes(b"<!DOCTYPE html><html>404</html>")),
    file_is("folder", Path.mkdir),
    file_is("named-pipe", os.mkfifo),
    file_is("link-to-a-device", lambda path: path.symlink_to("/dev/zero")),
    file_is("safetensors-named-pipe", os.mkfifo, "w.safetensors"),
    file_is("safetensors-cut", lambda path: (save_file(plain(), path), os.truncate(path, 5000)), "w.safetensors"),
    file_is("safetensors-folder", Path.mkdir, "w.safetensors"),
    file_is("pickle-called-safetensors", lambda path: torch.save(plain(), path), "w.safetensors"),
    file_is("safetensors-called-pickle", lambda path: save_file(plain(), path)),
    file_is("a-plain-pickle", lambda path: path.write_bytes(pickle.dumps({"a": [1, 2]}))),
    file_is("a-hostile-pickle", lambda path: path.write_bytes(pickle.dumps(_Command()))),
    file_is("a-pickle-without-end", lambda path: path.write_bytes(b"\x80\x02" + b"]" * 50_000)),
    file_is("a-pickle-of-marks", lambda path: path.write_bytes(b"\x80\x02" + b"(" * 50_000 + b".")),
    file_is("a-pickle-of-noise", lambda path: path.write_bytes(b"\x80\x02" + bytes(range(256)))),
    file_is("a-pickle-that-takes-from-nothing", lambda path: path.write_bytes(b"\x80\x020.")),
    file_is("a-pickle-with-memory-of-billions", lambda path: path.write_bytes(b"\x80\x02j\xff\xff\xff\xff.")),
    file_is("an-archive-of-nothing", lambda path: zipfile.ZipFile(path, "w").close()),
    *(file_is(f"cut-to-{size}", _cut(size)) for size in (10, 1000, 50_000)),
    *(file_is(f"bits-flipped-{seed}", _flip(seed)) for seed in range(4)),
]


@pytest.mark.parametrize("case", [*FIT, *MISFITS, *FILES], ids=lambda case: case.name)
def test_weights(case: Case, try_case: Callable[[Case], Ended]) -> None:
    assert try_case(case).code in case.codes
