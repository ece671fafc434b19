"""The models of a server, and their exchange while it runs."""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from protoseg_deploy.errors import ProtosegError, UsageError
from protoseg_deploy.serving.artefact import Artefact, ArtefactSpec, NotVerifiedError, bundle_identity, open_artefact
from protoseg_deploy.serving.batching import Batching
from protoseg_deploy.serving.limits import Limits
from protoseg_deploy.serving.metrics import Metrics
from protoseg_deploy.serving.model import Model
from protoseg_deploy.serving.requests import RequestError

_log = logging.getLogger(__name__)
_ON_CPU, _ON_GPU = Batching(8, 0.0, 512 * 512), Batching(8, 0.002, None)


class Catalog:
    """Models by name. A bundle that is exchanged on the disk becomes the next version of its model.

    Requests that have begun are answered by the version they began with. Until the new one is open, and where it cannot
    be, the old one goes on serving.

    Args:
        specs: what to serve.
        limits: of the server.
        metrics: of the server.
        max_batch: images computed together; None: 8, on a CPU of up to 512x512 pixels in all.
        delay_s: how long a batch that is not full waits; None: 0 on a CPU, where waiting costs more than a batch saves.

    Raises:
        UsageError: two models have one name, or a name is empty.
    """

    def __init__(
        self,
        specs: Sequence[ArtefactSpec],
        limits: Limits,
        metrics: Metrics,
        *,
        max_batch: int | None = None,
        delay_s: float | None = None,
    ) -> None:
        names = [spec.name for spec in specs]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise UsageError(
                f"two models would be called {twice!r}", "Name them: --name once for each BUNDLE, in their order."
            )
        self.limits = limits
        self.metrics = metrics
        self._specs = {spec.name: spec for spec in specs}
        self._max_batch, self._delay_s = max_batch, delay_s
        self._models: dict[str, Model] = {}
        self._seen: dict[str, object] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self.stopping = False

    @property
    def is_ready(self) -> bool:
        """Whether all models are there, and the server is not about to end."""
        return not self.stopping and len(self._models) == len(self._specs)

    def names(self) -> tuple[str, ...]:
        return tuple(self._models)

    def models(self) -> tuple[Model, ...]:
        return tuple(self._models.values())

    def get(self, name: str, version: str = "") -> Model:
        """A model; its current version, if none is named.

        Raises:
            RequestError: there is no such model or version.
        """
        model = self._models.get(name)
        if model is None:
            raise RequestError(
                "not found",
                f"there is no model {name[:100]!r}; there are: {', '.join(self._models) or 'none yet'}",
            )
        if version not in ("", model.version):
            raise RequestError("not found", f"model {name!r} has version {model.version} only, not {version[:20]}")
        return model

    async def load(self) -> None:
        """Open all models.

        Raises:
            ProtosegError: one cannot be served.
        """
        for name, spec in self._specs.items():
            self._seen[name] = bundle_identity(spec.path)
            self._take(await asyncio.to_thread(open_artefact, spec))

    async def watch(self, every_s: float = 1.0) -> None:
        """Reload models whose bundles are exchanged, until the task is cancelled."""
        while True:
            await asyncio.sleep(every_s)
            for name, spec in self._specs.items():
                found = bundle_identity(spec.path)
                if found is not None and found != self._seen[name]:
                    self._seen[name] = found
                    await self._reload(spec)

    async def close(self) -> None:
        """Let go of all models, once each has answered what it was asked."""
        for model in self.models():
            self._retire(model)
        if self._closing:
            await asyncio.wait(self._closing, timeout=self.limits.shutdown_seconds)

    async def _reload(self, spec: ArtefactSpec) -> None:
        current = self._models[spec.name]
        try:
            artefact = await asyncio.to_thread(open_artefact, spec)
        except NotVerifiedError as error:
            if error.sha256 != current.artefact.facts.sha256:
                _log.error("model %s: version %s stays: %s", spec.name, current.version, error)
            elif error.verified != current.artefact.facts.verified:
                self._note_verdict(current, error.verified)
                _log.error("model %s: version %s goes on being served, though %s", *_named(current), error.message)
            return
        except (ProtosegError, OSError) as error:
            _log.error("model %s: version %s stays: %s", spec.name, current.version, error)
            return
        verdict = artefact.facts.verified
        if artefact.facts == current.artefact.facts.model_copy(update={"verified": verdict}):  # the same artefact
            if verdict != current.artefact.facts.verified:
                self._note_verdict(current, verdict)
                _log.warning("model %s: version %s has another verdict now: verified %s", *_named(current), verdict)
            return
        self._take(artefact, int(current.version) + 1)
        self._retire(current)
        _log.warning(
            "model %s: version %s (%s) in place of version %s",
            *(spec.name, int(current.version) + 1, artefact.facts.sha256[:12], current.version),
        )

    def _note_verdict(self, model: Model, verified: bool | None) -> None:
        """What is served goes on, and says what is known of it."""
        self.metrics.forget_facts(model)
        facts = model.artefact.facts.model_copy(update={"verified": verified})
        model.artefact = replace(model.artefact, facts=facts)
        self.metrics.show_facts(model)

    def _take(self, artefact: Artefact, version: int = 1) -> None:
        batching = _ON_CPU if artefact.device == "cpu" else _ON_GPU
        if self._max_batch is not None:
            batching = replace(batching, images=self._max_batch, pixels=None)
        if self._delay_s is not None:
            batching = replace(batching, delay_s=self._delay_s)
        model = Model(artefact, version, self.limits, batching, self.metrics)
        self._models[model.name] = model
        self.metrics.loaded(model)

    def _retire(self, model: Model) -> None:
        task = asyncio.create_task(self._close(model))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _close(self, model: Model) -> None:
        with suppress(asyncio.CancelledError):
            await model.close()
        self.metrics.unloaded(model)


def _named(model: Model) -> tuple[str, str]:
    return model.name, model.version
