"""PyTorch as the runtime of engines uses it, without a GPU: what is on the device is in main memory."""

import contextlib
import importlib.util
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from protoseg_deploy.runtimes.tensorrt import launching, memory, runtime
from tests.fake_gpu import FOLDER


class _Stream:
    cuda_stream = 1

    def __init__(self, _device: object = None) -> None: ...
    def wait_stream(self, _other: object) -> None: ...
    def synchronize(self) -> None: ...


class _HostTorch:
    cuda = SimpleNamespace(
        is_available=lambda: True,
        get_device_name=lambda: "Fake GPU",
        get_device_capability=lambda: (8, 6),
        current_device=lambda: 0,
        current_stream=lambda _device: None,
        stream=lambda _stream: contextlib.nullcontext(),
        Stream=_Stream,
    )

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def device(self, *_words: object) -> torch.device:
        return torch.device("cpu")

    def empty(self, *words: Any, pin_memory: bool = False, **options: Any) -> torch.Tensor:
        return torch.empty(*words, **options)


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the runtime of engines finds a GPU and TensorRT, which computes engines of `fake_plan`."""
    spec = importlib.util.spec_from_file_location("tensorrt", FOLDER / "tensorrt.py")
    library = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(library)
    monkeypatch.setitem(sys.modules, "tensorrt", library)
    for module in (launching, memory, runtime):
        monkeypatch.setattr(module, "torch", _HostTorch())
    monkeypatch.setattr(runtime, "record_cuda_graph", _cannot_be_recorded)


def _cannot_be_recorded(*_words: object) -> None:
    raise RuntimeError("there are no CUDA graphs in main memory")
