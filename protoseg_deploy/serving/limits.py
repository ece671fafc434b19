"""What a server takes at most, so that no request can take it down or hold it up."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Limits of one server; what exceeds them is refused before it is decoded or computed."""

    request_bytes: int = 64 * 2**20
    """Body of a request, also after its compression is undone."""
    image_pixels: int = 40_000_000
    """Height times width of one image."""
    request_images: int = 64
    """Images of one request."""
    request_pixels: int = 80_000_000
    """All images of one request together."""
    queued_requests: int = 64
    """Requests of one model that wait for its instances; the next one gets 503 with Retry-After."""
    queued_pixels: int = 320_000_000
    """All images that wait for one model; beyond it 503 as well. One request may wait alone, whatever its size."""
    pending_bytes: int = 2**29
    """All requests that are being received or answered; one that would exceed it gets 503 as well."""
    request_seconds: float = 60.0
    """From the arrival of a request to its answer."""
    shutdown_seconds: float = 8.0
    """For the requests that are under way when the server is told to stop."""


LARGE_REQUEST_BYTES = 2**20
"""Work on tensors above that size leaves the event loop, so that other requests are not held up."""
