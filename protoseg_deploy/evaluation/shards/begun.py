"""What a folder of results says of the prediction it was begun with: the same one goes on there, and no other."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from protoseg_deploy import __version__
from protoseg_deploy.bundles.digests import file_sha256
from protoseg_deploy.documents import dump_document, parse_document
from protoseg_deploy.errors import UsageError
from protoseg_deploy.evaluation.class_maps import Tiling
from protoseg_deploy.evaluation.result_names import PLAN, PLAN_TABLE
from protoseg_deploy.evaluation.shards.plan import Plan
from protoseg_deploy.evaluation.shards.stores import SCRATCH, LocalStore, RemoteStore
from protoseg_deploy.runtimes.base import RuntimeInfo

LOCK = ".predict.lock"

_FORMAT = 1
_HINT = "Choose another --out, or give the command that it was begun with."
_WORDS = {
    "images": "number of images",
    "plan_sha256": "images",
    "shards": "number of shards",
    "artefact_sha256": "artefact",
    "version": "version of protoseg_deploy",
    "reading": "way of reading images",
    "classes": "classes",
    "pack": "--pack",
    "tile": "--tile",
    "overlap": "--overlap",
}


class Begun(BaseModel):
    """A prediction: all that decides its results, and nothing else."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = _FORMAT
    version: str
    images: int
    plan_sha256: str
    shards: int
    artefact_sha256: str
    kind: str
    precision: str
    device: str
    backend: str
    """Library, version and execution provider: another one may round differently."""
    classes: tuple[str, ...]
    reading: dict[str, Any]
    tile: tuple[int, int] | None
    overlap: int
    pack: bool

    @classmethod
    def of(cls, plan: Plan, info: RuntimeInfo, artefact: str, tiling: Tiling, pack: bool) -> "Begun":
        """The prediction of a plan by a runtime."""
        return cls(
            version=__version__,
            images=plan.images,
            plan_sha256=plan.sha256,
            shards=plan.shards,
            artefact_sha256=artefact,
            kind=info.kind,
            precision=info.precision,
            device=info.device,
            backend=info.backend,
            classes=info.classes.names,
            reading=info.reading.model_dump(mode="json"),
            tile=tiling.tile,
            overlap=tiling.overlap,
            pack=pack,
        )


def begin(store: LocalStore | RemoteStore, begun: Begun, plan: Path) -> bool:
    """Begin a prediction in a folder of results, or find that it has been begun there.

    Args:
        store: the folder; only who holds its lock may call this.
        begun: what is to be predicted.
        plan: file of the plan, see `make_plan`.

    Returns:
        Whether it goes on; False: it begins.

    Raises:
        UsageError: another prediction was begun there, or the folder holds something else.
    """
    try:
        content = store.read(PLAN)
    except FileNotFoundError:
        foreign = sorted(store.names("") - {PLAN_TABLE, LOCK, SCRATCH})
        if foreign:
            shown = ", ".join(foreign[:4]) + (", …" if len(foreign) > 4 else "")
            raise UsageError(
                f"{store.root} is not empty, and no sharded prediction was begun there: it holds {shown}",
                "Choose a new folder as --out; nothing was written.",
            ) from None
        write_table(store, plan)
        store.write(PLAN, dump_document(begun.model_dump(mode="json")) + b"\n")
        return False
    _require_same(parse_document(content, f"{store.root}/{PLAN}", Begun, _HINT), begun, store.root)
    if not _is_there(store, plan):
        write_table(store, plan)
    return True


def _is_there(store: LocalStore | RemoteStore, plan: Path) -> bool:
    """Whether workers will read this plan: it may have been removed, or damaged on the way."""
    try:
        return hashlib.sha256(store.read(PLAN_TABLE)).hexdigest() == file_sha256(plan)
    except FileNotFoundError:
        return False


def write_table(store: LocalStore | RemoteStore, plan: Path) -> None:
    """Put the plan where workers read it."""
    with store.writing(PLAN_TABLE) as file, plan.open("rb") as source:
        shutil.copyfileobj(source, file)


def _require_same(before: Begun, now: Begun, root: str) -> None:
    differing = [name for name in Begun.model_fields if getattr(before, name) != getattr(now, name)]
    if "images" in differing and "plan_sha256" in differing:
        differing.remove("plan_sha256")
    if differing:
        lines = [f"{root} was begun with other values:"]
        for name in differing:
            then, new = (_shown(getattr(begun, name)) for begun in (before, now))
            lines.append(f"  {_WORDS.get(name, name)}: {then} then, {new} now")
        raise UsageError("\n".join(lines), _HINT)


def _shown(value: object) -> str:
    text = {True: "yes", False: "no", None: "none"}.get(value) if isinstance(value, bool | None) else str(value)
    text = str(text)
    return text if len(text) <= 64 else f"{text[:63]}…"
