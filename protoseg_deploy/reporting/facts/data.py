"""What the images and masks of a run look like today, where they can be read."""

from dataclasses import dataclass

from protoseg_deploy.data import DataReport, examine_data, find_data
from protoseg_deploy.errors import ProtosegError
from protoseg_deploy.reporting.facts.run import RunFacts
from protoseg_deploy.training import Run

_DECODED = 200
"""Unlabelled images that are decoded, and ten times as many are opened: a report is not a check."""


@dataclass(frozen=True)
class DataFacts:
    """The data of one recipe, or why they are unknown."""

    runs: tuple[str, ...]
    """Names of the runs that learnt from them."""
    report: DataReport | None
    missing: str
    """Why there is no report; empty where there is one."""


def data_facts(runs: tuple[RunFacts, ...]) -> tuple[DataFacts, ...]:
    """Look at the data of runs; runs of the same data share one entry."""
    groups: dict[str, list[RunFacts]] = {}
    for run in runs:
        drawn = run.images.model_dump_json() if run.images else ""
        groups.setdefault(run.recipe.data.model_dump_json() + drawn, []).append(run)
    return tuple(_look(group[0], tuple(run.name for run in group)) for group in groups.values())


def _look(run: RunFacts, names: tuple[str, ...]) -> DataFacts:
    recipe = run.recipe
    try:
        faults: list[str] = []
        sets = find_data(
            recipe.data,
            need_unlabeled=recipe.data.unlabeled.is_set,
            need_val=recipe.data.val.is_set,
            drawn=Run(run.folder).drawn(),
            faults=faults,
        )
        report = examine_data(
            recipe, sets, decode_limit=_DECODED, open_limit=10 * _DECODED, count_unread=False, faults=faults
        )
    except ProtosegError as error:
        return DataFacts(names, None, error.message)
    return DataFacts(names, report, "")
