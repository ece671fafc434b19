"""What the arguments of a report mean: runs, bundles, and files of ``protoseg bench --json``."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from protoseg_deploy.bundles.manifest import MANIFEST_FILE
from protoseg_deploy.errors import UsageError
from protoseg_deploy.exchange import settle
from protoseg_deploy.reporting.facts.bench import BenchFacts, bench_facts
from protoseg_deploy.reporting.facts.bundle import BundleFacts, bundle_facts
from protoseg_deploy.reporting.facts.names import short_names
from protoseg_deploy.reporting.facts.run import RunFacts, run_facts
from protoseg_deploy.run_folder import RECIPE_FILE

_ACCEPTED = (
    "Give run folders (recipe.yaml), bundle folders (manifest.json), and files that `protoseg bench … --json` wrote."
)
Kind = Literal["run", "bundle", "bench"]


@dataclass(frozen=True)
class Subjects:
    """What a report is about, each kind in the order of the arguments."""

    runs: tuple[RunFacts, ...]
    bundles: tuple[BundleFacts, ...]
    bench: BenchFacts

    @property
    def names(self) -> tuple[str, ...]:
        """Of runs and bundles."""
        return tuple(run.name for run in self.runs) + tuple(bundle.name for bundle in self.bundles)


def find_subjects(paths: Sequence[Path]) -> Subjects:
    """Read everything a report is about.

    Args:
        paths: run folders, network files inside them, bundle folders, and JSON files of ``protoseg bench``.

    Raises:
        UsageError: a path is none of these, or given twice.
        ProtosegError: a file is damaged; the message names it.
    """
    kinds: dict[Path, Kind] = {}
    for path in paths:
        kind = _kind(path)
        meant = path.parent if kind == "run" and path.is_file() else path
        if meant.absolute() in {known.absolute() for known in kinds}:
            raise UsageError(f"{path} is given twice: once is enough")
        kinds[meant] = kind
    folders = {path: path.absolute().as_posix() for path, kind in kinds.items() if kind != "bench"}
    short = short_names(list(folders.values()))
    names = {path: short[text] for path, text in folders.items()}
    return Subjects(
        tuple(run_facts(path, names[path]) for path, kind in kinds.items() if kind == "run"),
        tuple(bundle_facts(path, names[path]) for path, kind in kinds.items() if kind == "bundle"),
        bench_facts(tuple(path for path, kind in kinds.items() if kind == "bench")),
    )


def _kind(path: Path) -> Kind:
    settle(path)
    if not path.exists():
        raise UsageError(f"no such file or folder: {path}", _ACCEPTED)
    if path.is_dir():
        if (path / MANIFEST_FILE).exists():
            return "bundle"
        if (path / RECIPE_FILE).exists():
            return "run"
        raise UsageError(f"{path} is neither a run nor a bundle", _ACCEPTED)
    if path.suffix == ".safetensors" and (path.parent / RECIPE_FILE).exists():
        return "run"
    if path.suffix == ".json":
        return "bench"
    raise UsageError(f"{path} is neither a run, nor a bundle, nor a file of `protoseg bench --json`", _ACCEPTED)
