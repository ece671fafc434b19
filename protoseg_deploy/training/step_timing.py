"""Where the time of a training step goes, seen from outside: the step itself knows nothing of it."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from protoseg_deploy.benchmarking.turns import wait_for
from protoseg_deploy.models import SegmenterOutput
from protoseg_deploy.training.step import TrainStep

STAGES = (
    "teacher forward",
    "student forward",
    "losses",
    "backward",
    "optimiser",
    "statistics",
    "teacher average",
    "rest",
)
"""*Losses* are what a method does besides forward passes; *statistics* the prototype bank and the like."""


class StageClock:
    """Adds up the time between marks; on a GPU by events, for which the host does not wait."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stage = "rest"
        self._marks: list[tuple[str, Any]] = []

    def enter(self, stage: str) -> str:
        """What comes from now on belongs to `stage`; returns the one it belonged to."""
        before, self.stage = self.stage, stage
        self._marks.append((stage, self._now()))
        return before

    def around(self, stage: str, function: Callable[..., Any], then: str | None = None) -> Callable[..., Any]:
        """The function as a stage of its own; afterwards the stage that was before, or `then`, continues."""

        def timed(*arguments: Any, **keywords: Any) -> Any:
            before = self.enter(stage)
            try:
                return function(*arguments, **keywords)
            finally:
                self.enter(then or before)

        return timed

    def read(self) -> dict[str, float]:
        """Milliseconds of each stage since the first mark; starts over."""
        self.enter("rest")
        wait_for(self.device)
        totals: dict[str, float] = defaultdict(float)
        for (stage, begin), (_, end) in zip(self._marks, self._marks[1:], strict=False):
            totals[stage] += begin.elapsed_time(end) if self.device.type == "cuda" else 1000 * (end - begin)
        self._marks = []
        return dict(totals)

    def _now(self) -> Any:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event


@contextmanager
def watched(stepper: TrainStep, clock: StageClock) -> Iterator[None]:
    """Let a clock see the stages of the steps that are taken within the block."""
    with ExitStack() as stack:
        passes = stepper.passes
        stack.callback(passes.register_forward_pre_hook(lambda *_: _enter(clock, "losses")).remove)
        stack.callback(passes.register_forward_hook(lambda *_: _enter(clock, "backward")).remove)
        for network in {stepper.student, stepper.ema.network if stepper.ema else stepper.student}:
            forward = _forward(stepper.compiled.get(network, network.forward_features), clock)
            if network in stepper.compiled:
                stepper.compiled[network], compiled = forward, stepper.compiled[network]
                stack.callback(stepper.compiled.__setitem__, network, compiled)
            else:
                _replace(stack, network, "forward_features", forward)
        _replace(stack, stepper, "optimize", clock.around("optimiser", stepper.optimize, then="rest"))
        _replace(stack, stepper.method, "commit", clock.around("statistics", stepper.method.commit))
        if stepper.ema:
            _replace(stack, stepper.ema, "update", clock.around("teacher average", stepper.ema.update))
        yield


def _forward(function: Callable[..., SegmenterOutput], clock: StageClock) -> Callable[..., SegmenterOutput]:
    """A network may be both: what asks for gradients is the student's pass."""

    def timed(*arguments: Any) -> SegmenterOutput:
        stage = "student forward" if torch.is_grad_enabled() else "teacher forward"
        output: SegmenterOutput = clock.around(stage, function)(*arguments)
        return output

    return timed


def _enter(clock: StageClock, stage: str) -> None:
    """As a hook, whose result would replace what the module was given or has returned."""
    clock.enter(stage)


def _replace(stack: ExitStack, owner: Any, name: str, value: Any) -> None:
    """An attribute of one object, not of its class, until the stack unwinds."""
    object.__setattr__(owner, name, value)
    stack.callback(object.__delattr__, owner, name)
