"""Counts and times of a model since it was loaded, as Triton's statistics have them."""

from collections import Counter
from dataclasses import dataclass, field

from protoseg_deploy.serving.batching import Timing


@dataclass
class Statistics:
    """Totals of one model; times in ns."""

    succeeded: int = 0
    failed: int = 0
    images: int = 0
    executions: float = 0.0
    """Runs of the network: each request counts as its share of the batch it was computed in."""
    total_ns: int = 0
    failed_ns: int = 0
    queue_ns: int = 0
    compute_ns: int = 0
    input_ns: int = 0
    """Decoding and checking."""
    output_ns: int = 0
    batches: Counter[int] = field(default_factory=Counter)
    """Images by the size of the batch they were computed in."""
    batch_ns: Counter[int] = field(default_factory=Counter)
    last_ms: int = 0
    """When the last request was answered, ms since 1970."""

    def add(self, images: int, timing: Timing, input_s: float, output_s: float, total_s: float) -> None:
        """Count a request that was answered."""
        self.succeeded += 1
        self.images += images
        share = images / timing.batch
        self.executions += share
        self.batches[timing.batch] += images
        self.batch_ns[timing.batch] += _ns(timing.compute_s * share)
        self.queue_ns += _ns(timing.queue_s)
        self.compute_ns += _ns(timing.compute_s)
        self.input_ns += _ns(input_s)
        self.output_ns += _ns(output_s)
        self.total_ns += _ns(total_s)

    def add_failure(self, total_s: float) -> None:
        """Count a request that was refused or could not be computed."""
        self.failed += 1
        self.failed_ns += _ns(total_s)


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)
