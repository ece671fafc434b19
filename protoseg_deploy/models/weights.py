"""Backbone weights from a file, whatever wrapping they come in."""

import pickle
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from protoseg_deploy.errors import UsageError
from protoseg_deploy.models.backbones import Backbone

_WRAPPERS = ("state_dict", "model", "model_ema", "teacher", "student", "module")
_PREFIXES = ("module.", "backbone.net.", "backbone.", "encoder.", "model.", "net.")


@dataclass(frozen=True)
class LoadReport:
    """What became of a weights file."""

    loaded: int
    unused: tuple[str, ...]
    """Keys of the file that the backbone has no place for, typically a classifier."""


def load_backbone_weights(backbone: Backbone, path: Path) -> LoadReport:
    """Fill a backbone from a ``.safetensors`` or ``.pth`` file; nothing in the file is executed.

    Keys may carry the usual prefixes (``module.``, ``backbone.``, …) or be timm's own, and may be wrapped in a
    ``state_dict`` or ``model`` entry.

    Raises:
        UsageError: the file cannot be read, or does not fit; the keys that are missing or misshapen are named.
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
        raise UsageError(
            f"model.weights: {path} does not fit {backbone.name}:\n" + "\n".join(faults),
            "Give weights of this very backbone, or set model.backbone to theirs.",
        )
    backbone.net.load_state_dict({wanted[name]: best[name] for name in wanted.keys() & best.keys()}, strict=False)
    return LoadReport(len(wanted.keys() & best.keys()), unused)


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UsageError(f"model.weights: no such file: {path}", "Give a .safetensors or .pth file, or `none`.")
    try:
        content: Any = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"model.weights: {path} is not a readable weights file: {first_line}",
            "It may be torn, or hold more than weights; only plain tensors are read.",
        ) from None
    for wrapper in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    tensors = (
        {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
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
    return ", ".join(listed[:shown]) + rest
