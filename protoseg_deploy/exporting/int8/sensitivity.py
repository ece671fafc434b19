"""Which parts of a network suffer from int8, and how few of them have to stay in float32.

Two measures, a cheap one to rank and the real one to decide. Ranking: one part at a time is quantised, and the noise
this adds to the logits of a few images is set against the logits themselves (signal to quantisation noise, in
decibels). So the harm is measured where it counts, after the rest of the network has passed it on. Deciding: the worst
1, 2, 4, … parts are put back into float32 until the mIoU is good enough, then the number is narrowed down by halving.
Every decision is a measured mIoU; for n parts it takes about 2 log2(n) of them rather than one for each part.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from protoseg_deploy.errors import ProtosegError
from protoseg_deploy.exporting.int8.plan import Int8Plan
from protoseg_deploy.runtimes.base import UInt8Array

Build = Callable[[frozenset[str]], ModelProto]
"""Groups to keep in float32 to the int8 graph that keeps them."""


@dataclass(frozen=True)
class GroupNoise:
    """What int8 in one part of the network alone does to the logits."""

    group: str
    signal_to_noise_db: float


@dataclass(frozen=True)
class KeptGroup:
    """One candidate, measured."""

    kept_groups: tuple[str, ...]
    miou_percent: float
    drop_points: float


def rank_groups(model: ModelProto, plan: Int8Plan, build: Build, images: Sequence[UInt8Array]) -> list[GroupNoise]:
    """Groups of nodes, the noisiest first.

    Args:
        model: the float32 graph.
        plan: its groups and logits.
        build: makes an int8 graph of it.
        images: ``[H,W,3]`` uint8 RGB each.
    """
    expected = _logits(model, plan.logits, images)
    power = sum(float(np.square(logits, dtype=np.float64).sum()) for logits in expected)
    everything = frozenset(plan.groups)
    noises = []
    for group in plan.groups:
        found = _logits(build(everything - {group}), plan.logits, images)
        noise = sum(float(np.square(a.astype(np.float64) - b).sum()) for a, b in zip(expected, found, strict=True))
        noises.append(GroupNoise(group, 10 * math.log10(power / noise) if noise > 0 else math.inf))
    return sorted(noises, key=lambda noise: noise.signal_to_noise_db)


def spend_least(
    build: Build,
    measure: Callable[[ModelProto], float],
    rank: Callable[[], Sequence[GroupNoise]],
    reference: float,
    max_drop: float,
) -> tuple[ModelProto, tuple[KeptGroup, ...]]:
    """The int8 graph that keeps fewest groups in float32 and loses no more than allowed.

    Args:
        build: makes an int8 graph.
        measure: mIoU of a graph in percent.
        rank: groups, the noisiest first; called only if it is needed.
        reference: mIoU of the float32 graph in percent.
        max_drop: points it may lose.

    Returns:
        The graph, and everything that was measured on the way; the last step within the budget is that graph.

    Raises:
        ProtosegError: it loses too much even with all groups but one in float32.
    """
    steps: list[KeptGroup] = []

    def attempt(kept: tuple[str, ...]) -> ModelProto | None:
        model = build(frozenset(kept))
        score = measure(model)
        steps.append(KeptGroup(kept, score, reference - score))
        return model if steps[-1].drop_points <= max_drop else None

    best = attempt(())
    if best is not None:
        return best, tuple(steps)
    order = tuple(noise.group for noise in rank())
    failed, tried = 0, 0
    while best is None:
        if tried >= len(order) - 1:
            raise _over_budget(steps, reference, max_drop)
        failed, tried = tried, min(max(2 * tried, 1), len(order) - 1)
        best = attempt(order[:tried])
    while tried - failed > 1:
        middle = (failed + tried) // 2
        candidate = attempt(order[:middle])
        if candidate is None:
            failed = middle
        else:
            best, tried = candidate, middle
    return best, tuple(steps)


def _over_budget(steps: Sequence[KeptGroup], reference: float, max_drop: float) -> ProtosegError:
    best = min(steps, key=lambda step: step.drop_points)
    return ProtosegError(
        f"int8 loses {steps[0].drop_points:.2f} points of mIoU ({reference:.2f} % in fp32), and still "
        f"{best.drop_points:.2f} with {len(best.kept_groups)} parts of the network in float32; "
        f"{max_drop:g} are allowed",
        "Calibrate on more images or by another method, allow a larger --max-drop, or leave int8 out.",
    )


def _logits(model: ModelProto, name: str, images: Sequence[UInt8Array]) -> list[NDArray[np.float32]]:
    """The output of the head, for every image."""
    produced = {value for node in model.graph.node for value in node.output}
    rounded = f"{name}_DequantizeLinear_Output"
    tapped = ModelProto()
    tapped.CopyFrom(model)
    output = rounded if rounded in produced else name
    tapped.graph.output.append(onnx.helper.make_tensor_value_info(output, TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(tapped.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [session.run([output], {"images": image[None]})[0] for image in images]
