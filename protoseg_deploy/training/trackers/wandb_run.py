"""Weights & Biases: offline below the run folder, unless ``WANDB_MODE`` says otherwise."""

import os
import secrets
from collections.abc import Mapping
from typing import ClassVar

from pydantic import BaseModel

from protoseg_deploy.documents import dump_document, read_document
from protoseg_deploy.errors import ProtosegError
from protoseg_deploy.files import write_atomically
from protoseg_deploy.training.trackers.base import Outcome, RunFacts, Tracker


class WandbIdentity(BaseModel):
    """``wandb/run.json`` of a run folder."""

    id: str


class WandbTracker(Tracker):
    """One run of W&B for all processes that train a run folder one after the other, by its identifier.

    ``wandb sync RUN/wandb/offline-run-*`` uploads what was written offline.
    """

    libraries: ClassVar = ("wandb",)
    extra: ClassVar = "wandb"

    def start(self, facts: RunFacts) -> None:
        import wandb

        path = facts.run.wandb_folder / "run.json"
        try:
            identifier = read_document(path, WandbIdentity, "").id
        except (FileNotFoundError, ProtosegError):
            identifier = secrets.token_hex(8)
            write_atomically(path, dump_document(WandbIdentity(id=identifier).model_dump()))
        mode = os.environ.get("WANDB_MODE") or "offline"
        self._run = wandb.init(
            id=identifier,
            name=facts.name,
            project=os.environ.get("WANDB_PROJECT") or "protoseg",
            dir=str(facts.run.folder),
            mode=mode,
            resume="allow" if mode == "online" else None,  # offline, `wandb sync` joins what has the same identifier
            config={**facts.parameters, **{f"protoseg.{name}": value for name, value in facts.tags.items()}},
            settings=wandb.Settings(silent=True, console="off", x_disable_stats=True),
        )
        # Its own counter of steps refuses those that a resumed run writes again.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._run.log({**values, "step": step})

    def finish(self, outcome: Outcome) -> None:
        for name, value in outcome.summary.items():
            self._run.summary[name] = value
        self._run.finish(exit_code=0 if outcome.status == "finished" else 1)

    def abandon(self) -> None:
        """Or a service that is gone would be asked to end when Python does, with a traceback."""
        import wandb

        wandb.teardown(exit_code=1)
