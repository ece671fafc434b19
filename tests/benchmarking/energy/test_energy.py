"""Energy of calls, on boards that tests steer."""

import dataclasses
import json
import sys
import threading
import time
from types import SimpleNamespace

import pytest
import torch

from protoseg_deploy.benchmarking import latency
from protoseg_deploy.benchmarking.energy import finding, measuring, meters
from protoseg_deploy.benchmarking.energy.measuring import (
    EnergyFigures,
    Seen,
    counted_watts,
    idle_watts,
    integrated_watts,
    measure_energy,
    watched,
)
from protoseg_deploy.benchmarking.energy.nvml import NvmlSource, open_nvml
from protoseg_deploy.benchmarking.energy.source import DeviceState
from tests.benchmarking.energy.fake_nvml import FakeNvml, NewNvml, OldNvml
from tests.fake_runtime import FakeRuntime

STEP_S = 0.01


class Board:
    """A fake GPU with a clock that only its samples move on, so that no figure depends on the machine of the test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, library: FakeNvml) -> None:
        self.library, self.calls = library, 0
        library.step_s = STEP_S
        monkeypatch.setattr(measuring, "time", SimpleNamespace(perf_counter=lambda: library.now, sleep=self.pass_time))
        monkeypatch.setattr(measuring, "watched", lambda source: watched(source, 0.0))

    def pass_time(self, seconds: float) -> None:
        """Until the board was asked often enough."""
        end = self.library.now + seconds
        if all(thread.name != "energy" for thread in threading.enumerate()):
            self.library.now = end
        while self.library.now < end:
            time.sleep(0.0005)

    def costs(self, *, idle: float = 50.0) -> EnergyFigures | None:
        """Of calls of two images that take 10 samples each."""

        def call() -> None:
            self.calls += 1
            self.pass_time(10 * STEP_S)

        return measure_energy(call, 2, NvmlSource(self.library, "x"), idle, 0.5)


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch):
    return lambda library: Board(monkeypatch, library)


def test_joules_are_those_of_the_counter_and_idle_power_is_subtracted(board) -> None:
    found = board(FakeNvml(watts=200.0)).costs()
    assert found.counter_joules == pytest.approx(200 * found.seconds, rel=1e-3)
    assert found.integral_joules == pytest.approx(200 * found.seconds)
    assert found.joules_per_image == found.counter_joules / found.images
    assert found.joules_per_image_net == pytest.approx(
        (found.counter_joules - 50 * found.seconds) / found.images, rel=1e-6
    )
    assert (found.source, found.scope, found.power_mode) == ("NVML", "GPU board (Fake H100)", "power limit 700 W")
    assert (found.clock_mhz, found.memory_clock_mhz, found.temperature_c) == ((1500,) * 3, (2600,) * 3, (61,) * 3)
    assert (found.clock_reasons, found.slowed_by, found.warning) == ((("idle",),) * 3, (), "")
    json.dumps(found.to_dict(), allow_nan=False)


def test_counter_and_integral_that_disagree_are_pointed_out(board) -> None:
    library = FakeNvml()
    library.counter_factor = 0.5
    found = board(library).costs()
    assert "50 % apart" in found.warning
    assert found.joules_per_image == found.counter_joules / found.images
    assert measuring.disagreement(100.0, 104.9) == ""
    assert measuring.disagreement(100.0, 106.0) == (
        "the energy counter says 100.00 J and the integral of the power 106.00 J, 6 % apart"
    )
    assert measuring.disagreement(None, 106.0) == measuring.disagreement(100.0, None) == ""


@pytest.mark.parametrize("dead", [False, True])
def test_without_a_counter_that_moves_the_power_is_integrated(board, dead: bool) -> None:
    library = FakeNvml(counter=dead)
    library.counter_factor = 0.0
    found = board(library).costs()
    assert found.counter_joules is None
    assert found.joules_per_image * found.images == pytest.approx(200 * found.seconds)
    assert found.warning == ""


def test_figures_are_absent_where_the_board_falls_silent(board) -> None:
    silent = board(FakeNvml(counter=False, watts=None))
    assert silent.costs() is None
    assert idle_watts(NvmlSource(silent.library, "x")) is None


def test_power_that_is_an_average_is_one_of_the_calls_alone(board) -> None:
    averaging = board(FakeNvml(counter=False, instant=False))
    found = averaging.costs()
    assert found.power_averaged_s == 1
    assert averaging.calls >= found.images / 2 + 10  # a second of calls of 0.1 s


def test_a_busy_device_is_not_taken_for_an_idle_one(board) -> None:
    found = board(FakeNvml(watts=200.0)).costs(idle=300.0)
    assert found.joules_per_image_net < 0
    assert found.warning == "it took less than the 300.0 W of an idle device: that was busy"
    assert board(FakeNvml(watts=200.0)).costs(idle=200.001).warning == ""


def test_what_slowed_the_device_down_speaks_against_the_figures(board) -> None:
    library = FakeNvml()
    library.reasons = 0x2 | 0x40
    found = board(library).costs()
    assert found.slowed_by == ("hardware thermal slowdown",)
    assert found.clock_reasons[1] == ("applications clocks setting", "hardware thermal slowdown")
    assert found.warning == "the device was slowed down by hardware thermal slowdown"


@pytest.mark.parametrize("library", [FakeNvml(watts=40.0), FakeNvml(counter=False, watts=40.0, instant=False)])
def test_idle_power_is_that_of_the_counter_or_of_the_samples(board, library: FakeNvml) -> None:
    assert idle_watts(NvmlSource(board(library).library, "x"), 0.5) == pytest.approx(40, rel=1e-3)


def test_power_by_a_counter_is_that_between_its_changes() -> None:
    coarse = [(0.02 * number, 20.0 * (number // 5)) for number in range(60)]  # 200 W, changes every 0.1 s
    assert counted_watts(coarse, 0.09, 1.07) == pytest.approx(200, rel=0.03)
    assert counted_watts(coarse, 0.51, 0.69) is None  # one change
    assert counted_watts([(at, 7.0) for at, _ in coarse], 0.0, 1.0) is None
    assert counted_watts([(at, -joules) for at, joules in coarse], 0.0, 1.0) is None
    assert counted_watts([], 0.0, 1.0) is None


def test_the_integral_is_one_of_trapezes_between_begin_and_end() -> None:
    watts = [(-1.0, 5.0), (0.0, 10.0), (1.0, 30.0), (2.0, 10.0), (9.0, 100.0)]
    assert integrated_watts(watts, 0.0, 2.0) == pytest.approx(20.0)
    assert integrated_watts(watts, 0.5, 1.5) == pytest.approx((10 + 30) / 4 + (30 + 10) / 4)
    assert integrated_watts([(0.2, 8.0), (1.8, 8.0)], 0.0, 2.0) == 8
    assert integrated_watts([], 0.0, 2.0) is None
    assert integrated_watts([(0.2, 8.0), (1.0, 8.0)], 0.0, 2.0) is None  # it stopped telling


def test_power_is_instantaneous_where_the_driver_tells_it() -> None:
    assert (NvmlSource(FakeNvml(), "x").watts(), NvmlSource(FakeNvml(), "x").averaged_s) == (200.0, 0.0)
    averaged = NvmlSource(FakeNvml(instant=False), "x")
    assert (averaged.watts(), averaged.averaged_s) == (200.0, 1.0)
    absent = NvmlSource(FakeNvml(watts=None), "x")
    assert (absent.watts(), absent.averaged_s) == (None, None)


def test_gpus_are_found_by_what_does_not_change_with_their_order() -> None:
    library = FakeNvml()
    source, reason = open_nvml(library, "1234-5678", "00000000:3b:00.0")
    assert (library.uuids, library.places, reason) == (["GPU-1234-5678"], [], "")
    source.close()
    assert library.begun == 0
    library.mig = 1
    source, _ = open_nvml(library, "1234-5678", "00000000:3b:00.0")
    assert library.places == ["00000000:3b:00.0"]
    assert source.scope == "GPU board (Fake H100, all MIG instances)"


def test_a_gpu_without_figures_has_none_and_the_reason_is_told() -> None:
    jetson = FakeNvml(counter=False, watts=None)  # answers NotSupported
    assert open_nvml(jetson, "x", "") == (None, "NVML tells neither energy nor power of the GPU board (Fake H100)")

    class Broken(FakeNvml):
        def nvmlInit(self) -> None:
            raise self.NVMLError("Driver Not Loaded")

        def nvmlDeviceGetHandleByPciBusId(self, place: str) -> str:
            raise self.NVMLError("Not Found")

    assert open_nvml(Broken(), "x", "") == (None, "NVML does not run here: Driver Not Loaded")
    broken = Broken()
    broken.nvmlInit, broken.mig = lambda: FakeNvml.nvmlInit(broken), 1
    assert open_nvml(broken, "x", "0:3b:00.0") == (None, "NVML does not know the GPU x 0:3b:00.0")
    assert (jetson.begun, broken.begun) == (0, 0)


@pytest.mark.parametrize(
    ("bits", "reasons"),
    [
        (0x1 | 0x2 | 0x100 | 0x400, ()),
        (0x4, ("software power cap",)),
        (0x28, ("hardware slowdown", "software thermal slowdown")),
    ],
)
@pytest.mark.parametrize("driver", [FakeNvml, OldNvml])
def test_reasons_that_slow_a_gpu_down_are_told_from_those_that_do_not(
    driver: type[FakeNvml], bits: int, reasons: tuple[str, ...]
) -> None:
    library = driver()
    library.reasons = bits
    state = NvmlSource(library, "x").state()
    assert state.slowed_by == reasons
    assert set(reasons) <= set(state.clock_reasons)
    assert state.idle is bool(bits & 1)


def test_calls_that_a_driver_lacks_leave_their_figure_out() -> None:
    state = NvmlSource(NewNvml(), "x").state()
    assert state == DeviceState(temperature_c=44)


def test_a_reason_at_any_time_and_a_clock_that_changes_are_doubts() -> None:
    cool, hot = DeviceState(clock_mhz=1500), DeviceState(clock_mhz=1000, slowed_by=("hardware thermal slowdown",))
    assert Seen([cool] * 9 + [hot] * 3).doubts() == [
        "the device was slowed down by hardware thermal slowdown",
        "its clock went from 1000 to 1500 MHz",
    ]
    rising = [DeviceState(clock_mhz=clock) for clock in (300, 900)]
    assert Seen([*rising, *[cool] * 20, *[DeviceState(clock_mhz=300, idle=True)] * 20]).doubts() == []
    assert Seen([DeviceState()]).doubts() == Seen().doubts() == []


def test_what_happens_while_a_block_runs_is_seen() -> None:
    library = FakeNvml()
    with watched(NvmlSource(library, "x"), 0.001, power=False) as seen:
        for library.reasons in (0, 0x40, 0):
            asked = len(seen.states)
            while len(seen.states) < asked + 2:
                time.sleep(0.001)
    assert seen.slowed_by == ("hardware thermal slowdown",)
    assert seen.joules == seen.watts == []
    with watched(None) as nothing:
        pass
    assert nothing.states == []


FIGURES = EnergyFigures(
    0.2, 0.1, 40.0, 20.0, "NVML", "GPU board", "", 0.0, 8.0, 8.0, 0.2, 40,
    (None,) * 3, (None,) * 3, (None,) * 3, (None,) * 3, (),
)  # fmt: skip


def test_bench_reports_energy_or_why_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    library = FakeNvml()
    answers = [FIGURES, None]
    monkeypatch.setattr(finding, "open_tegrastats", lambda: open_nvml(library, "x", "")[0])
    monkeypatch.setattr(meters, "idle_watts", lambda source: 20.0)
    monkeypatch.setattr(meters, "measure_energy", lambda call, images, source, idle: answers.pop(0))
    options = {"size": (4, 4), "runs": 5, "warmup_seconds": 0.05}
    (report,) = latency.measure_interleaved([FakeRuntime()], energy=True, **options)
    assert report.to_dict()["joules_per_image"] == 0.2
    assert report.to_dict()["energy"]["idle_watts"] == 20
    (report,) = latency.measure_interleaved([FakeRuntime()], energy=True, **options)
    assert (report.energy, report.energy_absent) == (None, "NVML stopped telling energy and power meanwhile")
    assert library.begun == 0
    monkeypatch.setattr(finding, "open_tegrastats", lambda: None)
    monkeypatch.setattr(finding, "open_rapl", lambda: (None, "no counter here"))
    (report,) = latency.measure_interleaved([FakeRuntime()], energy=True, **options)
    assert (report.energy, report.energy_absent) == (None, "no counter here")
    (report,) = latency.measure_interleaved([FakeRuntime()], **options)
    assert (report.energy, report.energy_absent) == (None, "")
    assert report.to_dict()["joules_per_image"] is None


def test_a_measurement_that_is_interrupted_closes_its_meters(monkeypatch: pytest.MonkeyPatch) -> None:
    library = FakeNvml()
    monkeypatch.setattr(finding, "open_tegrastats", lambda: open_nvml(library, "x", "")[0])

    def interrupt(source: object) -> float:
        assert library.begun == 1
        raise KeyboardInterrupt

    monkeypatch.setattr(meters, "idle_watts", interrupt)
    with pytest.raises(KeyboardInterrupt), meters.DeviceMeters(["cpu"], energy=True):
        pass
    assert library.begun == 0


def test_the_gpu_of_pytorch_is_the_one_that_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    library = FakeNvml()
    properties = SimpleNamespace(uuid="ab-cd", pci_domain_id=0, pci_bus_id=0x3B, pci_device_id=0)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", {1: properties}.get)
    monkeypatch.setattr(finding, "open_tegrastats", lambda: None)
    monkeypatch.setitem(sys.modules, "pynvml", library)
    library.mig = 1
    with finding.energy_source("cuda") as (source, _):
        assert source.name == "NVML"
    assert (library.uuids, library.places) == (["GPU-ab-cd"], ["00000000:3b:00.0"])
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with finding.energy_source("cuda") as found:
        assert found == (None, "nvidia-ml-py is not installed: pip install nvidia-ml-py")


def test_a_gpu_that_was_slowed_down_makes_a_latency_unsteady(monkeypatch: pytest.MonkeyPatch) -> None:
    library = FakeNvml()
    library.reasons = 0x80
    monkeypatch.setattr(finding, "open_tegrastats", lambda: open_nvml(library, "x", "")[0])
    runtime = FakeRuntime()
    runtime.info = dataclasses.replace(runtime.info, device="cuda")
    for name in ("reset_peak_memory_stats", "max_memory_allocated"):
        monkeypatch.setattr(f"torch.cuda.{name}", lambda: 0)
    monkeypatch.setattr(latency, "gpu_memory_used_mib", lambda: 0.0)
    (report,) = latency.measure_interleaved([runtime], size=(4, 4), runs=20, warmup_seconds=0.05)
    assert "the device was slowed down by hardware power brake" in report.stats.doubts
    assert not report.steady
