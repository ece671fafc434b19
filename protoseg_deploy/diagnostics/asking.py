"""A program that asks a library what it can do: ``asking.py QUESTION [ARGUMENT …]``; it may crash in its stead.

Prints one line of JSON. Needs the standard library alone, so that it works where anything else is broken.
"""

import importlib
import json
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any


def modules(*names: str) -> dict[str, Any]:
    """Which of some modules can be imported, each with its version; why, where one cannot."""
    return {name: _attempt(name) for name in names}


def _attempt(name: str) -> dict[str, Any]:
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if name == error.name or name.startswith(f"{error.name}."):
            return {"absent": True}
        return {"error": f"needs {error.name}, which is not installed", "needs": error.name}
    except BaseException as error:
        return {"error": _said(error)}
    return {"version": str(getattr(module, "__version__", ""))}


def torch() -> dict[str, Any]:
    """What PyTorch computes with; the GPU has to multiply matrices."""
    import torch

    facts: dict[str, Any] = {
        "version": str(torch.__version__),
        "cuda_build": torch.version.cuda,
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "mkldnn": torch.backends.mkldnn.is_available(),  # type: ignore[no-untyped-call]
        "architectures": torch.cuda.get_arch_list(),
    }
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    facts["why_not"] = "" if available else " ".join(str(line.message) for line in said)
    facts["gpus"] = [_gpu(torch, index) for index in range(torch.cuda.device_count())] if available else []
    return facts


def _gpu(torch: Any, index: int) -> dict[str, Any]:
    found = torch.cuda.get_device_properties(index)
    facts = {
        "name": found.name,
        "compute_capability": f"{found.major}.{found.minor}",
        "memory_bytes": found.total_memory,
        "error": "",
    }
    try:
        ones = torch.ones(64, 64, device=f"cuda:{index}")
        if float((ones @ ones)[0, 0]) != 64.0:
            facts["error"] = "a product of matrices is wrong"
    except Exception as error:
        facts["error"] = _said(error)
    return facts


def onnxruntime() -> dict[str, Any]:
    """Version and the providers that are in the package, which may not load."""
    import onnxruntime

    return {"version": onnxruntime.__version__, "providers": onnxruntime.get_available_providers()}


def provider(name: str) -> dict[str, Any]:
    """Whether a provider of ONNX Runtime loads and computes a convolution right."""
    import numpy as np
    import onnxruntime as ort

    ort.set_default_logger_severity(4)
    if name != "CPUExecutionProvider":
        ort.preload_dlls()
        if name == "TensorrtExecutionProvider":
            _attempt("tensorrt")  # loads libnvinfer, which ONNX Runtime then finds
    session = ort.InferenceSession(_convolution(), providers=[name], enable_fallback=False)
    used = session.get_providers()[0]
    (answer,) = session.run(None, {"x": np.ones((1, 1, 8, 8), np.float32)})
    return {"used": used, "right": bool(np.allclose(answer[0, 0, 1:-1, 1:-1], 9.0))}


def _convolution() -> bytes:
    """A graph that adds up 3x3 pixels."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.ones((1, 1, 3, 3), np.float32), "w")
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, 8, 8]) for name in ("x", "y")]
    graph = helper.make_graph([node], "sum", values[:1], values[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def engine(module: str) -> dict[str, Any]:
    """Version of a flavour of TensorRT whose builder starts."""
    library = importlib.import_module(module)

    class Log(library.ILogger):  # type: ignore[misc, name-defined]
        """Keeps what the library complains about; printed, it would repeat what is reported."""

        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (library.ILogger.ERROR, library.ILogger.INTERNAL_ERROR):
                self.errors.append(message)

    log = Log()
    try:
        builder = library.Builder(log)
    except Exception as error:
        return {"version": library.__version__, "error": "; ".join(log.errors) or _said(error)}
    return {"version": library.__version__, "error": "" if builder else "; ".join(log.errors) or "no builder"}


def openvino() -> dict[str, Any]:
    """Version, devices and what the CPU plug-in computes in."""
    import openvino

    core = openvino.Core()
    types = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES") if "CPU" in core.available_devices else []
    return {"version": openvino.__version__, "devices": core.available_devices, "types": list(types)}


def images() -> dict[str, Any]:
    """Formats that Pillow reads here."""
    from PIL import features

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {name: bool(features.check(name)) for name in ("jpg", "zlib", "libtiff", "webp", "avif", "jpg_2000")}


def nvml() -> dict[str, Any]:
    """Driver and GPUs as the driver's own library tells."""
    import pynvml

    pynvml.nvmlInit()
    handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    cuda = pynvml.nvmlSystemGetCudaDriverVersion_v2()
    return {
        "driver": _text(pynvml.nvmlSystemGetDriverVersion()),
        "cuda": f"{cuda // 1000}.{cuda % 1000 // 10}",
        "gpus": [_text(pynvml.nvmlDeviceGetName(handle)) for handle in handles],
    }


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _said(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:400]}" if lines else type(error).__name__


_QUESTIONS: dict[str, Callable[..., dict[str, Any]]] = {
    function.__name__: function for function in (modules, torch, onnxruntime, provider, engine, openvino, images, nvml)
}


def main(question: str, *arguments: str) -> None:
    """Print the answer; what libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # or OpenVINO reports its import
    try:
        answer = {"facts": _QUESTIONS[question](*arguments)}
    except ModuleNotFoundError as error:
        answer = {"absent": error.name or "", "error": _said(error)}  # type: ignore[dict-item]
    except BaseException as error:
        answer = {"error": _said(error)}  # type: ignore[dict-item]
    answers.write(json.dumps(answer) + "\n")
    answers.flush()
    os._exit(0)  # some libraries crash when they are unloaded, which is no news here


if __name__ == "__main__":
    main(*sys.argv[1:])
