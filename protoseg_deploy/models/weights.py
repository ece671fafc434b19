"""Backbone weights from a file, whatever wrapping they come in."""

import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from protoseg_deploy.errors import UsageError
from protoseg_deploy.files import open_regular
from protoseg_deploy.models.backbones import Backbone
from protoseg_deploy.models.tensor_checks import first_fault

_WRAPPERS = ("state_dict", "model", "model_ema", "teacher", "student", "module")
_PREFIXES = ("module.", "backbone.net.", "backbone.", "encoder.", "model.", "net.")
_READABLE = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
"""Types of weights that become float32 without a scale of their own, which integers and 8-bit floats would need."""
_HINT = "Give weights of this very backbone, or set model.backbone to theirs."


@dataclass(frozen=True)
class LoadReport:
    """What became of a weights file."""

    loaded: int
    unused: tuple[str, ...]
    """Keys of the file that the backbone has no place for, typically a classifier."""
    cast: tuple[str, ...] = ()
    """Types other than float32 that were cast to it, such as ``float16``."""


def load_backbone_weights(backbone: Backbone, path: Path) -> LoadReport:
    """Fill a backbone from a ``.safetensors`` or ``.pth`` file; nothing in the file is executed.

    Keys may carry the usual prefixes (``module.``, ``backbone.``, …) or be timm's own, and may be wrapped in a
    ``state_dict`` or ``model`` entry. Weights are float32, float16, bfloat16 or float64.

    Raises:
        UsageError: the file cannot be read, or does not fit; the keys that are missing, misshapen, of a type that holds
            no weights or not finite are named.
    """
    weights = _read(path)
    wanted = {_canonical(name): name for name in backbone.net.state_dict()}
    best = max((_stripped(weights, prefix) for prefix in _prefix_chains(weights)), key=lambda w: len(wanted.keys() & w))
    optional = {name for name in wanted if name.endswith("num_batches_tracked")}
    current = backbone.net.state_dict()
    missing = sorted(wanted[name] for name in wanted.keys() - best.keys() - optional)
    misshapen = sorted(
        f"{wanted[name]} {tuple(best[name].shape)} instead of {tuple(current[wanted[name]].shape)}"
        for name in wanted.keys() & best.keys()
        if best[name].shape != current[wanted[name]].shape
    )
    unused = tuple(sorted(best.keys() - wanted.keys()))
    if missing or misshapen:
        faults = []
        if missing:
            faults.append(f"  missing ({len(missing)} of {len(wanted)}): {_few(missing)}")
        if misshapen:
            faults.append(f"  of another shape ({len(misshapen)}): {_few(misshapen)}")
        if unused:
            faults.append(f"  unexpected ({len(unused)}): {_few(unused)}")
        raise UsageError(f"model.weights: {path} does not fit {backbone.name}:\n" + "\n".join(faults), _HINT)
    chosen = {wanted[name]: best[name] for name in wanted.keys() & best.keys()}
    cast = _require_plain(path, chosen, current)
    weights = {name: tensor.to(current[name].dtype) for name, tensor in chosen.items()}
    fault = first_fault(weights)
    if fault is not None:
        raise UsageError(f"model.weights: {path}: {fault}", "It was saved by a training that had diverged, or damaged.")
    backbone.net.load_state_dict(weights, strict=False)
    return LoadReport(len(weights), unused, cast)


def _require_plain(path: Path, chosen: dict[str, Tensor], current: dict[str, Tensor]) -> tuple[str, ...]:
    """Types to be cast to float32, after refusing tensors that a cast would turn into other numbers than were meant."""
    faults = []
    cast = set()
    for name in sorted(chosen):
        tensor = chosen[name]
        floating = current[name].is_floating_point()
        kind = str(tensor.dtype).removeprefix("torch.")
        if tensor.is_quantized or tensor.layout != torch.strided or tensor.is_meta:
            kind = "quantised" if tensor.is_quantized else "without data" if tensor.is_meta else "sparse or nested"
            faults.append(f"{name} is {kind}")
        elif floating and tensor.dtype not in _READABLE:
            faults.append(f"{name} is {kind}")
        elif not floating and (tensor.is_floating_point() or tensor.is_complex()):
            faults.append(f"{name} is {kind} instead of {str(current[name].dtype).removeprefix('torch.')}")
        elif floating and tensor.dtype != torch.float32:
            cast.add(kind)
    if faults:
        raise UsageError(
            f"model.weights: {path} holds tensors that are no weights ({len(faults)}): {_few(faults)}",
            "Weights are dense tensors of float32, float16, bfloat16 or float64: convert the file first.",
        )
    return tuple(sorted(cast))


def require_weights_file(path: Path) -> None:
    """Find out whether there is a file to read weights from.

    Raises:
        UsageError: it is missing, no file, or not readable.
    """
    try:
        open_regular(path).close()
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error.strerror or str(error)
        raise UsageError(
            f"model.weights: {path}: {reason}", "Give a .safetensors or .pth file, `pretrained` or `none`."
        ) from None


def _read(path: Path) -> dict[str, Tensor]:
    require_weights_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch says to its developers about old formats
            content: Any = (
                load_file(path)
                if path.suffix == ".safetensors"
                else torch.load(path, map_location="cpu", weights_only=True)
            )
    except Exception as error:  # damaged archives and pickles make the two libraries raise whatever they stumble over
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"model.weights: {path} is not a readable weights file: {first_line[:300]}",
            "It may be torn, or hold more than weights; only plain tensors are read.",
        ) from None
    for wrapper in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    tensors = (
        {
            key: value
            for key, value in content.items()
            if isinstance(key, str) and isinstance(value, Tensor) and not value.is_nested
        }
        if isinstance(content, dict)
        else {}
    )
    if not tensors:
        raise UsageError(f"model.weights: {path} holds no weights")
    return tensors


def _prefix_chains(weights: dict[str, Tensor]) -> Iterable[str]:
    """Prefixes that all or most keys may share, the empty one first."""
    yield ""
    chains = [""]
    for _ in range(3):
        chains = [
            chain + prefix
            for chain in chains
            for prefix in _PREFIXES
            if any(key.startswith(chain + prefix) for key in weights)
        ]
        yield from chains


def _stripped(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {_canonical(key[len(prefix) :]): value for key, value in weights.items() if key.startswith(prefix)}


def _canonical(name: str) -> str:
    """timm's feature wrappers rename modules: ``stages.0`` becomes ``stages_0``, a ViT moves below ``model.``."""
    return re.sub(r"^([a-z]+)_(\d+)\.", r"\1.\2.", name.removeprefix("model."))


def _few(names: Iterable[str], shown: int = 5) -> str:
    listed = list(names)
    rest = f" … and {len(listed) - shown} more" if len(listed) > shown else ""
    return ", ".join(name[:120] for name in listed[:shown]) + rest
