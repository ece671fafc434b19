"""Launching an engine on tensors, recorded as a CUDA graph where that pays."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from protoseg_deploy.errors import ProtosegError
from protoseg_deploy.runtimes.tensorrt.library import reasons


class Recording(Protocol):
    """A recorded launch, such as `torch.cuda.CUDAGraph`."""

    def replay(self) -> None: ...


@dataclass(eq=False)
class Binding:
    """Tensors an engine reads and writes; their addresses do not change."""

    images: Tensor
    outputs: Mapping[str, Tensor]


class Launcher:
    """Launches an execution context on bindings, one at a time.

    The second launch in a row of the same binding is recorded and later ones replay it: some hundred kernel launches
    become one. The first cannot be, since the context prepares for a new shape while it runs. A recording refers to
    memory of the context, which another shape may claim; so it is dropped as soon as anything else is launched.

    Args:
        context: an execution context of an engine.
        log: of the library, for what it says when a launch fails.
        source: the engine file, for messages.
        input_name: of the engine's one input.
        stream: number of the CUDA stream to launch on.
        record: calls a function while a stream is being recorded; None: launches are not recorded.
    """

    def __init__(
        self,
        context: Any,
        log: Any,
        source: object,
        input_name: str,
        stream: int,
        record: Callable[[Callable[[], None]], Recording] | None,
    ) -> None:
        self._context, self._log, self._source = context, log, source
        self._input, self._stream, self._record = input_name, stream, record
        self._active: Binding | None = None
        self._recording: Recording | None = None

    @property
    def records(self) -> bool:
        """Whether repeated launches are recorded; no longer so once one could not be."""
        return self._record is not None

    def output_shapes(self, shape: tuple[int, ...], names: Mapping[str, object]) -> dict[str, tuple[int, ...]]:
        """Shapes of the outputs for a shape of the input."""
        self._forget()
        self._context.set_input_shape(self._input, shape)
        return {name: tuple(self._context.get_tensor_shape(name)) for name in names}

    def launch(self, binding: Binding) -> None:
        """Run the engine; returns before it is done.

        Raises:
            ProtosegError: the library cannot.
        """
        if binding is not self._active:
            self._activate(binding)
            self._enqueue()
            return
        if self._recording is None and self._record is not None:
            try:
                self._recording = self._record(self._enqueue)
            except (RuntimeError, ProtosegError):  # the engine does something that cannot be recorded
                self._record = None
        if self._recording is not None:
            self._recording.replay()
        else:
            self._enqueue()

    def _activate(self, binding: Binding) -> None:
        self._forget()
        self._context.set_input_shape(self._input, tuple(binding.images.shape))
        for name, tensor in {self._input: binding.images, **binding.outputs}.items():
            self._context.set_tensor_address(name, tensor.data_ptr())
        self._active = binding

    def _forget(self) -> None:
        self._active = self._recording = None

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._stream):
            raise ProtosegError(f"{self._source} failed while running: {reasons(self._log)}")


def record_cuda_graph(stream: torch.cuda.Stream, enqueue: Callable[[], None]) -> torch.cuda.CUDAGraph:
    """What a function launches on a stream, as a CUDA graph; nothing is run yet."""
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    # Other threads may go on allocating: only what this one does belongs to the recording.
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        enqueue()
    return graph
