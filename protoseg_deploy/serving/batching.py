"""Dynamic batching: requests that wait for a network at the same time are computed together.

An answer is the same whatever it is computed together with: images of a batch do not see each other. Only images of one
size, of which the same outputs are asked for, share a batch.
"""

import asyncio
import functools
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protoseg_deploy.runtimes.base import UInt8Array
from protoseg_deploy.serving.requests import RequestError

Outputs = dict[str, NDArray[Any]]
Compute = Callable[[UInt8Array, Sequence[str]], Outputs]
"""``[B,H,W,3]`` uint8 RGB and names of outputs to arrays; called in a thread of its own."""


@dataclass(frozen=True)
class Batching:
    """What is computed together."""

    images: int
    """At most."""
    delay_s: float
    """How long a batch that is not full waits."""
    pixels: int | None
    """At most, in all images of several requests."""


@dataclass(frozen=True)
class Timing:
    """Where the time of a request went, and in what company; seconds."""

    queue_s: float
    compute_s: float
    batch: int
    """Images computed together."""


@dataclass(eq=False)
class _Job:
    images: UInt8Array
    outputs: tuple[str, ...]
    done: "asyncio.Future[tuple[Outputs, Timing]]"
    arrived: float = field(default_factory=time.perf_counter)

    @property
    def key(self) -> tuple[Any, ...]:
        return self.images.shape[1:], self.outputs


class Batcher:
    """A queue in front of the instances of a model. All methods belong to one event loop.

    Args:
        instances: each computes one batch at a time, all at once.
        max_batch: images of a batch; a request with more is a batch of its own.
        delay_s: how long a batch that is not full waits for more requests.
        queue: requests that may wait.
        queue_pixels: all their images together; one request may always wait alone. None: any number.
        max_pixels: of a batch of several requests; None: any number. On a CPU a batch saves the cost of a call, which
            counts for small images; large ones are better spread over the instances.
    """

    def __init__(
        self,
        instances: Sequence[Compute],
        *,
        max_batch: int,
        delay_s: float,
        queue: int,
        queue_pixels: int | None = None,
        max_pixels: int | None = None,
    ) -> None:
        self._max_batch, self._delay_s, self._queue, self._max_pixels = max_batch, delay_s, queue, max_pixels
        self._queue_pixels = queue_pixels
        self._waiting: deque[_Job] = deque()
        self._arrived = asyncio.Condition()
        self._closing = False
        self._computing = 0
        self._threads = ThreadPoolExecutor(len(instances), thread_name_prefix="infer")
        self._workers = [asyncio.create_task(self._work(compute)) for compute in instances]

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._waiting)

    @property
    def computing(self) -> int:
        """Batches being computed."""
        return self._computing

    async def submit(self, images: UInt8Array, outputs: Sequence[str]) -> tuple[Outputs, Timing]:
        """Compute images; a caller that is cancelled gives up its place in the queue.

        Args:
            images: ``[N,H,W,3]`` uint8 RGB.
            outputs: names.

        Raises:
            RequestError: the queue is full, or the model is being unloaded.
            Exception: whatever the computation raises.
        """
        if self._closing:
            raise RequestError("busy", "the model is being unloaded")
        if len(self._waiting) >= self._queue:
            raise RequestError("busy", f"{len(self._waiting)} requests are waiting for this model already")
        pixels = sum(_pixels(job.images) for job in self._waiting)
        if self._queue_pixels is not None and pixels and pixels + _pixels(images) > self._queue_pixels:
            raise RequestError("busy", f"images of {pixels:,} pixels are waiting for this model already")
        job = _Job(images, tuple(outputs), asyncio.get_running_loop().create_future())
        async with self._arrived:
            self._waiting.append(job)
            self._arrived.notify_all()
        return await job.done

    async def close(self) -> None:
        """Compute what is waiting, take nothing more, and end."""
        self._closing = True
        async with self._arrived:
            self._arrived.notify_all()
        await asyncio.gather(*self._workers)
        self._threads.shutdown()

    async def _work(self, compute: Compute) -> None:
        while batch := await self._next_batch():
            self._computing += 1
            try:
                await self._compute(compute, batch)
            finally:
                self._computing -= 1

    async def _compute(self, compute: Compute, batch: list[_Job]) -> None:
        started = time.perf_counter()
        call = functools.partial(_computed, compute, [job.images for job in batch], batch[0].outputs)
        try:
            parts = await asyncio.get_running_loop().run_in_executor(self._threads, call)
        except Exception as error:
            if len(batch) > 1:  # one request does not fail because of another one
                for job in batch:
                    await self._compute(compute, [job])
            elif not batch[0].done.done():
                batch[0].done.set_exception(error)
            return
        seconds, size = time.perf_counter() - started, sum(len(job.images) for job in batch)
        for job, part in zip(batch, parts, strict=True):
            if not job.done.done():
                job.done.set_result((part, Timing(started - job.arrived, seconds, size)))

    async def _next_batch(self) -> list[_Job]:
        """The job that has waited longest and others like it; nothing: the batcher was closed."""
        async with self._arrived:
            while True:
                self._drop_given_up()
                if self._waiting:
                    break
                if self._closing:
                    return []
                await self._arrived.wait()
        first = self._waiting.popleft()
        batch, images = [first], len(first.images)
        most = self._most_images(first)
        images = self._add_alike(batch, images, most)
        deadline = first.arrived + self._delay_s
        while images < most and not self._closing and (left := deadline - time.perf_counter()) > 0:
            try:
                async with asyncio.timeout(left), self._arrived:
                    await self._arrived.wait()
            except TimeoutError:
                break
            images = self._add_alike(batch, images, most)
        return batch

    def _most_images(self, first: _Job) -> int:
        """Of a batch that begins with a job."""
        if self._max_pixels is None:
            return self._max_batch
        height, width = first.images.shape[1:3]
        return max(1, min(self._max_batch, self._max_pixels // int(height * width)))

    def _add_alike(self, batch: list[_Job], images: int, most: int) -> int:
        """Move waiting jobs that may join a batch into it, in order; returns its images."""
        self._drop_given_up()
        for job in list(self._waiting):
            if job.key == batch[0].key and images + len(job.images) <= most:
                self._waiting.remove(job)
                batch.append(job)
                images += len(job.images)
        return images

    def _drop_given_up(self) -> None:
        if any(job.done.done() for job in self._waiting):
            self._waiting = deque(job for job in self._waiting if not job.done.done())


def _pixels(images: UInt8Array) -> int:
    return int(images.size // images.shape[-1])


def _computed(compute: Compute, images: Sequence[UInt8Array], outputs: Sequence[str]) -> list[Outputs]:
    if len(images) == 1:
        return [compute(images[0], outputs)]
    found = compute(np.concatenate(images), outputs)
    ends = np.cumsum([len(part) for part in images])[:-1]
    split = {name: np.split(values, ends) for name, values in found.items()}
    return [{name: parts[index] for name, parts in split.items()} for index in range(len(images))]
