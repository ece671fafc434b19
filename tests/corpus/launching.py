"""Runs ``protoseg`` hundreds of times without importing PyTorch hundreds of times.

A server process imports everything once and forks for each call: every call is a process of its own, as from a shell,
with its own exit code, signals, environment and working folder. One that hangs is killed, one that crashes takes
nothing along.
"""

import contextlib
import faulthandler
import gc
import importlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LIMIT_S = 60.0
"""A call that takes longer hangs. No case computes for more than a few seconds, on a busy machine either."""
MEMORY_MIB = 2048
"""A call that wants more, beside what is imported, gets a MemoryError: reading without end is not to take all."""

_PRELOADED = (
    "onnx", "onnxruntime", "onnxscript", "timm", "torch.onnx", "torch.utils.tensorboard", "torchvision.transforms.v2",
    "sklearn.cluster", "rich.console", "rich.table", "protoseg_deploy.cli.check", "protoseg_deploy.cli.train",
    "protoseg_deploy.cli.predict", "protoseg_deploy.cli.export", "protoseg_deploy.cli.verify", "protoseg_deploy.data",
    "protoseg_deploy.methods", "protoseg_deploy.training", "protoseg_deploy.exporting", "protoseg_deploy.distillation",
    "protoseg_deploy.evaluation.evaluate", "protoseg_deploy.evaluation.prediction", "protoseg_deploy.runtimes.opening",
)  # fmt: skip


@dataclass(frozen=True)
class Ended:
    """How a call of ``protoseg`` ended."""

    code: int
    """Exit code; negative: the signal that ended it."""
    hung: bool
    out: bytes
    err: bytes


class Launcher:
    """A server process for calls of ``protoseg``; a context manager."""

    def __enter__(self) -> "Launcher":
        environment = os.environ | {
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        self._server = subprocess.Popen(
            [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
        )
        return self

    def __exit__(self, *exception: object) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait()

    def call(
        self,
        arguments: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        *,
        encoding: str = "utf-8",
        limit_s: float = LIMIT_S,
        memory_mib: int = MEMORY_MIB,
    ) -> Ended:
        """Run ``protoseg ARGUMENTS`` and wait for its end.

        Args:
            arguments: of the command line.
            folder: to work in.
            environment: beside that of the tests.
            encoding: of standard output and standard error, as ``PYTHONIOENCODING`` sets it.
            limit_s: kill it after this time.
            memory_mib: address space it may take beside what is imported.
        """
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        with tempfile.TemporaryDirectory() as written:
            request = {
                "arguments": [os.fsencode(word).hex() for word in arguments],
                "folder": str(folder),
                "environment": dict(environment),
                "encoding": encoding,
                "limit_s": limit_s,
                "memory_mib": memory_mib,
                "written": written,
            }
            print(json.dumps(request), file=self._server.stdin, flush=True)
            answer = json.loads(self._server.stdout.readline())
            out, err = ((Path(written) / name).read_bytes() for name in ("out", "err"))
            return Ended(answer["code"], answer["hung"], out, err)


def _serve() -> None:
    for module in _PRELOADED:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # a collection in a forked process would copy every page of what is imported
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _be_protoseg(request)
        print(json.dumps(_wait(pid, request["limit_s"])), flush=True)
    os._exit(0)  # nothing to tidy up that would be worth the seconds


def _wait(pid: int, limit_s: float) -> dict[str, Any]:
    hung, end = False, time.monotonic() + limit_s
    while True:
        ended, status = os.waitpid(pid, 0 if hung else os.WNOHANG)
        if ended:
            break
        if time.monotonic() > end:
            hung = True
            os.kill(pid, signal.SIGUSR1)  # says where it hangs
            time.sleep(0.5)
            os.killpg(pid, signal.SIGKILL)
        else:
            time.sleep(0.003)
    with contextlib.suppress(ProcessLookupError):  # data-loader workers that outlive it
        os.killpg(pid, signal.SIGKILL)
    return {"code": os.waitstatus_to_exitcode(status), "hung": hung}


def _be_protoseg(request: Mapping[str, Any]) -> None:
    """What the installed script does, in a forked process; never returns."""
    code = 70
    try:
        os.setsid()
        _redirect(request)
        os.chdir(request["folder"])
        os.environ.update(request["environment"])
        tempfile.tempdir = None  # read again from the environment
        _limit_memory(request["memory_mib"])
        sys.argv = ["protoseg", *(os.fsdecode(bytes.fromhex(word)) for word in request["arguments"])]
        from protoseg_deploy.cli import main

        code = _exit_code(main)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    except BaseException:  # as the interpreter does it at its end
        code = 1
        traceback.print_exc()
        with contextlib.suppress(Exception):
            sys.stderr.flush()
    finally:
        os._exit(code)


def _exit_code(main: Any) -> int:
    try:
        main()
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    return 0


def _redirect(request: Mapping[str, Any]) -> None:
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    for descriptor, name in ((1, "out"), (2, "err")):
        file = os.open(Path(request["written"]) / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(file, descriptor)
        os.close(file)
    sys.stdin = io.TextIOWrapper(io.FileIO(0, "rb", closefd=False), encoding="utf-8")
    sys.stdout = _writer(1, request["encoding"], "strict")
    sys.stderr = _writer(2, request["encoding"], "backslashreplace")
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
    faulthandler.enable(file=2)
    faulthandler.register(signal.SIGUSR1, file=2)


def _writer(descriptor: int, encoding: str, errors: str) -> io.TextIOWrapper:
    raw = io.BufferedWriter(io.FileIO(descriptor, "wb", closefd=False))
    return io.TextIOWrapper(raw, encoding=encoding, errors=errors, line_buffering=descriptor == 2)


def _limit_memory(mib: int) -> None:
    import resource

    import psutil

    most = psutil.Process().memory_info().vms + mib * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


if __name__ == "__main__":
    _serve()
