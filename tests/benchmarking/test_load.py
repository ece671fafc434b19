"""Load on a server that is a function here."""

import json
import threading
import time

import numpy as np
import pytest

from protoseg_deploy.benchmarking.load import Load, LoadPoint, arrivals
from protoseg_deploy.errors import ProtosegError

IMAGES = [np.full((1, 4, 5, 3), number, np.uint8) for number in range(3)]


class Server:
    """Computes one request at a time, and may pause."""

    def __init__(self) -> None:
        self.busy = threading.Lock()
        self.answered = 0

    def __call__(self, images: np.ndarray) -> np.ndarray:
        with self.busy:
            self.answered += 1
            return self.answer(images)

    def answer(self, images: np.ndarray) -> np.ndarray:
        return images[..., 0]


def test_every_request_is_answered_and_compared() -> None:
    server = Server()
    load = Load(server, IMAGES)
    closed, opened = load.closed_loop(3, 0.2), load.open_loop(100, 0.5, clients=4)
    assert server.answered == len(IMAGES) + closed.sent + opened.sent
    assert opened.sent == len(arrivals(100, 0.5))
    for point in (closed, opened):
        assert point.failed == point.wrong == 0
        assert 0 < point.p50_ms <= point.p90_ms <= point.p95_ms <= point.p99_ms <= point.max_ms
    assert closed.offered_per_second is None
    assert opened.offered_per_second == 100


def test_a_pause_shows_in_all_requests_that_arrive_meanwhile() -> None:
    """In a closed loop one request alone would wait."""
    server = Server()
    load = Load(server, IMAGES)
    pausing = threading.Thread(target=lambda: server.busy.acquire() and (time.sleep(1.0), server.busy.release()))
    pausing.start()
    while not server.busy.locked():
        pass
    point = load.open_loop(50, 1.2, clients=8)
    pausing.join()
    assert point.p99_ms >= 500
    assert point.p50_ms >= 100


def test_wrong_and_missing_answers_are_counted() -> None:
    class Swapping(Server):
        def answer(self, images):
            if self.answered > len(IMAGES) and self.answered % 4 == 0:
                raise ProtosegError(f"failure {self.answered}")
            return images[..., 0] + (self.answered > len(IMAGES) and self.answered % 4 == 1)

    point = Load(Swapping(), IMAGES).open_loop(200, 0.3, clients=4)
    assert point.failed == pytest.approx(point.sent / 4, abs=1)
    assert point.wrong == pytest.approx(point.sent / 4, abs=1)
    assert 0 < len(point.errors) <= 3
    assert not point.kept_up


def test_a_server_that_goes_away_leaves_no_latencies() -> None:
    class Gone(Server):
        def answer(self, images):
            if self.answered > len(IMAGES):
                raise ProtosegError("gone")
            return images[..., 0]

    point = Load(Gone(), IMAGES).open_loop(200, 0.1, clients=4)
    assert point.failed == point.sent > 0
    document = json.loads(json.dumps(point.to_dict(), allow_nan=False))
    assert document["latency_p99_ms"] is None
    assert document["answered_per_second"] == 0
    assert document["errors"][0] == "gone"


def test_a_server_that_does_not_answer_at_all_is_no_subject() -> None:
    def refuse(_):
        raise ProtosegError("nobody there")

    with pytest.raises(ProtosegError, match="nobody there"):
        Load(refuse, IMAGES)


def test_arrivals_are_those_of_a_poisson_process() -> None:
    times = arrivals(1000, 20, seed=3)
    gaps = np.diff(times)
    assert len(times) == pytest.approx(20_000, rel=0.03)
    assert gaps.min() >= 0
    assert gaps.mean() == pytest.approx(0.001, rel=0.03)
    assert gaps.std() == pytest.approx(0.001, rel=0.05)
    np.testing.assert_array_equal(times, arrivals(1000, 20, seed=3))
    assert len(arrivals(0.001, 1)) == 1


def point(**changes) -> LoadPoint:
    values = {
        "loop": "open", "offered_per_second": 100.0, "clients": 8, "arrival_seconds": 10.0, "seconds": 10.1,
        "sent": 1000, "failed": 0, "wrong": 0, "answered_per_second": 99.0, "p50_ms": 1.0, "p90_ms": 1.0,
        "p95_ms": 1.0, "p99_ms": 1.0, "max_ms": 1.0, "client_late_ms": 0.0, "growing": False, "errors": (),
    }  # fmt: skip
    return LoadPoint(**{**values, **changes})


def test_when_a_server_keeps_up() -> None:
    assert point().kept_up
    assert not point(answered_per_second=94.0, seconds=10.6).kept_up
    assert not point(growing=True).kept_up
    assert not point(failed=1).kept_up


def test_the_search_for_the_knee_ends_beside_what_the_server_can_do(monkeypatch: pytest.MonkeyPatch) -> None:
    load = Load(Server(), IMAGES)
    can = 120.0

    def measured(rate: float, seconds: float, **_) -> LoadPoint:
        return point(offered_per_second=rate, sent=round(rate * 10), answered_per_second=min(rate, can))

    monkeypatch.setattr(load, "open_loop", measured)
    found = load.knee(point(offered_per_second=None, answered_per_second=130.0), 10.0)
    best = max(one.offered_per_second for one in found if one.kept_up)
    assert best == pytest.approx(can / 0.95, rel=0.05)


def test_one_disturbance_does_not_move_the_knee_and_a_slow_server_has_one_too(monkeypatch: pytest.MonkeyPatch) -> None:
    load = Load(Server(), IMAGES)
    tried: list[float] = []
    limits: list[float] = []

    def measured(rate: float, seconds: float, **_) -> LoadPoint:
        tried.append(rate)
        can = 1.0 if len(tried) == 1 else limits[-1]
        return point(offered_per_second=rate, sent=round(rate * 10), answered_per_second=min(rate, can))

    monkeypatch.setattr(load, "open_loop", measured)
    for limit, low, high in ((120.0, 0.85, 1.1), (30.0, 0.1, 0.3)):
        tried.clear()
        limits.append(limit)
        found = load.knee(point(offered_per_second=None, answered_per_second=120.0), 10.0)
        best = max(one.offered_per_second for one in found if one.kept_up)
        assert low <= best / 120 <= high


def test_the_search_ends_where_the_server_is_gone_and_goes_on_above_a_slow_client(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    load = Load(Server(), IMAGES)
    closed = point(offered_per_second=None, answered_per_second=100.0)
    monkeypatch.setattr(load, "open_loop", lambda rate, seconds, **_: point(offered_per_second=rate, sent=9, failed=9))
    assert len(load.knee(closed, 1.0)) == 1

    def quick(rate: float, seconds: float, **_) -> LoadPoint:
        return point(offered_per_second=rate, sent=round(rate * 10), answered_per_second=min(rate, 400.0))

    monkeypatch.setattr(load, "open_loop", quick)
    best = max(one.offered_per_second for one in load.knee(closed, 10.0) if one.kept_up)
    assert best == pytest.approx(400 / 0.95, rel=0.05)
