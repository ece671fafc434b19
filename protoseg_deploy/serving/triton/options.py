"""What a model repository is made with; light to import, so that `--help` knows it at once."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

TritonBackend = Literal["onnxruntime", "tensorrt", "python", "openvino"]
"""Backends of Triton that compute artefacts of a bundle."""
TRITON_BACKENDS: tuple[TritonBackend, ...] = get_args(TritonBackend)

MAX_BATCH = 8
MOST_PIXELS = 50_000_000
"""Of one request, all its images together, unless options say otherwise."""
MOST_WARMUP_PIXELS = 200_000_000
"""Of the warm-up image, where Triton's own backends set no limit: it is a file in the repository."""
MOST_INSTANCES, LARGEST_BATCH, MOST_THREADS = 1024, 65_536, 4096
GPU_DELAY_MS = 2.0
"""How long a batch that is not full waits on a GPU. On a CPU a larger batch gains less than the wait costs."""
WARMUP_SIZE = (512, 512)
"""Height and width of the warm-up image of a graph that takes any size."""


@dataclass(frozen=True)
class ModelOptions:
    """How Triton runs a model."""

    backend: TritonBackend = "onnxruntime"
    max_batch: int | None = None
    """Images that are computed together, at most; None: `MAX_BATCH`, or fewer where an engine takes no more."""
    instances: int = 1
    """Copies of the model, on each GPU where it runs on GPUs."""
    gpu: bool = False
    delay_ms: float | None = None
    """How long a batch that is not full waits, in milliseconds; None: 0 on a CPU, `GPU_DELAY_MS` on a GPU."""
    threads: int | None = None
    """Of the CPU, for each instance; None: the default of the library."""
    max_pixels: int = MOST_PIXELS
    """Largest request that the models in Python take, in pixels of all its images."""
    warmup_size: tuple[int, int] | None = None
    """Height and width of the warm-up image, where the artefact takes more than one."""
    cache: bool = False
    """Let Triton answer repeated requests from its response cache."""
    ensemble: bool = False
    """Add the models that take encoded images."""
    allow_unverified: bool = False

    @property
    def default_warmup_size(self) -> tuple[int, int]:
        """Height and width of the warm-up image where nobody names one: within what a request may have."""
        height, width = WARMUP_SIZE
        side = math.isqrt(self.max_pixels) if self.backend == "python" else max(WARMUP_SIZE)
        return min(height, side), min(width, side)

    @property
    def on_gpu(self) -> bool:
        return self.gpu or self.backend == "tensorrt"

    @property
    def queue_delay_us(self) -> int:
        default = GPU_DELAY_MS if self.on_gpu else 0.0
        return round(1000 * (default if self.delay_ms is None else self.delay_ms))
