"""Installed packages: extras, versions that do not fit together, packages that overwrite each other's files."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata

from protoseg_deploy.diagnostics.findings import Finding

PACKAGE = "protoseg-deploy"
CORE = (
    "numpy", "PIL", "pydantic", "yaml", "click", "rich", "safetensors", "psutil", "platformdirs", "tifffile",
    "matplotlib", "ml_dtypes", "onnx", "onnxscript", "onnxruntime", "torch", "torchvision", "timm", "tensorboard",
)  # fmt: skip
"""Modules without which nothing works."""


@dataclass(frozen=True)
class Extra:
    """An extra of this package."""

    purpose: str
    modules: tuple[str, ...]


EXTRAS: Mapping[str, Extra] = {
    "serve": Extra("protoseg serve", ("uvicorn", "httptools", "starlette", "prometheus_client", "tritonclient.grpc")),
    "triton": Extra("models on servers as runtimes", ("tritonclient.http", "tritonclient.grpc")),
    "batch": Extra("predict --shards", ("pyarrow",)),
    "cloud": Extra("images in object stores", ("pyarrow", "fsspec")),
    "ray": Extra("predict --engine ray", ("pyarrow", "ray")),
    "mlflow": Extra("train.trackers: [mlflow]", ("mlflow", "pandas")),
    "wandb": Extra("train.trackers: [wandb]", ("wandb",)),
    "heic": Extra("HEIC images", ("pillow_heif",)),
    "tiff": Extra("TIFFs with LZW, ZSTD, JPEG and other compressions", ("imagecodecs",)),
}
"""Those that are no inference library, which are asked more."""

_SAME_FILES = (
    (
        "onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml", "onnxruntime-training",
        "onnxruntime-rocm", "onnxruntime-qnn",
    ),
    ("pillow", "pillow-simd"),
    ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless"),
)  # fmt: skip
"""Packages that install the same files: the one that is installed or removed last breaks the other."""
_PREFERRED = ("onnxruntime-gpu", "pillow", "opencv-python-headless")


@dataclass(frozen=True)
class Installed:
    """A distribution: its version and what it requires, as in its metadata."""

    version: str
    requires: tuple[str, ...] = ()


def installed_packages() -> dict[str, Installed]:
    """All of this environment, by their normalised names."""
    found: dict[str, Installed] = {}
    for distribution in metadata.distributions():
        name = distribution.metadata["Name"]
        if name:  # remains of a failed installation have none
            found.setdefault(_normalised(name), Installed(distribution.version, tuple(distribution.requires or ())))
    return found


def _normalised(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def overlap_findings(installed: Mapping[str, Installed]) -> list[Finding]:
    """Packages of which only one may be there."""
    found = []
    for names in _SAME_FILES:
        there = [name for name in names if name in installed]
        if len(there) < 2:
            continue
        kept = next((name for name in _PREFERRED if name in there), there[0])
        fact = f"{' and '.join(there)} install the same files: one of them is broken, or will be"
        fix = f"pip uninstall -y {' '.join(there)} && pip install {kept}"
        found.append(Finding("overlapping packages", "problem", fact, fix, details={"packages": there}))
    return found


def requirement_findings(installed: Mapping[str, Installed]) -> list[Finding]:
    """Requirements of this package, and of what it requires, that are not met."""
    name = "package versions"
    if PACKAGE not in installed:
        fact = "runs from its source, not as an installed package: required versions are unknown"
        return [Finding(name, "ok", fact)]
    try:
        unmet = list(dict.fromkeys(_unmet(installed)))
    except ImportError:
        return [
            Finding(name, "problem", "packaging is not installed: versions cannot be compared", _again("packaging"))
        ]
    if not unmet:
        return [Finding(name, "ok", "all requirements of the installed packages are met")]
    wanted = " ".join(f"'{requirement}'" for _, requirement in unmet)
    return [
        Finding(name, "problem", "; ".join(text for text, _ in unmet), f"pip install {wanted}", details={
            "unmet": [text for text, _ in unmet]
        })
    ]  # fmt: skip


def _again(name: str) -> str:
    return f"pip install --force-reinstall {name}"


def _unmet(installed: Mapping[str, Installed]) -> Iterator[tuple[str, str]]:
    """What is not met, and the requirement. Of the extras of this package, only what is there has to fit."""
    from packaging.requirements import InvalidRequirement, Requirement

    waiting: list[tuple[str, frozenset[str]]] = [(PACKAGE, frozenset())]
    seen = set(waiting)
    while waiting:
        name, extras = waiting.pop()
        for text in installed[name].requires:
            try:
                wanted = Requirement(text)
            except InvalidRequirement:
                continue
            other = _normalised(wanted.name)
            needed = wanted.marker is None or any(wanted.marker.evaluate({"extra": one}) for one in ("", *extras))
            optional = not needed and name == PACKAGE and other in installed and _holds_with_some_extra(wanted.marker)
            if not (needed or optional):
                continue
            bare = f"{wanted.name}{wanted.specifier}"
            if other not in installed:
                yield f"{name} needs {bare}, which is not installed", bare
            elif not wanted.specifier.contains(installed[other].version, prereleases=True):
                yield f"{name} needs {bare}, and {installed[other].version} is installed", bare
            elif (step := (other, frozenset(wanted.extras))) not in seen:
                seen.add(step)
                waiting.append(step)


def _holds_with_some_extra(marker: object) -> bool:
    evaluate = getattr(marker, "evaluate", None)
    return evaluate is not None and any(evaluate({"extra": extra}) for extra in (*EXTRAS, *_INFERENCE))


_INFERENCE = ("tensorrt", "tensorrt-rtx", "openvino")


def core_findings(answers: Mapping[str, Mapping[str, object]]) -> list[Finding]:
    """Core modules by what came of importing them, see `asking.modules`."""
    broken = [
        Finding(
            name,
            "problem",
            "is not installed" if answer.get("absent") else f"cannot be imported: {answer['error']}",
            _again(str(answer.get("needs") or _DISTRIBUTION.get(name, name))),
            core=True,
        )
        for name, answer in answers.items()
        if "version" not in answer
    ]
    versions = {name: answer["version"] for name, answer in answers.items() if "version" in answer}
    if broken:
        return broken
    shown = ", ".join(f"{name} {versions[name]}" for name in ("torch", "timm", "onnx", "numpy") if name in versions)
    return [Finding("core libraries", "ok", f"all {len(versions)} import: {shown}, …", details={"versions": versions})]


_DISTRIBUTION = {"PIL": "pillow", "yaml": "pyyaml"}


def extra_findings(answers: Mapping[str, Mapping[str, object]]) -> list[Finding]:
    """Extras by what came of importing their modules."""
    return [_extra(name, extra, answers) for name, extra in EXTRAS.items()]


def extra_modules() -> tuple[str, ...]:
    """Every module of an extra once."""
    return tuple(dict.fromkeys(module for extra in EXTRAS.values() for module in extra.modules))


def _extra(name: str, extra: Extra, answers: Mapping[str, Mapping[str, object]]) -> Finding:
    fix = f"pip install '{PACKAGE}[{name}]'"
    of_extra = {module: answers.get(module, {"absent": True}) for module in extra.modules}
    absent = [module for module, answer in of_extra.items() if answer.get("absent")]
    errors = [f"{module}: {answer['error']}" for module, answer in of_extra.items() if "error" in answer]
    if errors:
        return Finding(name, "problem", f"{extra.purpose}: {'; '.join(errors)}", fix)
    if absent:
        return Finding(name, "missing", f"{extra.purpose}: no {_list(absent)}", fix)
    versions = {module: answer.get("version", "") for module, answer in of_extra.items()}
    return Finding(name, "ok", extra.purpose, details={"versions": versions})


def _list(names: Iterable[str]) -> str:
    return ", ".join(names)
