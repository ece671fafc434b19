"""What a checkpoint has to hold before a run takes it up."""

from pathlib import Path
from typing import Any

from torch import Tensor

from protoseg_deploy.models.tensor_checks import first_fault

_KINDS: dict[str, type | tuple[type, ...]] = {
    "step": int,
    "student": dict,
    "teacher": (dict, type(None)),
    "method": dict,
    "optimizer": dict,
    "schedule": dict,
    "scaler": dict,
    "best": dict,
    "latest": dict,
    "seconds": (int, float),
    "random": list,
}
_WORDS = {int: "a number", float: "a number", dict: "a map", list: "a list", type(None): "nothing"}


def require_state(state: object, path: Path) -> None:
    """Refuse a file that no run of this program has written as its checkpoint.

    Args:
        state: what the file holds.
        path: its name says the step.

    Raises:
        ValueError: the reason, on one line.
    """
    if not isinstance(state, dict):
        raise ValueError("it holds no state of a run")
    for key, kinds in _KINDS.items():
        if key not in state:
            raise ValueError(f"it holds no state of a run: `{key}` is missing")
        if not isinstance(state[key], kinds) or isinstance(state[key], bool):
            first = kinds if isinstance(kinds, type) else kinds[0]
            raise ValueError(f"it holds no state of a run: `{key}` is not {_WORDS[first]}")
    if not isinstance(state.get("method_name", ""), str):
        raise ValueError("it holds no state of a run: `method_name` is no name")
    if path.stem != f"step-{state['step']:08d}":
        raise ValueError(f"it is of step {state['step']}")
    _require_weights(state["student"])


def _require_weights(weights: dict[Any, Any]) -> None:
    for name, tensor in weights.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise ValueError("the network in it is not made of tensors")
    fault = first_fault(weights)
    if fault is not None:
        raise ValueError(f"the network in it cannot be used: {fault}")
