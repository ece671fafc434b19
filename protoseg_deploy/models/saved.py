"""Network files: safetensors weights that know what they are.

A run, a distilled student and a bundle all hold the same kind of file. Its header says how to build the network again
(backbone, decoder, classes, colours, input scale), so that no recipe and no data are needed to run it.

A file is held to its header before anything large is built: names, shapes and types of the tensors have to be those of
the network it describes, and every number has to be finite.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import ConfigDict, Field, TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from protoseg_deploy.documents import parse_document
from protoseg_deploy.errors import ProtosegError
from protoseg_deploy.files import open_regular, write_atomically
from protoseg_deploy.models.segmenter import Segmenter
from protoseg_deploy.models.tensor_checks import require_finite
from protoseg_deploy.recipe import ClassTable, ImageReading, Model

_HEADER_KEY = "protoseg_network"
_MOST_HEADER_BYTES = 4 * 2**20
"""Thousands of classes take less."""
_HINT = "Network files are written by `protoseg train` and `protoseg distill`."
_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64, "I64": torch.int64}
"""Names of types in safetensors that networks may have."""


@dataclass(frozen=True)
class NetworkSpec:
    """Everything besides the weights that decides what a network computes."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # an unknown field might change what the network computes

    model: Model
    classes: ClassTable
    input_scale: Annotated[float, Field(gt=0, le=4, allow_inf_nan=False)] = 1.0
    ignore_index: Annotated[int, Field(ge=0, le=255)] = 255
    provenance: dict[str, Any] = field(default_factory=dict)
    """Where the weights come from: run, step, method, mIoU; informative."""
    reading: ImageReading = field(default_factory=ImageReading)
    """How image files become what it was trained on."""


_SPEC = TypeAdapter(NetworkSpec)
_BEFORE = {"separable": False, "decoder_channels": 256}
"""Of networks whose header does not say: there was no such key, or another default."""


def build_segmenter(spec: NetworkSpec, *, pretrained: bool = False) -> Segmenter:
    """The network of a spec; weights random unless `pretrained`."""
    return Segmenter(spec.model, len(spec.classes), binary=spec.classes.binary, pretrained=pretrained)


def save_network(path: Path, weights: Mapping[str, Tensor], spec: NetworkSpec) -> None:
    """Write weights and header, atomically: a reader sees the old file or the new one.

    Raises:
        NotFiniteError: a tensor holds NaN or infinity; an earlier file is left as it was.
    """
    require_finite(weights, path, "Nothing was written. Lower train.lr, or set train.clip_grad_norm=1.")
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
        ProtosegError: the file is missing, torn, no network file, or its weights are not those of the network that its
            header describes.
        NotFiniteError: a tensor holds NaN or infinity.
    """
    spec = read_network_spec(path)
    try:
        with safe_open(path, framework="pt") as file:
            _require_fit(path, file, spec)
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise ProtosegError(f"{path} is damaged: {error}", _HINT) from None
    require_finite(weights, path, "Train it again, or use an earlier network of its run.")
    segmenter = build_segmenter(spec)
    segmenter.load_state_dict(weights)
    return segmenter.eval(), spec


def read_network_spec(path: Path) -> NetworkSpec:
    """The header of a network file, without its weights.

    Raises:
        ProtosegError: the file is missing, torn or no network file, or its header describes no network.
    """
    try:
        open_regular(path).close()
    except FileNotFoundError:
        raise ProtosegError(f"no network file at {path}") from None
    except OSError as error:
        raise ProtosegError(f"cannot read {path}: {error.strerror or error}") from None
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(_HEADER_KEY)
    except SafetensorError as error:
        raise ProtosegError(f"{path} is not a network file of this program, or is damaged: {error}", _HINT) from None
    if header is None or len(header) > _MOST_HEADER_BYTES:
        why = "it does not say what network it holds" if header is None else "its header is too large"
        raise ProtosegError(f"{path} is not a network file of this program: {why}", _HINT)
    spec = parse_document(header, f"the header of {path}", _SPEC, _HINT)
    fault = spec.classes.fault()
    if fault is not None:
        raise ProtosegError(f"the header of {path} is damaged or of another version: classes: {fault}", _HINT)
    earlier = {key: value for key, value in _BEFORE.items() if key not in spec.model.model_fields_set}
    return replace(spec, model=spec.model.model_copy(update=earlier))


def _require_fit(path: Path, file: Any, spec: NetworkSpec) -> None:
    """Compare what a file holds with what its header describes, before memory is taken for either.

    Raises:
        ProtosegError: names, shapes or types of tensors differ; the first ones are named.
    """
    found = {}
    for name in file.keys():  # noqa: SIM118 (not a dict)
        part = file.get_slice(name)
        found[name] = (tuple(part.get_shape()), part.get_dtype())
    expected = _planned(path, spec, len(found))
    faults = {
        "missing": expected.keys() - found.keys(),
        "unexpected": found.keys() - expected.keys(),
        "of another shape": {
            f"{name} {found[name][0]} instead of {tuple(tensor.shape)}"
            for name, tensor in expected.items()
            if name in found and found[name][0] != tuple(tensor.shape)
        },
        "of another type": {
            f"{name} {found[name][1]} instead of {str(tensor.dtype).removeprefix('torch.')}"
            for name, tensor in expected.items()
            if name in found and _DTYPES.get(found[name][1]) != tensor.dtype
        },
    }
    lines = [f"  {kind} ({len(names)}): {_few(names)}" for kind, names in faults.items() if names]
    if lines:
        raise ProtosegError("\n".join([f"{path}: the weights do not fit the network they name:", *lines]), _HINT)


def _planned(path: Path, spec: NetworkSpec, tensors: int) -> dict[str, Tensor]:
    """Names, shapes and types of the tensors of a network, none of which takes memory.

    Args:
        path: for messages.
        spec: of the network.
        tensors: how many the file holds: a header cannot ask for more layers.
    """
    wide = max(spec.model.decoder_channels or 0, spec.model.low_level_channels) > path.stat().st_size
    if wide or len(spec.model.aspp_dilations or ()) > tensors:
        raise ProtosegError(f"{path}: its header describes a larger network than the file holds", _HINT)
    try:
        with torch.device("meta"):
            return build_segmenter(spec).state_dict()
    except ProtosegError as error:
        raise ProtosegError(f"{path}: its header describes no network: {error.message}", error.hint) from None
    except (RuntimeError, TypeError, ValueError) as error:  # sizes beyond what a tensor can have
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise ProtosegError(f"{path}: its header describes no network: {first_line}", _HINT) from None


def _few(names: Iterable[str], shown: int = 3) -> str:
    listed = sorted(names)
    rest = f", … {len(listed) - shown} more" if len(listed) > shown else ""
    return ", ".join(name[:120] for name in listed[:shown]) + rest


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
