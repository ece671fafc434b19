"""What a tracker is told, and what every tracker has."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from protoseg_deploy import __version__
from protoseg_deploy.extras import require_library
from protoseg_deploy.recipe import Recipe
from protoseg_deploy.run_folder import RunFolder
from protoseg_deploy.text import readable


@dataclass(frozen=True)
class RunFacts:
    """What a run is, when it starts or goes on."""

    run: RunFolder
    name: str
    first_step: int
    """Steps that are done: 0 for a new run. Figures of later steps that are there from before a crash come again."""
    parameters: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    """The recipe by dotted keys; keys that are absent are left out."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """Versions, method and network."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended, or how far it came."""

    status: Literal["finished", "stopped", "failed"]
    """``stopped``: by a signal or at its time limit; it will be resumed."""
    summary: Mapping[str, float]
    """The results so far: ``best_miou_percent``, ``best_step``, ``last_miou_percent``."""
    artefacts: tuple[Path, ...] = ()
    """Small files that describe the run: recipe, labelled subset."""


class Tracker:
    """Base of trackers. An instance lives as long as one process of a run; its methods are called by one thread.

    Any of them may raise: the tracker is switched off then.
    """

    libraries: ClassVar[tuple[str, ...]] = ()
    """Modules that it needs."""
    extra: ClassVar[str] = ""
    """Of this package, which installs them."""

    @classmethod
    def require(cls, name: str) -> None:
        """Raises UsageError where a library is missing, with the command that installs it. `name` is the tracker's."""
        for library in cls.libraries:
            require_library(library, cls.extra, f"train.trackers: {name} needs")

    def start(self, facts: RunFacts) -> None:
        """Begin, or go on with what was begun for this run folder before."""

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Figures by name, such as ``train/loss``, after so many steps; NaN and infinity occur."""
        raise NotImplementedError

    def finish(self, outcome: Outcome) -> None:
        """Write what is left, and close."""

    def abandon(self) -> None:
        """Called after another method has raised: let go of what would complain when the program ends."""


def run_facts(run: RunFolder, recipe: Recipe, first_step: int) -> RunFacts:
    """What trackers are told of a run."""
    tags = {
        "protoseg": __version__,
        "verb": "train",
        "method": recipe.method.name,
        "backbone": recipe.model.backbone,
        "decoder": recipe.model.decoder,
    }
    return RunFacts(
        run, readable(run.folder.absolute().name), first_step, flattened(recipe.model_dump(mode="json")), tags
    )


def flattened(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str | int | float | bool]:
    """A nested mapping by dotted keys; lists become JSON, what is None is left out."""
    flat: dict[str, str | int | float | bool] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{prefix}{key}.")
        elif isinstance(value, str | int | float | bool):
            flat[f"{prefix}{key}"] = readable(value) if isinstance(value, str) else value
        elif value is not None:
            flat[f"{prefix}{key}"] = readable(json.dumps(value, ensure_ascii=False))
    return flat
