"""What is said about GPUs and inference libraries, from answers as machines with and without GPUs give them."""

import pytest

from protoseg_deploy.diagnostics.accelerators import (
    driver_finding,
    engine_finding,
    openvino_finding,
    provider_findings,
    torch_findings,
)
from protoseg_deploy.diagnostics.isolation import Answer
from tests.diagnostics.machines import machine

NVML = Answer("answered", {"driver": "570.86", "cuda": "12.8", "gpus": ["NVIDIA H100"]})
NO_NVML = Answer("failed", error="NVMLError_LibraryNotFound: NVML Shared Library Not Found")
H100 = {"name": "NVIDIA H100", "compute_capability": "9.0", "memory_bytes": 80 * 2**30, "error": ""}
T4 = {"name": "Tesla T4", "compute_capability": "7.5", "memory_bytes": 16 * 2**30, "error": ""}
TORCH = {
    "version": "2.15.0", "cuda_build": "13.2", "threads": 8, "cpu_capability": "AVX512", "why_not": "",
    "gpus": [H100, T4],
}  # fmt: skip
PROVIDERS = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
ORT = Answer("answered", {"version": "1.31.1", "providers": [*PROVIDERS, "AzureExecutionProvider"]})


def loads(name):
    return Answer("answered", {"used": name, "right": True})


def test_drivers(tmp_path):
    assert "570.86, for CUDA up to 12.8: NVIDIA H100" in driver_finding(NVML, machine(tmp_path)).fact
    without = driver_finding(NO_NVML, machine(tmp_path))
    assert (without.state, without.fix) == ("missing", "")
    boxed = driver_finding(NO_NVML, machine(tmp_path, environment={"container": "podman"}))
    assert boxed.state == "missing"
    assert "--gpus all" in boxed.fix
    crashed = driver_finding(Answer("crashed", error="crashes (SIGSEGV)"), machine(tmp_path))
    assert (crashed.state, crashed.fact) == ("problem", "NVML crashes (SIGSEGV)")


def pci(vendor, kind):
    device = "sys/bus/pci/devices/0000:01:00.0"
    return {f"{device}/vendor": f"{vendor}\n", f"{device}/class": f"{kind}\n"}


@pytest.mark.parametrize(
    ("files", "state"),
    [
        (pci("0x10de", "0x030000"), "problem"),
        (pci("0x10de", "0x040300"), "missing"),
        (pci("0x8086", "0x030000"), "missing"),
        ({"etc/nv_tegra_release": "# R36"}, "problem"),
    ],
    ids=["a GPU", "the sound device of one", "a GPU of another maker", "a Jetson"],
)
def test_hardware_without_its_driver(tmp_path, files, state):
    finding = driver_finding(NO_NVML, machine(tmp_path, files))
    assert finding.state == state
    assert ("driver" in finding.fix) == (state == "problem")
    if state == "problem":
        (tmp_path / ".dockerenv").touch()
        assert driver_finding(NO_NVML, machine(tmp_path)).fix == "docker run --gpus all …"


def test_gpus_of_pytorch():
    torch, *gpus = torch_findings(Answer("answered", TORCH), driver=True)
    assert torch.state == "ok"
    assert "2.15.0, for CUDA 13.2" in torch.fact
    assert "compute capability 9.0, 80.0 GiB; bf16: yes, int8: yes" in gpus[0].fact
    assert "compute capability 7.5, 16.0 GiB; bf16: emulated, int8: yes" in gpus[1].fact


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"gpus": [H100 | {"error": "no kernel image is available"}]}, "cannot compute: no kernel image"),
        ({"gpus": [], "cuda_build": None}, "this PyTorch has no CUDA"),
        ({"gpus": [], "why_not": "The NVIDIA driver on your system is too old"}, "driver on your system is too old"),
        ({"gpus": []}, "finds no GPU, though the driver has one"),
    ],
)
def test_pytorch_that_cannot_use_the_gpu(change, said):
    findings = torch_findings(Answer("answered", TORCH | change), driver=True)
    (problem,) = (finding for finding in findings if finding.state == "problem")
    assert said in problem.fact
    assert problem.fix
    assert not problem.core, "the CPU still trains"


def test_pytorch_without_a_gpu_is_sound_and_a_broken_one_is_the_end():
    assert [f.state for f in torch_findings(Answer("answered", TORCH | {"gpus": []}), driver=False)] == ["ok"]
    (finding,) = torch_findings(Answer("crashed", error="crashes (SIGILL)"), driver=True)
    assert (finding.state, finding.core, finding.fact) == ("problem", True, "crashes (SIGILL)")


def test_providers_that_load():
    findings = provider_findings(ORT, {name: loads(name) for name in PROVIDERS}, gpu=True)
    assert [finding.state for finding in findings] == ["ok"] * 4
    assert "AzureExecutionProvider" in findings[0].fact


@pytest.mark.parametrize(
    ("answer", "gpu", "state"),
    [
        (Answer("failed", error="RuntimeError: libcublasLt.so.12"), True, "problem"),
        (Answer("failed", error="RuntimeError: libcublasLt.so.12"), False, "missing"),
        (loads("CPUExecutionProvider"), True, "problem"),
        (loads("CPUExecutionProvider"), False, "missing"),
        (Answer("crashed", error="crashes (SIGSEGV)"), False, "problem"),
        (Answer("late", error="no answer within 60 s"), True, "problem"),
        (Answer("answered", {"used": "CUDAExecutionProvider", "right": False}), True, "problem"),
        (None, True, "missing"),
    ],
)
def test_a_provider_that_does_not_load(answer, gpu, state):
    loaded = {"CPUExecutionProvider": loads("CPUExecutionProvider"), "CUDAExecutionProvider": answer}
    findings = provider_findings(ORT, {name: one for name, one in loaded.items() if one}, gpu=gpu)
    cuda = next(finding for finding in findings if finding.name == "CUDAExecutionProvider")
    assert cuda.state == state
    assert bool(cuda.fix) == (gpu or state == "problem")
    assert not cuda.core


def test_without_the_cpu_provider_nothing_works():
    findings = provider_findings(ORT, {"CPUExecutionProvider": Answer("crashed", error="crashes (SIGILL)")}, gpu=False)
    assert [(f.name, f.state) for f in findings if f.core] == [("CPUExecutionProvider", "problem")]
    (finding,) = provider_findings(Answer("absent", error="onnxruntime"), {}, gpu=False)
    assert (finding.state, finding.core) == ("problem", True)


@pytest.mark.parametrize(
    ("answer", "needs_gpu", "gpu", "state", "said"),
    [
        (Answer("absent", error="tensorrt"), True, True, "missing", "is not installed"),
        (Answer("absent", error="tensorrt"), True, False, "missing", "it needs a GPU"),
        (Answer("answered", {"version": "8.6.1", "error": ""}), True, True, "problem", "8.6.1 is too old"),
        (Answer("answered", {"version": "11.1", "error": "CUDA 35"}), True, True, "problem", "does not start: CUDA 35"),
        (
            Answer("answered", {"version": "11.1", "error": "CUDA 35"}),
            True,
            False,
            "missing",
            "11.1 is installed, but no",
        ),
        (Answer("answered", {"version": "1.7", "error": ""}), False, False, "ok", "also without a GPU"),
        (Answer("late", error="no answer within 60 s"), False, True, "problem", "fails: no answer within 60 s"),
    ],
)
def test_flavours_of_tensorrt(answer, needs_gpu, gpu, state, said):
    finding = engine_finding("TensorRT", "tensorrt", answer, needs_gpu=needs_gpu, gpu=gpu)
    assert finding.state == state
    assert said in finding.fact
    assert (finding.fix.startswith("pip install")) == (state == "problem" or (state == "missing" and gpu))


def test_openvino():
    facts = {"version": "2026.4.1-1-x", "devices": ["CPU"], "types": ["FP32", "BIN", "BF16"]}
    assert openvino_finding(Answer("answered", facts)).fact == "2026.4.1, CPU computes FP32, BF16"
    assert openvino_finding(Answer("answered", facts | {"devices": []})).state == "problem"
    assert openvino_finding(Answer("absent")).fix == "pip install 'protoseg-deploy[openvino]'"
    assert openvino_finding(Answer("crashed", error="crashes (SIGILL)")).state == "problem"
