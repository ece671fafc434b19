"""A runtime whose failures say what they are: too little memory, an image it does not take, or a broken artefact."""

from typing import Any, Literal

import numpy as np

from protoseg_deploy.errors import ProtosegError, UsageError
from protoseg_deploy.runtimes.base import Runtime, RuntimeInfo, TimedPrediction, UInt8Array, check_images

_PROBE_SIDE = 256
"""Pixels; for artefacts that take any size."""

# Libraries say it by a message only, each in its own words.
_MEMORY_SIGNS = ("out of memory", "not enough memory", "insufficient memory", "allocat", "bad_alloc", "alloc_failed")


class ComputeError(ProtosegError):
    """A runtime gave no class map.

    Args:
        reason: in one line, without the image.
        kind: ``memory``, or ``runtime`` for everything else.
        is_refusal: the runtime itself says that it does not take such images; nothing is wrong with it.
    """

    def __init__(self, reason: str, kind: Literal["memory", "runtime"], hint: str = "", *, is_refusal: bool = False):
        super().__init__(reason, hint)
        self.kind: Literal["memory", "runtime"] = kind
        self.is_refusal = is_refusal


class CheckedRuntime:
    """A runtime that raises `ComputeError` whatever goes wrong, and whose class maps are class maps.

    Args:
        runtime: what computes.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    @property
    def info(self) -> RuntimeInfo:
        return self._runtime.info

    def predict(self, images: UInt8Array) -> UInt8Array:
        """See `Runtime.predict`.

        Raises:
            ComputeError: too little memory, images the runtime does not take, a failure of its library, or a result
                that is no class map of these images.
        """
        try:
            check_images(images, self.info)
            class_maps = self._runtime.predict(images)
        except UsageError as error:
            raise ComputeError(error.message, "runtime", error.hint, is_refusal=True) from None
        except Exception as error:
            # PyTorch, ONNX Runtime, OpenVINO, TensorRT and CUDA have no base class in common for what they cannot
            # compute, and none for too little memory.
            if is_out_of_memory(error):
                raise ComputeError("too many pixels at once for the memory", "memory") from None
            raise ComputeError(_in_one_line(error), "runtime") from error
        self._check(class_maps, images.shape[:3])
        return class_maps

    def predict_timed(self, images: UInt8Array) -> TimedPrediction:
        """See `Runtime.predict_timed`."""
        return self._runtime.predict_timed(images)

    def works(self) -> bool:
        """Whether it predicts a plain grey image: then a failure before was due to the image it was given."""
        info = self.info
        height, width = info.fixed_size or (_PROBE_SIDE, _PROBE_SIDE)
        if info.size_range is not None:
            (lowest, narrowest), (highest, widest) = info.size_range
            height, width = max(lowest, min(height, highest)), max(narrowest, min(width, widest))
        batch = info.batch_range[0] if info.batch_range is not None else 1
        try:
            self.predict(np.full((batch, height, width, 3), 127, np.uint8))
        except ComputeError as error:
            return error.kind == "memory"
        return True

    def _check(self, class_maps: Any, shape: tuple[int, ...]) -> None:
        found = f"{class_maps.dtype} {list(class_maps.shape)}"
        if class_maps.shape != shape or not np.issubdtype(class_maps.dtype, np.integer):
            raise ComputeError(f"the class map is {found}, not integers {list(shape)}", "runtime")
        lowest, highest, classes = int(class_maps.min()), int(class_maps.max()), len(self.info.classes)
        if lowest < 0 or highest >= classes:
            strange = lowest if lowest < 0 else highest
            raise ComputeError(f"the class map holds {strange}: classes are 0..{classes - 1}", "runtime")


def check_batch(info: RuntimeInfo, batch: int | None) -> None:
    """Refuse a batch that an engine does not take.

    Args:
        info: of the runtime.
        batch: images or tiles per call; None: as the engine likes.

    Raises:
        UsageError: it takes no single images, or no such number.
    """
    if info.batch_range is None:
        return
    smallest, largest = info.batch_range
    if smallest > 1:  # the last images of a size, and the last tiles of an image, are fewer than any other number
        raise UsageError(
            f"{info.path} takes batches of {smallest} to {largest} images; here it has to take single ones",
            "Build it with a --profile whose smallest batch is 1.",
        )
    if batch is not None and batch > largest:
        raise UsageError(
            f"--batch {batch}: {info.path} takes batches of up to {largest}",
            f"Use --batch {largest}, or build it with a --profile whose largest batch is {batch}.",
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a library had too little memory, of the machine or of a GPU."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(sign in text for sign in _MEMORY_SIGNS)


def _in_one_line(error: Exception) -> str:
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    name = "" if isinstance(error, ProtosegError) else type(error).__name__
    return ": ".join(part for part in (name, line[:400]) if part)
