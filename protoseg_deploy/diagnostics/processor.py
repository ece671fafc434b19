"""Instruction sets of the processor, and what follows from them for int8 and bf16."""

from collections.abc import Mapping
from dataclasses import dataclass

from protoseg_deploy.diagnostics.findings import Finding
from protoseg_deploy.diagnostics.machine import Machine

_X86 = {
    "AVX2": "avx2",
    "AVX512": "avx512f",
    "AVX-VNNI": "avx_vnni",
    "AVX512-VNNI": "avx512_vnni",
    "AVX512-BF16": "avx512_bf16",
    "AMX-INT8": "amx_int8",
    "AMX-BF16": "amx_bf16",
}
_ARM = {"dotprod": "asimddp", "i8mm": "i8mm", "bf16": "bf16", "SVE": "sve"}
_INT8 = ("AMX-INT8", "AVX512-VNNI", "AVX-VNNI", "i8mm", "dotprod")
_BF16 = ("AMX-BF16", "AVX512-BF16", "bf16")
"""Each from the fastest on."""
_ARM_NAMES = frozenset({"aarch64", "arm64"})
_HOLDING_BACK: Mapping[str, frozenset[str]] = {
    "ATEN_CPU_CAPABILITY": frozenset({"default", "avx2"}),
    "ONEDNN_MAX_CPU_ISA": frozenset({"sse41", "avx", "avx2", "avx512_core"}),
    "DNNL_MAX_CPU_ISA": frozenset({"sse41", "avx", "avx2", "avx512_core"}),
}
"""Variables that tell libraries to use less than the processor has, and the values that do."""


@dataclass(frozen=True)
class Processor:
    """Model and instruction sets."""

    model: str
    sets: tuple[str, ...] | None
    """Of those that matter here; None: the system does not tell."""


def read_processor(machine: Machine) -> Processor:
    """From ``/proc/cpuinfo``; elsewhere than on Linux nothing is known."""
    values: dict[str, str] = {}
    for line in machine.read("proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        values.setdefault(key.strip(), value.strip())
    model = values.get("model name") or values.get("Model") or machine.architecture
    flags = values.get("flags", values.get("Features"))
    if flags is None:
        return Processor(model, None)
    names, present = _ARM if machine.architecture in _ARM_NAMES else _X86, set(flags.split())
    return Processor(model, tuple(name for name, flag in names.items() if flag in present))


def processor_findings(machine: Machine) -> list[Finding]:
    """Instruction sets, int8 and bf16 on the CPU, and variables that hold libraries back."""
    processor = read_processor(machine)
    if processor.sets is None:
        fact = f"{processor.model}; {machine.system} does not list instruction sets"
        return [Finding("processor", "ok", fact, details={"instruction_sets": None})]
    listed = ", ".join(processor.sets) or "none of those that matter here"
    details = {"model": processor.model, "instruction_sets": list(processor.sets)}
    found = [Finding("processor", "ok", f"{processor.model}: {listed}", details=details)]
    return [*found, _int8(processor.sets), _bf16(processor.sets), *_held_back(machine)]


def _int8(sets: tuple[str, ...]) -> Finding:
    fastest = next((name for name in _INT8 if name in sets), None)
    if fastest is not None:
        return Finding("int8 on the CPU", "ok", f"computed with {fastest}: as a rule faster than fp32")
    fact = "no instructions for it (VNNI, AMX, dotprod): seldom faster than fp32"
    if "AVX2" in sets or "AVX512" in sets:
        fact += ", and sums of int8 products saturate, which may cost accuracy"
    return Finding("int8 on the CPU", "missing", fact, _MEASURE)


_MEASURE = "Compare before you deploy: protoseg bench BUNDLE BUNDLE@int8 --images DIR --masks DIR"


def _bf16(sets: tuple[str, ...]) -> Finding:
    fastest = next((name for name in _BF16 if name in sets), None)
    if fastest is None:
        fact = "no instructions for it: PyTorch and OpenVINO emulate it, slower than fp32"
        return Finding("bf16 on the CPU", "missing", fact, "Keep train.precision: fp32 on this CPU.")
    fact = f"{fastest}: PyTorch (train.precision: bf16) and OpenVINO compute in it; ONNX Runtime computes in float32"
    return Finding("bf16 on the CPU", "ok", fact)


def _held_back(machine: Machine) -> list[Finding]:
    return [
        Finding(name, "problem", f"set to {value}: libraries use less than this processor has", f"unset {name}")
        for name, values in _HOLDING_BACK.items()
        if (value := machine.environment.get(name, "").lower()) in values
    ]
