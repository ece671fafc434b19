"""Findings about NVIDIA GPUs: driver, PyTorch's view of them, ONNX Runtime's providers, TensorRT, OpenVINO."""

from collections.abc import Mapping, Sequence
from typing import Any

from protoseg_deploy.diagnostics.findings import Finding, gib
from protoseg_deploy.diagnostics.isolation import Answer
from protoseg_deploy.diagnostics.machine import Machine

CPU_PROVIDER = "CPUExecutionProvider"
GPU_PROVIDERS = ("CUDAExecutionProvider", "TensorrtExecutionProvider")
_NO_GPU = "no NVIDIA GPU shows here"
_PASS_GPUS = "If the machine has one: docker run --gpus all …"  # noqa: S105
_DRIVER = "Install NVIDIA's driver (Ubuntu: sudo ubuntu-drivers install), then restart."
_OLDEST_TENSORRT = 10


def driver_finding(answer: Answer, machine: Machine) -> Finding:
    """The driver as NVML, its own library, tells."""
    name = "NVIDIA driver"
    if answer.kind == "answered":
        facts = answer.facts
        gpus = ", ".join(facts["gpus"]) or "no GPU"
        return Finding(name, "ok", f"{facts['driver']}, for CUDA up to {facts['cuda']}: {gpus}", details=facts)
    if answer.kind == "absent":
        return Finding(
            name, "missing", "NVML cannot be asked: nvidia-ml-py is not installed", "pip install nvidia-ml-py"
        )
    if machine.has_nvidia_hardware():
        fix = "docker run --gpus all …" if machine.in_container() else _DRIVER
        return Finding(name, "problem", f"there is an NVIDIA GPU, but NVML {_failure(answer)}", fix)
    if answer.kind in ("crashed", "late"):
        return Finding(name, "problem", f"NVML {_failure(answer)}", _DRIVER)
    fact = f"{_NO_GPU}: training and inference use the CPU"
    return Finding(name, "missing", fact, _PASS_GPUS if machine.in_container() else "")


def _failure(answer: Answer) -> str:
    return answer.error if answer.kind == "crashed" else f"fails: {answer.error}"


def torch_findings(answer: Answer, *, driver: bool) -> list[Finding]:
    """PyTorch and each GPU that it computes on.

    Args:
        answer: of `asking.torch`.
        driver: whether there is a driver with a GPU.
    """
    if answer.kind != "answered":
        fact = "is not installed" if answer.kind == "absent" else _failure(answer)
        return [Finding("PyTorch", "problem", fact, "pip install --force-reinstall torch torchvision", core=True)]
    facts = answer.facts
    build = f"for CUDA {facts['cuda_build']}" if facts["cuda_build"] else "without CUDA"
    fact = f"{facts['version']}, {build}; {facts['threads']} threads, {facts['cpu_capability']}"
    found = [Finding("PyTorch", "ok", fact, details={**facts, "gpus": len(facts["gpus"])})]
    if driver and not facts["cuda_build"]:
        fix = "Install the CUDA build of PyTorch: pip uninstall -y torch torchvision, then as pytorch.org says."
        found.append(Finding("PyTorch on the GPU", "problem", "there is a GPU, but this PyTorch has no CUDA", fix))
    elif driver and not facts["gpus"]:
        fact = facts["why_not"] or "PyTorch finds no GPU, though the driver has one"
        fix = "Update the driver, or install a PyTorch for an older CUDA. Is CUDA_VISIBLE_DEVICES empty?"
        found.append(Finding("PyTorch on the GPU", "problem", fact, fix))
    return [*found, *(_gpu(index, gpu) for index, gpu in enumerate(facts["gpus"]))]


def _gpu(index: int, gpu: Mapping[str, Any]) -> Finding:
    name, capability = f"GPU {index}", str(gpu["compute_capability"])
    fact = f"{gpu['name']}, compute capability {capability}, {gib(gpu['memory_bytes'])}"
    if gpu["error"]:
        fix = "Install a PyTorch built for this compute capability, or end the programs that use the GPU."
        return Finding(name, "problem", f"{fact}, but cannot compute: {gpu['error']}", fix, details=gpu)
    major, minor = map(int, capability.split("."))
    types = [f"bf16: {'yes' if major >= 8 else 'emulated'}", f"int8: {'yes' if (major, minor) >= (7, 5) else 'slow'}"]
    return Finding(name, "ok", f"{fact}; {', '.join(types)}", details=gpu)


def provider_findings(answer: Answer, loaded: Mapping[str, Answer], *, gpu: bool) -> list[Finding]:
    """ONNX Runtime, and every provider as it loads.

    Args:
        answer: of `asking.onnxruntime`.
        loaded: answers of `asking.provider` by name; one that is not in the package is not among them.
        gpu: whether there is a driver with a GPU.
    """
    name = "ONNX Runtime"
    if answer.kind != "answered":
        fact = "is not installed" if answer.kind == "absent" else _failure(answer)
        return [Finding(name, "problem", fact, "pip install --force-reinstall onnxruntime-gpu", core=True)]
    others = [other for other in answer.facts["providers"] if other not in (CPU_PROVIDER, *GPU_PROVIDERS)]
    fact = answer.facts["version"] + (f"; not used here: {', '.join(others)}" if others else "")
    found = [Finding(name, "ok", fact, details=answer.facts)]
    return found + [_provider(one, loaded.get(one), gpu=gpu) for one in (CPU_PROVIDER, *GPU_PROVIDERS)]


_ADDS = {
    "CUDAExecutionProvider": "pip install 'onnxruntime-gpu[cuda,cudnn]'",
    "TensorrtExecutionProvider": "pip install 'tensorrt<11'",
}


def _provider(name: str, answer: Answer | None, *, gpu: bool) -> Finding:
    core = name == CPU_PROVIDER
    fix = "pip install --force-reinstall onnxruntime" if core else _ADDS[name]
    if answer is None:
        fix = "pip uninstall -y onnxruntime && pip install onnxruntime-gpu" if gpu else ""
        return Finding(name, "problem" if core else "missing", "is not in this package of ONNX Runtime", fix, core=core)
    if answer.kind == "answered" and answer.facts["used"] == name:
        if answer.facts["right"]:
            return Finding(name, "ok", "loads and computes", core=core)
        return Finding(name, "problem", "computes a wrong result", fix, core=core)
    why = answer.error or f"{answer.facts['used']} computes in its place"
    if core:
        return Finding(name, "problem", f"does not load: {why}", fix, core=True)
    if not gpu and answer.kind in ("answered", "failed"):
        return Finding(name, "missing", f"does not load: {_NO_GPU}", details={"error": why})
    return Finding(name, "problem", f"does not load: {why}", fix)


def engine_finding(title: str, extra: str, answer: Answer, *, needs_gpu: bool, gpu: bool) -> Finding:
    """A flavour of TensorRT.

    Args:
        title: its name.
        extra: of this package that installs it.
        answer: of `asking.engine`.
        needs_gpu: it builds on a GPU only.
        gpu: whether there is a driver with a GPU.
    """
    fix = f"pip install 'protoseg-deploy[{extra}]'"
    if answer.kind == "absent":
        without = f"; it needs a GPU, and {_NO_GPU}" if needs_gpu and not gpu else ""
        return Finding(title, "missing", f"is not installed{without}", "" if without else fix)
    if answer.kind != "answered":
        return Finding(title, "problem", _failure(answer), f"pip install --force-reinstall 'protoseg-deploy[{extra}]'")
    version, error = str(answer.facts["version"]), answer.facts["error"]
    if needs_gpu and int(version.partition(".")[0]) < _OLDEST_TENSORRT:
        return Finding(title, "problem", f"{version} is too old: {_OLDEST_TENSORRT} or newer is needed", fix)
    if error and needs_gpu and not gpu:
        return Finding(title, "missing", f"{version} is installed, but {_NO_GPU}", details=answer.facts)
    if error:
        return Finding(title, "problem", f"{version} is installed, but does not start: {error}", fix)
    where = "builds engines for the GPU of this machine" if needs_gpu else "builds engines, also without a GPU"
    return Finding(title, "ok", f"{version}: {where}", details=answer.facts)


def openvino_finding(answer: Answer) -> Finding:
    """OpenVINO, which is used on the CPU."""
    title, fix = "OpenVINO", "pip install 'protoseg-deploy[openvino]'"
    if answer.kind == "absent":
        return Finding(title, "missing", "is not installed", fix)
    if answer.kind != "answered":
        return Finding(title, "problem", _failure(answer), "pip install --force-reinstall openvino")
    devices: Sequence[str] = answer.facts["devices"]
    version = str(answer.facts["version"]).partition("-")[0]
    if "CPU" not in devices:
        return Finding(title, "problem", f"{version} finds no CPU device", "pip install --force-reinstall openvino")
    types = ", ".join(name for name in answer.facts["types"] if name in ("FP32", "FP16", "BF16", "INT8"))
    fact = f"{version}, CPU computes {types}"
    return Finding(title, "ok", fact, details=answer.facts)
