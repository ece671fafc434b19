"""What RAPL, ``tegrastats``, ``nvpmodel`` and ``jetson_clocks`` tell, recorded or made."""

import os
import time
from pathlib import Path

import pytest

from protoseg_deploy.benchmarking.energy.finding import energy_source
from protoseg_deploy.benchmarking.energy.jetson import read_power_mode
from protoseg_deploy.benchmarking.energy.rapl import open_rapl
from protoseg_deploy.benchmarking.energy.source import DeviceState
from protoseg_deploy.benchmarking.energy.tegrastats import open_tegrastats, parse_line

# Forms of NVIDIA's documentation and of logs that users published: Nano (JetPack 4), Xavier NX (5), AGX Orin (5 and 6),
# Orin Nano (6), Thor (7.0 without GR3D, 7.1 without a sensor of the board's input, 7.2 with peaks).
NANO = (
    "RAM 2541/3964MB (lfb 1x4MB) SWAP 0/1982MB (cached 0MB) IRAM 0/252kB(lfb 252kB) CPU [20%@1479,9%@1479,off,off] "
    "EMC_FREQ 5%@1600 GR3D_FREQ 10%@1300 APE 25 PLL@44C CPU@46.5C PMIC@100C GPU@45C AO@51.5C thermal@45.75C "
    "POM_5V_IN 2532/2698 POM_5V_GPU 40/41 POM_5V_CPU 406/500"
)
XAVIER_NX = (
    "RAM 4722/7763MB (lfb 4x2MB) SWAP 12/3882MB (cached 0MB) CPU [12%@1190,6%@1190,off,off,off,off] EMC_FREQ 0%@1600 "
    "GR3D_FREQ 0% VIC_FREQ 0%@115 APE 150 AUX@41C CPU@42C thermal@41.7C AO@42C GPU@41.5C PMIC@50C "
    "VDD_IN 3401mW/3386mW VDD_CPU_GPU_CV 492mW/484mW VDD_SOC 1067mW/1059mW"
)
AGX_ORIN = (
    "11-27-2026 10:00:00 RAM 3127/30536MB (lfb 5784x4MB) SWAP 0/15268MB (cached 0MB) CPU [2%@729,0%@729,off,off] "
    "EMC_FREQ 1%@2133 GR3D_FREQ 0%@[305,0] NVENC off NVDEC off APE 174 CPU@46.093C GPU@42.5C SOC2@42.937C "
    "VDD_GPU_SOC 2377mW/2377mW VDD_CPU_CV 396mW/396mW VIN_SYS_5V0 2520mW/2520mW VDDQ_VDD2_1V8AO 504mW/504mW"
)
ORIN_NANO = (
    "RAM 2000/7620MB (lfb 3x4MB) CPU [5%@1510,1%@1510] GR3D_FREQ @[624] cpu@49.4C soc2@48.1C gpu@49.0C tj@49.4C "
    "VDD_IN 4960mW/4965mW VDD_CPU_GPU_CV 712mW/712mW VDD_SOC 1425mW/1425mW"
)
THOR = (
    "RAM 5120/125772MB (lfb 100x4MB) CPU [1%@972,0%@972] EMC_FREQ 0%@4266 cpu@41.5C tj@42.0C gpu@-3.5C "
    "VDD_GPU 3169mW/3169mW VDD_CPU_SOC_MSS 9108mW/9108mW VIN_SYS_5V0 6050mW/6050mW VIN 26000mW/25900mW"
)
THOR_MODULE = (
    "RAM 4208/125773MB (lfb 31x4MB) CPU [1%@972,off] EMC_FREQ 0%@665 GR3D_FREQ @[0,1574,306] NVENC0_FREQ @0 VIC off "
    "cpu@34.468C tj@34.5C VDD_GPU -392mW/-392mW VDD_CPU_SOC_MSS 4165mW/4165mW VIN_SYS_5V0 4126mW/4126mW"
)
THOR_PEAKS = (
    "RAM 8353/125749MB (lfb 31x4MB) CPU [90%@2601,off] EMC_FREQ 34%@4266 GR3D_FREQ 87%@[1574,1574,1574] VIC off "
    "cpu@58.25C/61.75C tj@66.625C/66.625C gpu@56.937C/66.625C VDD_GPU 37939mW/8660mW/37939mW "
    "VDD_CPU_SOC_MSS 30059mW/12281mW/30059mW VIN_SYS_5V0 15486mW/7424mW/15486mW VIN 124486mW/36487mW/124486mW"
)
UNKNOWN = "RAM 1/2MB GR3D_FREQ 99%@1300 VDD_NEW_THING 700mW/650mW VDD_OTHER 300mW/300mW"


@pytest.mark.parametrize(
    ("line", "rails", "total", "of", "gpu", "degrees"),
    [
        (NANO, {"POM_5V_IN": 2532, "POM_5V_GPU": 40, "POM_5V_CPU": 406}, 2532, "module (POM_5V_IN)", (10, 1300), 45),
        (XAVIER_NX, {"VDD_IN": 3401, "VDD_CPU_GPU_CV": 492, "VDD_SOC": 1067}, 3401, "module (VDD_IN)", (0, None), 41.5),
        (
            AGX_ORIN,
            {"VDD_GPU_SOC": 2377, "VDD_CPU_CV": 396, "VIN_SYS_5V0": 2520, "VDDQ_VDD2_1V8AO": 504},
            5293,
            "module (VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0)",
            (0, 305),
            42.5,
        ),
        (ORIN_NANO, {"VDD_IN": 4960, "VDD_CPU_GPU_CV": 712, "VDD_SOC": 1425}, 4960, "module (VDD_IN)", (None, 624), 49),
        (
            THOR,
            {"VDD_GPU": 3169, "VDD_CPU_SOC_MSS": 9108, "VIN_SYS_5V0": 6050, "VIN": 26000},
            26000,
            "board (VIN)",
            (None, None),
            -3.5,
        ),
        (
            THOR_MODULE,
            {"VDD_GPU": -392, "VDD_CPU_SOC_MSS": 4165, "VIN_SYS_5V0": 4126},
            7899,
            "module (VDD_GPU + VDD_CPU_SOC_MSS + VIN_SYS_5V0)",
            (None, 1574),
            None,
        ),
        (
            THOR_PEAKS,
            {"VDD_GPU": 37939, "VDD_CPU_SOC_MSS": 30059, "VIN_SYS_5V0": 15486, "VIN": 124486},
            124486,
            "board (VIN)",
            (87, 1574),
            56.937,
        ),
        (
            UNKNOWN,
            {"VDD_NEW_THING": 700, "VDD_OTHER": 300},
            1000,
            "module (VDD_NEW_THING + VDD_OTHER)",
            (99, 1300),
            None,
        ),
        ("", {}, None, "", (None, None), None),
    ],
)
def test_lines_of_every_known_board_are_read(line, rails, total, of, gpu, degrees) -> None:
    found = parse_line(line)
    assert (found.rails_mw, found.total_mw, found.total_of) == (rails, total, of)
    assert (found.gpu_percent, found.gpu_mhz) == gpu
    assert found.temperatures_c.get("gpu") == degrees


def program(folder: Path, name: str, *lines: str) -> None:
    """A shell script of that name."""
    path = folder / name
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(0o755)


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that comes first among those of programs."""
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def test_the_board_is_asked_while_it_is_measured_and_no_longer(board: Path) -> None:
    program(board, "tegrastats", f"echo $$ > {board}/pid", f"while echo '{ORIN_NANO}'; do sleep 0.01; done")
    program(board, "nvpmodel", "echo 'NV Power Mode: 15W'")
    source = open_tegrastats()
    assert (source.scope, source.power_mode) == ("module (VDD_IN)", "15W")
    assert (source.watts(), source.joules()) == (4.96, None)
    assert (source.state().clock_mhz, source.state().temperature_c) == (624, 49)
    source.close()
    with pytest.raises(ProcessLookupError):
        os.kill(int((board / "pid").read_text()), 0)


def test_the_temperature_of_an_idle_gpu_is_that_of_its_junction_and_a_program_that_ends_tells_nothing(
    board: Path,
) -> None:
    program(board, "tegrastats", f"echo '{THOR_MODULE}'", f"while [ ! -e {board}/over ]; do sleep 0.01; done")
    source = open_tegrastats()
    assert source.state().temperature_c == 34.5
    (board / "over").touch()
    end = time.monotonic() + 10
    while source.watts() is not None and time.monotonic() < end:
        time.sleep(0.005)
    assert (source.watts(), source.state()) == (None, DeviceState())
    source.close()


@pytest.mark.parametrize("script", ["exit 1", "echo RAM 1/2MB; exec sleep 60"])
def test_a_board_that_tells_no_power_has_none(board: Path, script: str) -> None:
    program(board, "tegrastats", script)
    assert open_tegrastats() is None
    with energy_source("cpu") as found:
        assert found == (None, "tegrastats shows no power rails: try it as root")


def test_what_a_server_does_is_not_measured_here(board: Path) -> None:
    program(board, "tegrastats", f"touch {board}/started")
    with energy_source("remote") as (source, reason):
        assert source is None
        assert "server" in reason
    assert not (board / "started").exists()


def test_power_mode_and_clocks(board: Path) -> None:
    assert read_power_mode() is None
    program(board, "nvpmodel", "echo 'NV Power Mode: MODE_15W'", "echo 2")
    assert str(read_power_mode()) == "MODE_15W"
    program(board, "jetson_clocks", "echo 'GPU MinFreq=306000000 MaxFreq=1300500000 CurrentFreq=306000000'")
    assert str(read_power_mode()) == "MODE_15W, clocks vary (sudo jetson_clocks fixes them)"
    program(board, "jetson_clocks", "echo 'GPU MinFreq=1300500000 MaxFreq=1300500000 CurrentFreq=1300500000'")
    assert read_power_mode().clocks_fixed


def zone(folder: Path, name: str, label: str, microjoules: int) -> Path:
    path = folder / name
    path.mkdir(parents=True)
    (path / "name").write_text(f"{label}\n")
    (path / "energy_uj").write_text(f"{microjoules}\n")
    (path / "max_energy_range_uj").write_text("9999999\n")
    return path


def test_packages_are_summed_and_their_parts_are_not(tmp_path: Path) -> None:
    first, second = zone(tmp_path, "intel-rapl:0", "package-0", 100), zone(tmp_path, "intel-rapl:1", "package-1", 200)
    zone(tmp_path, "intel-rapl:0:0", "core", 10**6)
    zone(tmp_path, "intel-rapl:2", "psys", 10**6)
    source, reason = open_rapl(tmp_path)
    assert (source.scope, source.joules(), reason) == ("2 processor packages", 0, "")
    (first / "energy_uj").write_text("2000100")
    (second / "energy_uj").write_text("1000200")
    assert source.joules() == 3
    (first / "energy_uj").write_text("100")  # the counter began again: 7,999,999 up to its end, one to zero, 100
    assert source.joules() == pytest.approx(3 + 8.0)
    assert (source.watts(), source.averaged_s) == (None, None)
    (second / "energy_uj").unlink()
    assert source.joules() is None


def test_a_counter_that_may_not_be_read_says_how_to_make_it_readable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "RAPL" in open_rapl(tmp_path)[1]
    zone(tmp_path, "intel-rapl:0", "package-0", 100)
    read = Path.read_text

    def refuse(path: Path, *arguments: object, **options: object) -> str:
        if path.name == "energy_uj":
            raise PermissionError(path)
        return read(path, *arguments, **options)

    monkeypatch.setattr(Path, "read_text", refuse)
    source, reason = open_rapl(tmp_path)
    assert source is None
    assert f"sudo chmod a+r {tmp_path}/intel-rapl:*/energy_uj" in reason
