"""Numbers no network can compute with: NaN, infinity, negative variances."""

from collections.abc import Mapping

import torch
from torch import Tensor

from protoseg_deploy.errors import ProtosegError


class NotFiniteError(ProtosegError):
    """A network holds NaN or infinity: all of its class maps would be wrong, and equally so in every runtime."""


def first_fault(tensors: Mapping[str, Tensor]) -> str | None:
    """What is wrong with the first tensor that is unusable: its name, and how many NaN and infinities it holds.

    Args:
        tensors: weights and buffers of any type and device. Integers always pass; a ``running_var`` of batch
            normalisation must not be negative either, for its root is taken.

    Returns:
        None where all numbers are usable.
    """
    floats = {name: tensor.detach() for name, tensor in tensors.items() if tensor.is_floating_point()}
    if not floats:
        return None
    # One wait for the device instead of one a tensor.
    usable = torch.stack([_usable(name, tensor).cpu() for name, tensor in floats.items()])
    if bool(usable.all()):
        return None
    name = list(floats)[int(usable.logical_not().nonzero()[0])]
    return f"{name} holds {_describe(floats[name])}"


def require_finite(tensors: Mapping[str, Tensor], source: object, hint: str) -> None:
    """Refuse weights that are not finite.

    Args:
        tensors: as in `first_fault`.
        source: the file or the network they belong to, for the message.
        hint: what to do.

    Raises:
        NotFiniteError: the first offending tensor is named.
    """
    fault = first_fault(tensors)
    if fault is not None:
        raise NotFiniteError(f"{source}: the network cannot be used: {fault}", hint)


def _usable(name: str, tensor: Tensor) -> Tensor:
    usable = torch.isfinite(tensor).all()
    return usable & (tensor >= 0).all() if name.endswith("running_var") else usable


def _describe(tensor: Tensor) -> str:
    counts = {
        "NaN": int(torch.isnan(tensor).sum()),
        "infinity": int(torch.isinf(tensor).sum()),
    }
    found = ", ".join(f"{kind} ({count} of {tensor.numel()} numbers)" for kind, count in counts.items() if count)
    return found or f"negative variances ({int((tensor < 0).sum())} of {tensor.numel()} numbers)"
