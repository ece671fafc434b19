"""A served model: requests in, answers out, every step of a request in one place."""

import asyncio
import functools
import logging
import time
from collections.abc import Callable
from typing import Any, TypeVar

from protoseg_deploy.bundles.contract import CLASS_MAP, INPUT
from protoseg_deploy.evaluation.computing import is_out_of_memory
from protoseg_deploy.runtimes.base import UInt8Array
from protoseg_deploy.serving.artefact import CLASS_MAP_PNG, IMAGE_PNG, Artefact, compute_outputs
from protoseg_deploy.serving.batching import Batcher, Batching, Outputs
from protoseg_deploy.serving.images import image_pngs, images_of, palette_pngs, require_size
from protoseg_deploy.serving.limits import LARGE_REQUEST_BYTES, Limits
from protoseg_deploy.serving.metrics import Metrics
from protoseg_deploy.serving.requests import (
    DATATYPES,
    InferRequest,
    InferResponse,
    OutputTensor,
    RequestError,
)
from protoseg_deploy.serving.statistics import Statistics

T = TypeVar("T")
_log = logging.getLogger(__name__)


class Model:
    """One version of a model, from the moment its artefact is open until its last answer.

    Args:
        artefact: what computes.
        version: counted from 1 since the server started.
        limits: of the server.
        batching: what is computed together.
        metrics: of the server.
    """

    def __init__(self, artefact: Artefact, version: int, limits: Limits, batching: Batching, metrics: Metrics) -> None:
        self.artefact = artefact
        self.name = artefact.spec.name
        self.version = str(version)
        self.limits = limits
        self.statistics = Statistics()
        self._metrics = metrics
        self._begun = 0
        self._idle = asyncio.Event()
        self._idle.set()
        calls = [functools.partial(compute_outputs, instance) for instance in artefact.instances]
        self.batcher = Batcher(
            calls,
            max_batch=batching.images,
            delay_s=batching.delay_s,
            queue=limits.queued_requests,
            queue_pixels=limits.queued_pixels,
            max_pixels=batching.pixels,
        )

    async def infer(self, request: InferRequest) -> InferResponse:
        """Answer a request.

        Raises:
            RequestError: whatever keeps it from being answered; details of the server are in its log, not in this.
        """
        started = time.perf_counter()
        self._begun += 1
        self._idle.clear()
        try:
            async with asyncio.timeout(self.limits.request_seconds):
                return await self._infer(request, started)
        except BaseException as error:
            self.statistics.add_failure(time.perf_counter() - started)
            if isinstance(error, RequestError):
                raise
            if isinstance(error, TimeoutError):
                raise RequestError(
                    "timeout", f"no answer within {self.limits.request_seconds:g} s; the request was given up"
                ) from None
            if not isinstance(error, Exception):
                raise
            if is_out_of_memory(error):
                raise RequestError("too large", "too many pixels at once for the memory of the server") from None
            _log.exception("model %s version %s failed", self.name, self.version)
            raise RequestError("internal", "the model failed on this request; the log of the server says why") from None
        finally:
            self._begun -= 1
            if self._begun == 0:
                self._idle.set()

    async def close(self) -> None:
        """Answer every request that has begun, also those that are still being decoded; then let go of the artefact."""
        await self._idle.wait()
        await self.batcher.close()

    async def _infer(self, request: InferRequest, started: float) -> InferResponse:
        names = self._wanted(request)
        if len(request.inputs) != 1:
            raise RequestError("invalid", f"the model has one input, {INPUT!r}; the request has {len(request.inputs)}")
        tensor, metadata = request.inputs[0], self.artefact.facts.metadata
        read = functools.partial(images_of, tensor, metadata.reading, self.artefact.fixed_size, self.limits)
        small = tensor.datatype == "UINT8" and isinstance(tensor.data, bytes | memoryview)
        images = read() if small else await asyncio.to_thread(read)
        require_size(images, self.artefact.size_range)
        read_s = time.perf_counter() - started
        outputs, timing = await self.batcher.submit(images, names)
        encoding = time.perf_counter()
        tensors = await self._tensors(names, images, outputs)
        ended = time.perf_counter()
        self.statistics.add(len(images), timing, read_s, ended - encoding, ended - started)
        self.statistics.last_ms = round(time.time() * 1000)
        self._metrics.observe(self, len(images), timing)
        return InferResponse(self.name, self.version, request.id, tensors)

    def _wanted(self, request: InferRequest) -> tuple[str, ...]:
        known = self.artefact.outputs
        if not request.outputs:
            return tuple(port.name for port in self.artefact.ports)
        unknown = [name for name in request.outputs if name not in known]
        if unknown or len(set(request.outputs)) < len(request.outputs):
            reason = f"there is no output {unknown[0][:100]!r}" if unknown else "an output is asked for twice"
            raise RequestError("invalid", f"{reason}: the model gives {', '.join(known)}")
        return request.outputs

    async def _tensors(self, names: tuple[str, ...], images: UInt8Array, outputs: Outputs) -> tuple[OutputTensor, ...]:
        tensors = []
        for name in names:
            if name == CLASS_MAP_PNG:
                maps, colors = outputs[CLASS_MAP], self.artefact.facts.metadata.classes.colors
                pngs = await _in_thread(palette_pngs, maps, colors, large=maps.size > LARGE_REQUEST_BYTES // 16)
                tensors.append(OutputTensor(name, "BYTES", (len(pngs),), pngs))
            elif name == IMAGE_PNG:
                pngs = await _in_thread(image_pngs, images, large=images.size > LARGE_REQUEST_BYTES // 16)
                tensors.append(OutputTensor(name, "BYTES", (len(pngs),), pngs))
            else:
                values = outputs[name]
                tensors.append(OutputTensor(name, DATATYPES[values.dtype.name], values.shape, values))
        return tuple(tensors)


async def _in_thread(call: Callable[..., T], *arguments: Any, large: bool) -> T:
    return await asyncio.to_thread(call, *arguments) if large else call(*arguments)
