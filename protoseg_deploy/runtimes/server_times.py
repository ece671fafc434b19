"""Where the time of requests goes on a server, as it tells itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True)
class ServerTimes:
    """Sums over the requests that a server has answered since it was started, as Triton's statistics have them."""

    requests: int
    queue_ns: int
    """From the arrival of a request until an instance of the network takes it."""
    compute_ns: int
    """Of the network, with its inputs and outputs."""

    def since(self, earlier: Self) -> "ServerTimes | None":
        """What came between; None: nothing did, or the server was started again."""
        requests = self.requests - earlier.requests
        if requests <= 0:
            return None
        return ServerTimes(requests, self.queue_ns - earlier.queue_ns, self.compute_ns - earlier.compute_ns)

    @classmethod
    def read(cls, found: Mapping[str, Any]) -> Self:
        """Of a ``ModelStatistics`` message in JSON; a version that has answered nothing leaves zeros out."""
        counted = [entry.get("inference_stats", {}) for entry in found["model_stats"]]

        def summed(what: str, part: str) -> int:
            return sum(int(entry.get(part, {}).get(what, 0)) for entry in counted)

        computing = ("compute_input", "compute_infer", "compute_output")
        return cls(
            requests=summed("count", "success"),
            queue_ns=summed("ns", "queue"),
            compute_ns=sum(summed("ns", part) for part in computing),
        )
