"""All probes of this machine, in the order of the report."""

import getpass
import os
import platform
import shutil
import socket
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from protoseg_deploy import __version__
from protoseg_deploy.diagnostics import accelerators, packages, processor, resources, surroundings
from protoseg_deploy.diagnostics.cgroups import read_limits
from protoseg_deploy.diagnostics.findings import Finding, Section
from protoseg_deploy.diagnostics.isolation import Answer, Ask, Processes
from protoseg_deploy.diagnostics.machine import Machine, this_machine
from protoseg_deploy.diagnostics.privacy import Scrubber

_AT_ONCE = 4
_DEFAULT_BATCH = (321, 8, 8)
"""Crop and images of a batch of the recipe's defaults."""


def examine(machine: Machine | None = None) -> list[Section]:
    """Look at this machine; takes some ten seconds, most of them for loading libraries.

    Args:
        machine: as probes shall see it; this one when absent.
    """
    machine = machine or this_machine()
    processes = Processes()
    with ThreadPoolExecutor(min(_AT_ONCE, max(2, machine.usable_cores))) as pool:
        try:
            return _sections(machine, _Answers(processes.ask, pool))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            processes.stop()
            raise


class _Answers:
    """Answers of all libraries, asked for at once."""

    def __init__(self, ask: Ask, pool: ThreadPoolExecutor) -> None:
        self._ask, self._pool = ask, pool
        self._core = self._later("modules", *packages.CORE)
        self._torch = self._later("torch")
        self._onnxruntime = self._later("onnxruntime")
        self._extras = self._later("modules", *packages.extra_modules())
        self._rest = {name: self._later(name) for name in ("nvml", "openvino", "images")}
        self._engines = {name: self._later("engine", name) for name in ("tensorrt", "tensorrt_rtx")}

    def _later(self, *question: str) -> "Future[Answer]":
        return self._pool.submit(self._ask, *question)

    def core(self) -> dict[str, Any]:
        return self._imported(self._core, packages.CORE)

    def extras(self) -> dict[str, Any]:
        return self._imported(self._extras, packages.extra_modules())

    def _imported(self, future: "Future[Answer]", names: tuple[str, ...]) -> dict[str, Any]:
        """What came of importing modules together; where one takes the process down, each is tried alone."""
        answer = future.result()
        if answer.kind == "answered":
            return answer.facts
        alone = {name: self._later("modules", name) for name in names}
        answers = {name: future.result() for name, future in alone.items()}
        return {
            name: one.facts[name] if one.kind == "answered" else {"error": one.error} for name, one in answers.items()
        }

    def torch(self) -> Answer:
        return self._torch.result()

    def of(self, name: str) -> Answer:
        return self._rest[name].result()

    def engine(self, name: str) -> Answer:
        return self._engines[name].result()

    def onnxruntime(self) -> tuple[Answer, Mapping[str, Answer]]:
        answer = self._onnxruntime.result()
        wanted = (accelerators.CPU_PROVIDER, *accelerators.GPU_PROVIDERS)
        listed = [name for name in wanted if name in answer.facts.get("providers", ())]
        asked = {name: self._later("provider", name) for name in listed}
        return answer, {name: future.result() for name, future in asked.items()}


def _sections(machine: Machine, answers: _Answers) -> list[Section]:
    nvml = answers.of("nvml")
    gpu = nvml.kind == "answered" and bool(nvml.facts["gpus"])
    runtime, providers = answers.onnxruntime()
    tensorrt, rtx = answers.engine("tensorrt"), answers.engine("tensorrt_rtx")
    return [
        Section("Python and packages", tuple(_python(answers))),
        Section("Processor, memory, disk", tuple(_resources(machine, gpu=gpu))),
        Section(
            "GPU",
            (
                accelerators.driver_finding(nvml, machine),
                *accelerators.torch_findings(answers.torch(), driver=gpu),
            ),
        ),
        Section(
            "Inference",
            (
                *accelerators.provider_findings(runtime, providers, gpu=gpu),
                accelerators.engine_finding("TensorRT", "tensorrt", tensorrt, needs_gpu=True, gpu=gpu),
                accelerators.engine_finding("TensorRT-RTX", "tensorrt-rtx", rtx, needs_gpu=False, gpu=gpu),
                accelerators.openvino_finding(answers.of("openvino")),
            ),
        ),
        Section(
            "Extras",
            (
                *surroundings.image_findings(answers.of("images")),
                *packages.extra_findings(answers.extras()),
                surroundings.compiler_finding(shutil.which),
            ),
        ),
    ]


def _python(answers: _Answers) -> list[Finding]:
    interpreter = surroundings.Interpreter(
        version=(sys.version_info.major, sys.version_info.minor, sys.version_info.micro),
        implementation=platform.python_implementation(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        filesystem_encoding=sys.getfilesystemencoding(),
        output_encoding=getattr(sys.stdout, "encoding", None) or "none",
        is_64_bit=sys.maxsize > 2**32,
    )
    python, text = surroundings.python_findings(interpreter)
    installed = packages.installed_packages()
    return [
        python,
        Finding("protoseg", "ok", __version__),
        *packages.core_findings(answers.core()),
        *packages.requirement_findings(installed),
        *packages.overlap_findings(installed),
        text,
        surroundings.variable_finding(os.environ),
    ]


def _resources(machine: Machine, *, gpu: bool) -> list[Finding]:
    limits = read_limits(machine)
    cores = machine.usable_cores
    workers = max(1, min(8, cores - 1)) if gpu else 1
    folders = {"working folder": Path.cwd(), "temporary folder": Path(_temporary_folder()), **_cache_folders()}
    shared = resources.space_of(Path("/dev/shm"))  # noqa: S108
    return [
        *processor.processor_findings(machine),
        resources.core_finding(machine, limits),
        resources.memory_finding(machine, limits),
        resources.shared_memory_finding(machine, shared, resources.default_batch_bytes(*_DEFAULT_BATCH), workers),
        *resources.disk_findings(folders),
    ]


def _temporary_folder() -> str:
    try:
        return tempfile.gettempdir()
    except OSError:  # none can be written
        return os.environ.get("TMPDIR", "/tmp")  # noqa: S108


def _cache_folders() -> dict[str, Path]:
    """Of this program, and of the pretrained weights that timm downloads."""
    home = Path("~").expanduser()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    own = os.environ.get("PROTOSEG_CACHE")
    with suppress(ImportError):
        from platformdirs import user_cache_path

        own = own or str(user_cache_path("protoseg", appauthor=False))
    weights = Path(os.environ.get("HF_HOME") or cache / "huggingface")
    return {"cache folder": Path(own or cache / "protoseg"), "weights folder": weights}


def scrubber() -> Scrubber:
    """For what is said about this machine."""
    homes = {str(Path("~").expanduser()), os.path.realpath(Path("~").expanduser())}
    users = set()
    with suppress(OSError, KeyError, ImportError):  # a user without an entry, as in many containers
        users.add(getpass.getuser())
    hosts = {name for host in (socket.gethostname(), platform.node()) for name in (host, host.partition(".")[0])}
    return Scrubber(homes, users | {Path(home).name for home in homes}, hosts)
