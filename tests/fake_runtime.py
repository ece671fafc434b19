"""A runtime without a network, for tests of everything that stands on runtimes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from protoseg_deploy.recipe import ClassTable
from protoseg_deploy.runtimes.base import RuntimeInfo, TimedPrediction
from protoseg_deploy.runtimes.stopwatch import Mark, timed_on_host


class FakeRuntime:
    """Computes class maps by a NumPy function and remembers the shapes it was given.

    Without a function of its own it takes the red channel for the class.
    """

    def __init__(
        self,
        function: Callable[[np.ndarray], np.ndarray] | None = None,
        *,
        classes: int = 4,
        fixed_size: tuple[int, int] | None = None,
        verified: bool | None = None,
        kind: str = "pytorch",
    ) -> None:
        names = tuple(f"class{number}" for number in range(classes))
        colors = tuple((number % 256, 255 - number % 256, 40 + number // 256) for number in range(classes))
        self.info = RuntimeInfo(
            kind=kind,
            path=Path("fake"),
            classes=ClassTable(names, colors),
            ignore_index=255,
            precision="fp32",
            device="cpu",
            backend="NumPy",
            threads=1,
            parameters=0,
            file_bytes=0,
            fixed_size=fixed_size,
            verified=verified,
        )
        self.function = function or (lambda images: images[..., 0])
        self.shapes: list[tuple[int, ...]] = []

    def predict(self, images: np.ndarray) -> np.ndarray:
        assert images.dtype == np.uint8
        assert self.info.fixed_size in (None, images.shape[1:3])
        self.shapes.append(images.shape)
        return self.function(images)

    def predict_timed(self, images: np.ndarray) -> TimedPrediction:
        return timed_on_host(lambda mark: self._marked(images, mark))

    def _marked(self, images: np.ndarray, mark: Mark) -> np.ndarray:
        mark()
        mark()
        class_map = self.predict(images)
        mark()
        mark()
        return class_map
