"""Load on a server: requests that arrive whether it keeps up or not, and clients that wait for their answers.

Open loop
    Requests arrive at random times of a given mean rate (a Poisson process), as those of many independent clients do.
    The latency of a request counts from the moment at which it was to be sent: while a server pauses, requests go on
    arriving, and each of them waits. A client that waited for its answer before it sent the next request would not even
    ask in that time, and one slow answer would stand for all of them.
Closed loop
    A number of clients, each of which sends the next request when it has its answer: the most that a server answers.

Class maps are compared with those that the server gave to the same images before the load, one by one.
"""

import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from protoseg_deploy.errors import ProtosegError
from protoseg_deploy.runtimes.base import UInt8Array

Predict = Callable[[UInt8Array], UInt8Array]
"""``[1,H,W,3]`` uint8 RGB to ``[1,H,W]`` class indices; called from many threads."""
_KEPT_UP = 0.95
"""Share of the offered rate that is answered by a server that keeps up."""
_GROWTH = 3.0
"""A queue grows if the median latency of the last third is that many times the one of the first third."""
_MOST_ERRORS = 3
_FLOOR, _HALVINGS = 0.5, 4
"""The search for the knee begins above this share of the closed loop's throughput; where nothing there is kept up with,
so many halves of it are tried."""
_RISE, _RISES = 1.25, 12
"""A rate that is kept up with is raised until one is not: few clients ask for less than a server can answer."""


@dataclass(frozen=True)
class LoadPoint:
    """What a server did at one rate, or with a number of clients.

    Latencies are in milliseconds, of answered requests; nan where there were none.
    """

    loop: Literal["open", "closed"]
    offered_per_second: float | None
    """Mean rate of arrivals; None in a closed loop."""
    clients: int
    """Connections at most."""
    arrival_seconds: float
    """For which requests were sent."""
    seconds: float
    """From the beginning to the last answer."""
    sent: int
    failed: int
    """Requests without an answer, or with an error."""
    wrong: int
    """Answers with another class map than without load."""
    answered_per_second: float
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    client_late_ms: float
    """Median time that requests waited for a free connection: large values mean that the client was the limit."""
    growing: bool
    """Whether answers took longer and longer."""
    errors: tuple[str, ...]
    """The first few."""

    @property
    def kept_up(self) -> bool:
        """Whether the server answered about as many requests as were offered, without a growing queue."""
        arrived_per_second = self.sent / self.arrival_seconds
        return self.answered_per_second >= _KEPT_UP * arrived_per_second and not self.failed and not self.growing

    def to_dict(self) -> dict[str, Any]:
        """JSON values, units in the keys; nan becomes None."""
        return {
            "loop": self.loop,
            "offered_per_second": self.offered_per_second,
            "clients": self.clients,
            "arrival_seconds": self.arrival_seconds,
            "seconds": self.seconds,
            "sent": self.sent,
            "failed": self.failed,
            "wrong": self.wrong,
            "answered_per_second": self.answered_per_second,
            "latency_p50_ms": _or_none(self.p50_ms),
            "latency_p90_ms": _or_none(self.p90_ms),
            "latency_p95_ms": _or_none(self.p95_ms),
            "latency_p99_ms": _or_none(self.p99_ms),
            "latency_max_ms": _or_none(self.max_ms),
            "client_late_ms": _or_none(self.client_late_ms),
            "kept_up": self.kept_up,
            "errors": list(self.errors),
        }


@dataclass
class _Log:
    """Times of requests in seconds since the beginning, in the order in which they were taken."""

    due: list[float]
    begun: list[float]
    ended: list[float]
    wrong: int = 0
    failed: int = 0
    errors: list[str] = field(default_factory=list)
    """The first few."""


class Load:
    """A server under load.

    Args:
        predict: asks the server, each thread by a connection of its own.
        images: ``[1,H,W,3]`` uint8 RGB each, sent in turn.

    Raises:
        ProtosegError: the server does not answer without load.
    """

    def __init__(self, predict: Predict, images: Sequence[UInt8Array]) -> None:
        self._predict = predict
        self._images = images
        self._expected = [predict(image) for image in images]

    def open_loop(self, rate: float, seconds: float, *, clients: int = 64, seed: int = 0) -> LoadPoint:
        """Requests at random times.

        Args:
            rate: mean arrivals per second.
            seconds: for which requests arrive.
            clients: connections at most.
            seed: of the times.
        """
        due = arrivals(rate, seconds, seed)
        log = self._run(due, clients, None)
        return _point("open", rate, clients, seconds, log)

    def closed_loop(self, clients: int, seconds: float) -> LoadPoint:
        """Clients that wait for their answers, for some seconds."""
        return _point("closed", None, clients, seconds, self._run(None, clients, seconds))

    def knee(self, point: LoadPoint, seconds: float, *, clients: int = 64, steps: int = 4) -> list[LoadPoint]:
        """Search the highest rate that the server keeps up with.

        Args:
            point: of a closed loop: about the most it answers, where the search begins.
            seconds: at each rate.
            clients: connections at most.
            steps: rates to try after the first one that it does not keep up with, each twice if need be; each halves
                what is left of the search.

        Returns:
            The points that were measured; the knee is the best that `kept_up`.
        """
        most = point.answered_per_second
        low, high, found = _FLOOR * most, 0.9 * most, list[LoadPoint]()
        for _ in range(_RISES):
            if not self._keeps_up(high, seconds, clients, found):
                break
            low, high = high, _RISE * high
        for _ in range(steps):
            if _gone(found):
                return found
            rate = (low + high) / 2
            low, high = (rate, high) if self._keeps_up(rate, seconds, clients, found) else (low, rate)
        while not any(one.kept_up for one in found) and low > _FLOOR**_HALVINGS * most and not _gone(found):
            self._keeps_up(low, seconds, clients, found)
            low *= _FLOOR
        return found

    def _keeps_up(self, rate: float, seconds: float, clients: int, found: list[LoadPoint]) -> bool:
        """Whether it does in one of two tries: what else the machine does in between is not the server's limit."""
        for _ in range(2):
            found.append(self.open_loop(rate, seconds, clients=clients, seed=len(found)))
            if found[-1].kept_up or _gone(found):
                return found[-1].kept_up
        return False

    def _run(self, due: NDArray[np.float64] | None, clients: int, seconds: float | None) -> _Log:
        log, lock, place = _Log([], [], []), threading.Lock(), 0
        start = time.perf_counter()

        def take() -> tuple[int, float] | None:
            nonlocal place
            with lock:
                if due is not None and place >= len(due):
                    return None
                now = time.perf_counter() - start
                if seconds is not None and now >= seconds:
                    return None
                place += 1
                return place - 1, now if due is None else float(due[place - 1])

        def work(_: int) -> None:
            while (taken := take()) is not None:
                number, planned = taken
                time.sleep(max(0.0, planned - (time.perf_counter() - start)))
                begun = time.perf_counter() - start
                error, right = self._ask(number)
                ended = time.perf_counter() - start
                with lock:
                    _note(log, planned, begun, ended, error, right)

        with ThreadPoolExecutor(clients, thread_name_prefix="client") as threads:
            list(threads.map(work, range(clients)))
        return log

    def _ask(self, number: int) -> tuple[str, bool]:
        """Error, if there was one; whether the class map was the expected one."""
        which = number % len(self._images)
        try:
            found = self._predict(self._images[which])
        except ProtosegError as error:
            return error.message, False
        return "", bool(np.array_equal(found, self._expected[which]))


def arrivals(rate: float, seconds: float, seed: int = 0) -> NDArray[np.float64]:
    """Times of a Poisson process, in seconds from 0, ascending; at least one.

    Args:
        rate: mean arrivals per second.
        seconds: length.
        seed: of the random numbers.
    """
    random = np.random.default_rng(seed)
    count = max(1, int(random.poisson(rate * seconds)))
    return np.sort(random.uniform(0, seconds, count))


def _note(log: _Log, due: float, begun: float, ended: float, error: str, right: bool) -> None:
    if error:
        log.failed += 1
        log.errors = [*log.errors, error][:_MOST_ERRORS]
        return
    log.wrong += not right
    log.due.append(due)
    log.begun.append(begun)
    log.ended.append(ended)


def _point(loop: Literal["open", "closed"], rate: float | None, clients: int, arrival_s: float, log: _Log) -> LoadPoint:
    due, begun, ended = (np.array(times) for times in (log.due, log.begun, log.ended))
    latencies = 1000 * (ended - due)
    order = np.argsort(due)
    seconds = float(ended.max()) if len(ended) else 0.0
    p50, p90, p95, p99 = np.percentile(latencies, [50, 90, 95, 99]) if len(latencies) else [float("nan")] * 4
    return LoadPoint(
        loop=loop,
        offered_per_second=rate,
        clients=clients,
        arrival_seconds=arrival_s,
        seconds=seconds,
        sent=len(ended) + log.failed,
        failed=log.failed,
        wrong=log.wrong,
        answered_per_second=len(ended) / seconds if seconds else 0.0,
        p50_ms=float(p50),
        p90_ms=float(p90),
        p95_ms=float(p95),
        p99_ms=float(p99),
        max_ms=float(latencies.max()) if len(latencies) else float("nan"),
        client_late_ms=float(np.median(1000 * (begun - due))) if len(due) else float("nan"),
        growing=_grows(latencies[order]),
        errors=tuple(log.errors),
    )


def _gone(found: Sequence[LoadPoint]) -> bool:
    """Whether nothing at all was answered last: the server is not there any more."""
    return found[-1].failed == found[-1].sent


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def _grows(latencies: NDArray[np.float64]) -> bool:
    if len(latencies) < 30:
        return False
    first, _, last = np.array_split(latencies, 3)
    return bool(np.median(last) > _GROWTH * np.median(first))
