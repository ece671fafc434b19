"""Python, text encodings, image formats, tools and variables that change what libraries do."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from protoseg_deploy.diagnostics.findings import Finding
from protoseg_deploy.diagnostics.isolation import Answer

_OLDEST_PYTHON = (3, 11)
_SHOWN = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA",
    "DNNL_MAX_CPU_ISA", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "CUDA_LAUNCH_BLOCKING", "CUDA_MODULE_LOADING",
    "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF", "NVIDIA_TF32_OVERRIDE", "CUBLAS_WORKSPACE_CONFIG", "OMP_PROC_BIND",
    "KMP_AFFINITY", "MALLOC_ARENA_MAX", "HF_HUB_OFFLINE", "PYTHONUTF8", "PYTHONIOENCODING", "PYTHONHASHSEED",
    "PYTHONOPTIMIZE", "PILLOW_BLOCKS_MAX", "PROTOSEG_TIMEOUT", "WANDB_MODE",
)  # fmt: skip
"""Variables whose values are shown: switches and numbers. What may hold a path, an address or a secret is not."""
_NAMED = (
    "LD_LIBRARY_PATH", "LD_PRELOAD", "PYTHONPATH", "PROTOSEG_CACHE", "XDG_CACHE_HOME", "HF_HOME", "TMPDIR",
    "MLFLOW_TRACKING_URI",
)  # fmt: skip
"""Variables of which only is said that they are set."""


@dataclass(frozen=True)
class Interpreter:
    """Python, and how it reads and writes text."""

    version: tuple[int, int, int]
    implementation: str
    system: str
    """Operating system and architecture, without the name of the machine."""
    filesystem_encoding: str
    output_encoding: str
    is_64_bit: bool


def python_findings(interpreter: Interpreter) -> list[Finding]:
    """Version of Python; encodings of file names and of the output."""
    version = ".".join(map(str, interpreter.version))
    fact = f"{interpreter.implementation} {version} on {interpreter.system}"
    python = Finding("Python", "ok", fact, core=True)
    if interpreter.version[:2] < _OLDEST_PYTHON or not interpreter.is_64_bit:
        wanted = f"64-bit Python {'.'.join(map(str, _OLDEST_PYTHON))} or newer is needed"
        python = Finding(
            "Python", "problem", f"{fact}: {wanted}", "Make an environment with a newer Python.", core=True
        )
    return [python, _encoding(interpreter.filesystem_encoding, interpreter.output_encoding)]


def _encoding(names: str, output: str) -> Finding:
    details = {"filesystem_encoding": names, "output_encoding": output}
    if not _is_utf_8(names):
        fact = f"file names are read as {names}: names with other characters show as bytes, or cannot be found"
        return Finding("text", "problem", fact, "export LC_ALL=C.UTF-8, or PYTHONUTF8=1", details=details)
    if not _is_utf_8(output):
        fact = f"file names in UTF-8; output in {output}, characters that it lacks are replaced"
        return Finding("text", "ok", fact, details=details)
    return Finding("text", "ok", "UTF-8", details=details)


def _is_utf_8(encoding: str) -> bool:
    return encoding.lower().replace("_", "-") in ("utf-8", "utf8", "utf-8-sig")


def image_findings(answer: Answer) -> list[Finding]:
    """Formats that Pillow reads; HEIC and further TIFFs are extras."""
    again = "pip install --force-reinstall pillow"
    if answer.kind != "answered":
        return [Finding("images", "problem", answer.error, again, core=True)]
    titles = {"webp": "WebP", "avif": "AVIF", "jpg_2000": "JPEG 2000"}
    lacking = [name for name in ("jpg", "zlib") if not answer.facts.get(name)]
    if lacking:
        return [Finding("images", "problem", "this Pillow reads no JPEG or no PNG", again, core=True)]
    there = [title for name, title in titles.items() if answer.facts.get(name)]
    absent = [title for name, title in titles.items() if not answer.facts.get(name)]
    found = [Finding("images", "ok", f"JPEG, PNG, TIFF, BMP, GIF, {', '.join(there)}", details=answer.facts)]
    if absent:
        found.append(
            Finding(", ".join(absent), "missing", "this Pillow was built without", "pip install --upgrade pillow")
        )
    return found


def compiler_finding(which: Callable[[str], str | None]) -> Finding:
    """A C++ compiler, which ``train.compile: true`` needs on a CPU."""
    found = next((name for name in ("g++", "clang++", "c++", "cl") if which(name)), None)
    if found:
        return Finding("C++ compiler", "ok", f"{found}: train.compile and the C++ runner can be compiled")
    fact = "none: train.compile: true does not work, and the C++ runner cannot be built"
    return Finding("C++ compiler", "missing", fact, "sudo apt install g++")


def variable_finding(environment: Mapping[str, str]) -> Finding:
    """Variables that change what libraries do."""
    shown = {name: environment[name] for name in _SHOWN if name in environment}
    named = [name for name in _NAMED if name in environment]
    parts = [f"{name}={value}" for name, value in shown.items()] + [f"{name} (value not shown)" for name in named]
    fact = ", ".join(parts) or "none that change what libraries do"
    return Finding("variables", "ok", fact, details={"values": shown, "also_set": named})
