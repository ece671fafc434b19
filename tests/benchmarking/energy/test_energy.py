"""Energy of calls, on boards that tests steer."""

import dataclasses
import json
import time
from types import SimpleNamespace

import pytest

from protoseg_deploy.benchmarking import latency
from protoseg_deploy.benchmarking.energy import finding, measuring, meters
from protoseg_deploy.benchmarking.energy.measuring import idle_watts, measure_energy, watched
from protoseg_deploy.benchmarking.energy.nvml import NvmlSource, open_nvml
from tests.benchmarking.energy.fake_nvml import FakeNvml
from tests.fake_runtime import FakeRuntime


def costs(library: FakeNvml, *, idle: float = 50.0, seconds: float = 0.06):
    """Of calls of 10 ms each, of two images."""
    source = open_nvml(library, "abc")

    def call() -> None:
        time.sleep(0.01)
        library.advance(0.01)

    return measure_energy(call, 2, source, idle, seconds)


def test_joules_are_those_of_the_counter_and_idle_power_is_subtracted() -> None:
    found = costs(FakeNvml(watts=200.0))
    assert found.counter_joules == pytest.approx(200 * 0.01 * found.images / 2, rel=1e-3)
    assert found.joules_per_image == pytest.approx(1.0, rel=1e-3)
    assert found.joules_per_image_net == pytest.approx(
        (found.counter_joules - 50 * found.seconds) / found.images, rel=1e-6
    )
    assert found.integral_joules == pytest.approx(200 * found.seconds, rel=1e-6)
    assert (found.source, found.scope) == ("NVML", "GPU board (Fake H100)")
    assert (found.clock_mhz, found.memory_clock_mhz, found.temperature_c) == ((1500,) * 3, (2600,) * 3, (61,) * 3)
    assert found.slowed_by == ()
    json.dumps(found.to_dict(), allow_nan=False)


def test_counter_and_integral_that_disagree_are_pointed_out() -> None:
    library = FakeNvml()
    library.counter_factor = 0.5
    found = costs(library)
    assert "% apart" in found.warning
    assert measuring.disagreement(100.0, 104.9) == ""
    assert measuring.disagreement(100.0, 106.0) == (
        "the energy counter says 100.00 J and the integral of the power 106.00 J, 6 % apart"
    )
    assert measuring.disagreement(None, 106.0) == measuring.disagreement(100.0, None) == ""


def test_without_a_counter_the_power_is_integrated() -> None:
    found = costs(FakeNvml(counter=False))
    assert found.counter_joules is None
    assert found.joules_per_image * found.images == pytest.approx(200 * found.seconds, rel=1e-6)
    assert found.warning == ""


def test_the_integral_is_one_of_trapezes_between_begin_and_end() -> None:
    watts = [(-1.0, 5.0), (0.0, 10.0), (1.0, 30.0), (2.0, 10.0), (9.0, 100.0)]
    assert measuring.integrate(watts, 0.0, 2.0) == pytest.approx(40.0)
    assert measuring.integrate(watts, 0.5, 1.5) == pytest.approx((10 + 30) / 4 + (30 + 10) / 4)
    assert measuring.integrate([(0.5, 8.0)], 0.0, 2.0) == 16
    assert measuring.integrate([], 0.0, 2.0) is None


def test_power_is_instantaneous_where_the_driver_tells_it() -> None:
    assert NvmlSource(FakeNvml(), "x").watts() == 200.0
    assert NvmlSource(FakeNvml(instant=False), "x").watts() == 200.0
    library = FakeNvml()
    library.power = None
    assert NvmlSource(library, "x").watts() is None


def test_gpus_are_found_by_what_does_not_change_with_their_order() -> None:
    library = FakeNvml()
    source = open_nvml(library, "1234-5678")
    assert library.uuids == ["GPU-1234-5678"]
    source.close()
    assert library.begun == 0
    assert open_nvml(FakeNvml(counter=False, watts=None), "x") is None  # a Jetson answers NotSupported


@pytest.mark.parametrize(
    ("bits", "reasons"),
    [
        (0x1 | 0x2 | 0x100, ()),
        (0x4, ("software power cap",)),
        (0x28, ("hardware slowdown", "software thermal slowdown")),
    ],
)
def test_reasons_that_slow_a_gpu_down_are_told_from_those_that_do_not(bits: int, reasons: tuple[str, ...]) -> None:
    library = FakeNvml()
    library.reasons = bits
    assert NvmlSource(library, "x").state().slowed_by == reasons


def test_a_reason_at_any_time_and_a_clock_that_changes_are_doubts() -> None:
    library = FakeNvml()
    source = NvmlSource(library, "x")
    with watched(source, 0.001) as seen:
        for library.reasons, library.clock in ((0, 1500), (0x40, 1000), (0, 1500)):
            asked = len(seen.states)
            while len(seen.states) < asked + 2:
                time.sleep(0.001)
    assert seen.doubts() == [
        "the device was slowed down by hardware thermal slowdown",
        "its clock went from 1000 to 1500 MHz",
    ]
    with watched(None) as nothing:
        pass
    assert nothing.doubts() == []


def test_idle_power_is_that_of_the_counter_or_of_the_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    library = FakeNvml(watts=40.0)

    def sleep(seconds: float) -> None:
        time.sleep(seconds)
        library.advance(seconds)

    monkeypatch.setattr(measuring, "time", SimpleNamespace(perf_counter=time.perf_counter, sleep=sleep))
    assert 0 < idle_watts(NvmlSource(library, "x"), 0.05) <= 40
    assert idle_watts(NvmlSource(FakeNvml(counter=False, watts=30.0), "x"), 0.02) == 30


def test_bench_reports_energy_or_why_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    library = FakeNvml()

    def compute(images):
        library.advance(0.001)
        return images[..., 0]

    monkeypatch.setattr(finding, "open_tegrastats", lambda: open_nvml(library, "x"))
    monkeypatch.setattr(meters, "idle_watts", lambda source: 20.0)
    monkeypatch.setattr(
        meters, "measure_energy", lambda call, images, source, idle: measure_energy(call, images, source, idle, 0.02)
    )
    options = {"size": (4, 4), "runs": 5, "warmup_seconds": 0.05}
    (report,) = latency.measure_interleaved([FakeRuntime(compute)], energy=True, **options)
    assert report.energy.joules_per_image == pytest.approx(0.2, rel=1e-3)
    assert report.to_dict()["energy"]["idle_watts"] == 20
    assert library.begun == 0
    monkeypatch.setattr(finding, "open_tegrastats", lambda: None)
    monkeypatch.setattr(finding, "open_rapl", lambda: (None, "no counter here"))
    (report,) = latency.measure_interleaved([FakeRuntime(compute)], energy=True, **options)
    assert (report.energy, report.energy_absent) == (None, "no counter here")
    (report,) = latency.measure_interleaved([FakeRuntime(compute)], **options)
    assert (report.energy, report.energy_absent) == (None, "")
    assert report.to_dict()["joules_per_image"] is None


def test_a_gpu_that_was_slowed_down_makes_a_latency_unsteady(monkeypatch: pytest.MonkeyPatch) -> None:
    library = FakeNvml()
    library.reasons = 0x80
    monkeypatch.setattr(finding, "open_tegrastats", lambda: open_nvml(library, "x"))
    runtime = FakeRuntime()
    runtime.info = dataclasses.replace(runtime.info, device="cuda")
    for name in ("reset_peak_memory_stats", "max_memory_allocated"):
        monkeypatch.setattr(f"torch.cuda.{name}", lambda: 0)
    monkeypatch.setattr(latency, "gpu_memory_used_mib", lambda: 0.0)
    (report,) = latency.measure_interleaved([runtime], size=(4, 4), runs=20, warmup_seconds=0.05)
    assert "the device was slowed down by hardware power brake" in report.stats.doubts
    assert not report.steady
