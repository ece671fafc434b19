"""Metrics for Prometheus."""

from contextlib import suppress
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

from protoseg_deploy.serving.batching import Timing

if TYPE_CHECKING:
    from protoseg_deploy.serving.model import Model

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_IMAGES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """All metrics of one server, in a registry of their own."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # times of creation, one for each counter
        self._registry = CollectorRegistry()
        of_model = ("model", "version")
        self._requests = Counter(
            "protoseg_requests", "Requests by status.", ("model", "protocol", "status"), registry=self._registry
        )
        self._latency = Histogram(
            "protoseg_request_seconds",
            "From the arrival of a request to its answer.",
            ("model", "protocol"),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._queue_seconds = Histogram(
            "protoseg_queue_seconds", "Time in the queue.", of_model, buckets=_SECONDS, registry=self._registry
        )
        self._compute_seconds = Histogram(
            "protoseg_compute_seconds", "Time in the network.", of_model, buckets=_SECONDS, registry=self._registry
        )
        self._batch = Histogram(
            "protoseg_batch_images", "Images computed together.", of_model, buckets=_IMAGES, registry=self._registry
        )
        self._images = Counter("protoseg_images", "Images segmented.", of_model, registry=self._registry)
        self._waiting = Gauge("protoseg_queue_requests", "Requests in the queue.", of_model, registry=self._registry)
        self._facts = Gauge(
            "protoseg_model",
            "1 for a model that is served.",
            (*of_model, "sha256", "precision", "verified"),
            registry=self._registry,
        )

    def observe(self, model: "Model", images: int, timing: Timing) -> None:
        """Count what was computed for one request."""
        labels = (model.name, model.version)
        self._queue_seconds.labels(*labels).observe(timing.queue_s)
        self._compute_seconds.labels(*labels).observe(timing.compute_s)
        self._batch.labels(*labels).observe(timing.batch)
        self._images.labels(*labels).inc(images)

    def answered(self, model: str, protocol: str, status: str, seconds: float) -> None:
        """Count an inference request, answered or refused.

        Args:
            model: its name; empty where there is no such model.
            protocol: ``http`` or ``grpc``.
            status: ``ok``, or the kind of the error.
            seconds: from arrival to answer.
        """
        self._requests.labels(model, protocol, status).inc()
        self._latency.labels(model, protocol).observe(seconds)

    def loaded(self, model: "Model") -> None:
        """Show a model from now on."""
        self._waiting.labels(model.name, model.version).set_function(lambda: model.batcher.waiting)
        self.show_facts(model)

    def unloaded(self, model: "Model") -> None:
        """Show it no longer."""
        labels = (model.name, model.version)
        for metric in (self._queue_seconds, self._compute_seconds, self._batch, self._images, self._waiting):
            with suppress(KeyError):  # never used
                metric.remove(*labels)
        self.forget_facts(model)

    def show_facts(self, model: "Model") -> None:
        """Show what a model is."""
        self._facts.labels(*_facts(model)).set(1)

    def forget_facts(self, model: "Model") -> None:
        """Show it no longer; before its facts change."""
        with suppress(KeyError):
            self._facts.remove(*_facts(model))

    def text(self) -> bytes:
        """Exposition format of Prometheus."""
        return generate_latest(self._registry)


def _facts(model: "Model") -> tuple[str, ...]:
    facts = model.artefact.facts
    verified = {True: "passed", False: "failed", None: "not verified"}[facts.verified]
    return model.name, model.version, facts.sha256, facts.metadata.precision, verified
