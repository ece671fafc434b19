"""Where the time of a call goes."""

import pytest

from protoseg_deploy.benchmarking.diagnosis import Parts, diagnose


@pytest.mark.parametrize(
    ("parts", "bound", "share"),
    [
        (Parts(arrays_ms=10, copies_ms=9.8, engine_ms=9.5), "compute", "95 % of a call"),
        (Parts(arrays_ms=10, copies_ms=9.8, engine_ms=5.0), "copy", "48 % of a call"),
        (Parts(arrays_ms=10, copies_ms=6.0, engine_ms=5.5), "pre/post", "40 % of a call"),
        (Parts(arrays_ms=10, copies_ms=9.8, engine_ms=9.0, launch_ms=8.9), "launch", "99 % of the computing time"),
        (Parts(arrays_ms=10, copies_ms=9.8, engine_ms=9.0, launch_ms=0.4), "compute", "90 % of a call"),
        (Parts(arrays_ms=10, copies_ms=9.8, engine_ms=9.5, file_ms=20), "pre/post", "50 % of the time from a file"),
        (Parts(arrays_ms=10, copies_ms=9.8, engine_ms=9.5, file_ms=13), "compute", "95 % of a call"),
        (Parts(arrays_ms=10, remote=True, queue_ms=6, compute_ms=3), "queue", "60 % of a request"),
        (Parts(arrays_ms=10, remote=True, queue_ms=0.1, compute_ms=3), "client", "69 % of a request"),
        (Parts(arrays_ms=10, remote=True, queue_ms=0.1, compute_ms=9), "compute", "90 % of a request"),
        (Parts(arrays_ms=10, remote=True), "client", "does not tell"),
        (Parts(arrays_ms=0, copies_ms=0, engine_ms=0), "compute", "0 % of a call"),
    ],
)
def test_what_takes_most_is_named_with_its_share(parts: Parts, bound: str, share: str) -> None:
    found = diagnose(parts)
    assert found.bound == bound
    assert share in found.text
    assert "\n" not in found.text


def test_a_cuda_graph_is_proposed_where_there_is_none() -> None:
    common = {"arrays_ms": 10, "copies_ms": 9.8, "engine_ms": 9.0, "launch_ms": 8.9}
    assert "CUDA graph" in diagnose(Parts(**common)).text
    assert "CUDA graph" not in diagnose(Parts(**common, cuda_graph=True)).text
