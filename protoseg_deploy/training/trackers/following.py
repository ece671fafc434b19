"""Trackers at work: each in a thread of its own, behind a queue with an end, with limits of time.

A run waits for its trackers twice: when they start, so that none is at work while data-loader workers are forked, and
when it ends. In between, figures are put into queues and nothing is waited for.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from protoseg_deploy.registry import TRACKERS
from protoseg_deploy.text import one_line
from protoseg_deploy.training.trackers.base import Outcome, RunFacts, Tracker


@dataclass(frozen=True)
class Limits:
    """What a tracker may take."""

    start_seconds: float = 60.0
    call_seconds: float = 60.0
    """For the figures of one step."""
    finish_seconds: float = 60.0
    """For what is left in its queue and its end; one that has not ended by then is left behind."""
    stop_seconds: float = 10.0
    """The same where the run was stopped: whoever stops it may kill it soon."""
    most_waiting: int = 1000
    """Steps whose figures wait; with more, the tracker is too slow for the run."""


def require_trackers(names: Iterable[str]) -> None:
    """Raises UsageError where a tracker cannot be imported or lacks a library; for before training."""
    for name in names:
        TRACKERS.get(name).require(name)


class _Follower:
    """One tracker and its thread."""

    def __init__(self, name: str, tracker: Tracker, limits: Limits) -> None:
        self.name, self.limits = name, limits
        self.tracker = tracker
        self.error = ""
        self.off = False
        self.busy_since: float | None = None
        self._jobs: queue.Queue[Callable[[], object] | None] = queue.Queue(limits.most_waiting + 2)
        self._idle = threading.Event()
        self.thread = threading.Thread(target=self._work, name=f"tracker {name}", daemon=True)
        self.thread.start()

    def _work(self) -> None:
        while not self.off:
            job = self._jobs.get()
            if job is None:
                return
            self.busy_since = time.monotonic()
            try:
                job()
            except BaseException as error:  # of any kind: nobody else would see it
                lines = str(error).strip().splitlines()
                self.error = f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
                with suppress(BaseException):
                    self.tracker.abandon()
                return
            finally:
                self.busy_since = None

    def put(self, job: Callable[[], object] | None) -> None:
        """Never waits."""
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            self.error = f"it is {self.limits.most_waiting} records behind"

    def fault(self) -> str:
        """Why it has to be switched off; empty: it need not."""
        since = self.busy_since
        if not self.error and since is not None and time.monotonic() - since > self.limits.call_seconds:
            self.error = f"it has not answered for {self.limits.call_seconds:g} s"
        return self.error


class TrackerSet:
    """The trackers of a run.

    Args:
        names: in the registry.
        say: shows a warning.
        limits: of each tracker.
    """

    def __init__(self, names: Iterable[str], say: Callable[[str], object], limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._say = say
        self._followers = [_Follower(name, TRACKERS.get(name)(), self.limits) for name in names]

    def start(self, facts: RunFacts) -> None:
        """Start all at once; returns when each has started or is switched off."""
        deadline = time.monotonic() + self.limits.start_seconds
        started = {follower.name: threading.Event() for follower in self._followers}
        for follower in self._followers:
            follower.put(_then(follower, started[follower.name], facts))
        for follower in self._followers:
            while not started[follower.name].wait(0.02) and follower.thread.is_alive():
                if time.monotonic() > deadline:
                    follower.error = f"it has not started within {self.limits.start_seconds:g} s"
                    break
        self._drop_faulty()

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Figures after a step, for all that are not switched off; never waits."""
        kept = dict(values)
        for follower in self._followers:
            follower.put(lambda tracker=follower.tracker: tracker.scalars(kept, step))  # type: ignore[misc]
        self._drop_faulty()

    def finish(self, outcome: Outcome) -> None:
        """Let all write what they have and end; returns after `Limits.finish_seconds` at the latest."""
        limits = self.limits
        deadline = time.monotonic() + (limits.finish_seconds if outcome.status == "finished" else limits.stop_seconds)
        for follower in self._followers:
            follower.put(lambda tracker=follower.tracker: tracker.finish(outcome))  # type: ignore[misc]
            follower.put(None)
        for follower in self._followers:
            while follower.thread.is_alive() and not follower.fault() and time.monotonic() < deadline:
                follower.thread.join(0.05)
            if follower.thread.is_alive() and not follower.error:
                follower.error = "it has not ended in time"
        self._drop_faulty()

    def _drop_faulty(self) -> None:
        for follower in [follower for follower in self._followers if follower.fault()]:
            follower.off = True
            self._followers.remove(follower)
            self._say(
                f"warning: train.trackers: {follower.name} is switched off: {one_line(follower.error)}; the run goes "
                "on, and its figures are in metrics.jsonl"
            )


def _then(follower: _Follower, started: threading.Event, facts: RunFacts) -> Callable[[], None]:
    def start() -> None:
        follower.tracker.start(facts)
        started.set()

    return start
