"""Network files: safetensors weights that know what they are.

A run, a distilled student and a bundle all hold the same kind of file. Its header says how to build the network again
(backbone, decoder, classes, colours, input scale), so that no recipe and no data are needed to run it.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from protoseg_deploy.errors import ProtosegError
from protoseg_deploy.files import write_atomically
from protoseg_deploy.models.segmenter import Segmenter
from protoseg_deploy.recipe import ClassTable, ImageReading, Model

_HEADER_KEY = "protoseg_network"


@dataclass(frozen=True)
class NetworkSpec:
    """Everything besides the weights that decides what a network computes."""

    model: Model
    classes: ClassTable
    input_scale: float = 1.0
    ignore_index: int = 255
    provenance: dict[str, Any] = field(default_factory=dict)
    """Where the weights come from: run, step, method, mIoU; informative."""
    reading: ImageReading = field(default_factory=ImageReading)
    """How image files become what it was trained on."""


def build_segmenter(spec: NetworkSpec, *, pretrained: bool = False) -> Segmenter:
    """The network of a spec; weights random unless `pretrained`."""
    return Segmenter(spec.model, len(spec.classes), binary=spec.classes.binary, pretrained=pretrained)


def save_network(path: Path, weights: Mapping[str, Tensor], spec: NetworkSpec) -> None:
    """Write weights and header, atomically: a reader sees the old file or the new one."""
    header = {
        **asdict(spec),
        "model": spec.model.model_dump(mode="json"),
        "reading": spec.reading.model_dump(mode="json"),
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    write_atomically(path, save(tensors, metadata={_HEADER_KEY: json.dumps(header)}))


def load_network(path: Path) -> tuple[Segmenter, NetworkSpec]:
    """Read a network file; the network is in eval mode on the CPU.

    Raises:
        ProtosegError: the file is missing, torn, or no network file.
    """
    spec = read_network_spec(path)
    segmenter = build_segmenter(spec)
    try:
        with safe_open(path, framework="pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        segmenter.load_state_dict(weights)
    except (SafetensorError, RuntimeError) as error:
        raise ProtosegError(f"{path}: the weights do not fit the network they name: {error}") from None
    return segmenter.eval(), spec


def read_network_spec(path: Path) -> NetworkSpec:
    """The header of a network file, without its weights."""
    if not path.is_file():
        raise ProtosegError(f"no network file at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})[_HEADER_KEY])
        return TypeAdapter(NetworkSpec).validate_python(header)
    except (SafetensorError, KeyError, json.JSONDecodeError, ValidationError) as error:
        raise ProtosegError(
            f"{path} is not a network file of this program, or is damaged: {error}",
            "Network files are written by `protoseg train` and `protoseg distill`.",
        ) from None


def save_prototypes(path: Path, prototypes: Tensor) -> None:
    """Write a bank ``[C,K,D]`` beside a network; it never becomes part of one."""
    write_atomically(path, save({"prototypes": prototypes.detach().cpu().contiguous()}))


def load_prototypes(path: Path) -> Tensor:
    """Read what `save_prototypes` wrote.

    Raises:
        ProtosegError: the file is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return file.get_tensor("prototypes")  # type: ignore[no-any-return]
    except FileNotFoundError:
        raise ProtosegError(f"no prototypes at {path}", "The run was trained without the prototype branch.") from None
    except SafetensorError as error:
        raise ProtosegError(f"{path} is not a prototype file, or is damaged: {error}") from None


def count_parameters(segmenter: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in segmenter.parameters())
