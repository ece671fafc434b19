"""What follows from instruction sets."""

import pytest

from protoseg_deploy.diagnostics.processor import processor_findings, read_processor
from tests.diagnostics.machines import machine

HASWELL = "fpu sse4_2 avx avx2 fma"
ALDER_LAKE = f"{HASWELL} avx_vnni"
ICE_LAKE = f"{HASWELL} avx512f avx512_vnni"
ZEN_4 = f"{ICE_LAKE} avx512_bf16"
SAPPHIRE_RAPIDS = f"{ZEN_4} amx_bf16 amx_tile amx_int8"
RASPBERRY_PI_4 = "fp asimd crc32"
RASPBERRY_PI_5 = f"{RASPBERRY_PI_4} asimdhp asimddp"
GRAVITON_3 = f"{RASPBERRY_PI_5} sve i8mm bf16"


def on(tmp_path, flags, architecture="x86_64", **facts):
    key = "flags" if architecture == "x86_64" else "Features"
    text = f"processor\t: 0\nmodel name\t: A processor\n{key}\t\t: {flags}\n\nprocessor\t: 1\n{key}\t\t: none\n"
    return machine(tmp_path, {"proc/cpuinfo": text}, architecture=architecture, **facts)


@pytest.mark.parametrize(
    ("flags", "architecture", "int8", "bf16"),
    [
        ("sse2", "x86_64", None, None),
        (HASWELL, "x86_64", None, None),
        (ALDER_LAKE, "x86_64", "AVX-VNNI", None),
        (ICE_LAKE, "x86_64", "AVX512-VNNI", None),
        (ZEN_4, "x86_64", "AVX512-VNNI", "AVX512-BF16"),
        (SAPPHIRE_RAPIDS, "x86_64", "AMX-INT8", "AMX-BF16"),
        (RASPBERRY_PI_4, "aarch64", None, None),
        (RASPBERRY_PI_5, "aarch64", "dotprod", None),
        (GRAVITON_3, "aarch64", "i8mm", "bf16"),
    ],
)
def test_int8_and_bf16(tmp_path, flags, architecture, int8, bf16):
    _, of_int8, of_bf16 = processor_findings(on(tmp_path, flags, architecture))
    for finding, name in ((of_int8, int8), (of_bf16, bf16)):
        assert finding.state == ("ok" if name else "missing")
        assert name is None or name in finding.fact
        assert bool(finding.fix) == (name is None)


def test_saturation_is_said_where_it_happens(tmp_path):
    assert "saturate" in processor_findings(on(tmp_path, HASWELL))[1].fact
    assert "saturate" not in processor_findings(on(tmp_path, RASPBERRY_PI_4, "aarch64"))[1].fact


def test_names_are_those_of_their_architecture(tmp_path):
    assert read_processor(on(tmp_path, "bf16 avx2")).sets == ("AVX2",)
    assert read_processor(on(tmp_path, "bf16 avx2", "aarch64")).sets == ("bf16",)


def test_libraries_that_are_held_back(tmp_path):
    here = on(tmp_path, ZEN_4, environment={"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "AVX2"})
    held = [finding for finding in processor_findings(here) if finding.state == "problem"]
    assert [finding.fix for finding in held] == ["unset ATEN_CPU_CAPABILITY", "unset ONEDNN_MAX_CPU_ISA"]
    free = on(tmp_path, ZEN_4, environment={"ATEN_CPU_CAPABILITY": "avx512"})
    assert not [finding for finding in processor_findings(free) if finding.state == "problem"]


def test_systems_that_do_not_tell(tmp_path):
    (finding,) = processor_findings(machine(tmp_path, system="Darwin", architecture="arm64"))
    assert finding.state == "ok"
    assert "Darwin does not list" in finding.fact
