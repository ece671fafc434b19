"""Which images are predicted, under which names, and that no result replaces anything but an earlier result."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from protoseg_deploy.data.finding import UnreadFiles, find_images, unread_files
from protoseg_deploy.errors import UsageError
from protoseg_deploy.evaluation.result_marks import is_result
from protoseg_deploy.evaluation.result_names import PLAN, PLAN_TABLE, fitted, folded
from protoseg_deploy.files import require_inside, require_no_overwriting

KINDS = ("index", "color", "overlay")
"""Folders below the output folder."""

FAILURES = "failures.jsonl"
"""File in the output folder that lists the images that failed."""

_SHOWN_FAULTS = 20


def find_inputs(inputs: Iterable[Path], out: Path) -> list[tuple[Path, Path]]:
    """Every image once: (file, its path relative to the input that named it).

    What earlier runs wrote below `out` is no input, should `out` lie in one of the folders.

    Raises:
        UsageError: an input does not exist, or a folder holds no images.
    """
    written = [out / kind for kind in KINDS]
    found: dict[Path, tuple[Path, Path]] = {}  # by absolute path, links not followed: two links are two names
    faults: list[str] = []
    for given in inputs:
        if os.path.isdir(given):  # noqa: PTH112  Path.is_dir raises where a path is too long
            for path in find_images(given, leave_out=written, key="IMAGES", faults=faults):
                found.setdefault(path.absolute(), (path, path.relative_to(given)))
        elif os.path.exists(given):  # noqa: PTH110
            found.setdefault(given.absolute(), (given, Path(given.name)))
        else:
            faults.append(f"{given}: no such file or folder")
    if faults:
        more = [f"… and {len(faults) - _SHOWN_FAULTS} more"] if len(faults) > _SHOWN_FAULTS else []
        raise UsageError("\n".join([*faults[:_SHOWN_FAULTS], *more]))
    return list(found.values())


def find_unread(inputs: Iterable[Path], out: Path) -> tuple[tuple[Path, UnreadFiles], ...]:
    """Folders of the inputs that hold files which `find_inputs` passes over, with these."""
    written = [out / kind for kind in KINDS]
    folders = [given for given in inputs if given.is_dir()]
    return tuple((folder, unread) for folder in folders if (unread := unread_files(folder, written)).text)


def name_outputs(found: Sequence[tuple[Path, Path]]) -> list[tuple[Path, Path]]:
    """Give every image its own output name: (file, relative path ending in .png).

    ``a/x.jpg`` becomes ``a/x.png``; beside an ``a/x.tif``, ``a/x.jpg.png``; and a number is added if that is taken too.
    Names that differ only in upper and lower case, or in how accents are encoded, count as equal: some file systems
    hold them to be. A name longer than file systems take is cut, and a digest of it added.
    """
    wishes = Counter(_folded(_fitted(relative.with_suffix(".png"))) for _, relative in found)
    taken = {wish for wish, count in wishes.items() if count == 1}
    folders = {_folded(folder) for _, relative in found for folder in relative.parents}
    named: list[tuple[Path, Path]] = []
    for path, relative in found:
        name = _fitted(relative.with_suffix(".png"))
        if wishes[_folded(name)] > 1 or _folded(name) in folders:
            name, number = _fitted(relative.with_name(f"{relative.name}.png")), 1
            while _folded(name) in taken or _folded(name) in folders:
                number += 1
                name = _fitted(relative.with_name(f"{relative.name}-{number}.png"))
            taken.add(_folded(name))
        named.append((path, name))
    return named


def check_outputs(
    plan: Sequence[tuple[Path, Path]], inputs: Sequence[Path], out: Path, artefact: Sequence[Path]
) -> None:
    """Refuse, before anything is written, what would harm a file that is not an earlier result.

    Args:
        plan: see `name_outputs`.
        inputs: as given, files and folders.
        out: the output folder, there or not.
        artefact: files and folders of the runtime.

    Raises:
        UsageError: a result would replace an image, a file of the artefact, or a file in a folder of images that is no
            result; an input lies among the results; the output folder is the artefact, or belongs to a prediction in
            shards; or a folder in it is a link.
    """
    if _identity(out) is None:
        return
    if all((out / name).is_file() for name in (PLAN, PLAN_TABLE)):
        raise UsageError(
            f"{out} belongs to a prediction in shards, whose masks would be replaced",
            "Repeat the command that it was begun with, or choose another --out; nothing was written.",
        )
    if _identity(out) in {_identity(path) for path in artefact}:
        raise UsageError(f"{out} is the artefact: results cannot be written into it", f"Use --out {out / 'predicted'}.")
    _refuse_inputs_among_results(inputs, out)
    for parent in sorted({out / kind / name.parent for _, name in plan for kind in KINDS}):
        require_inside(out, parent)
    there = [(target, name) for target, name in _targets(plan, out) if os.path.lexists(target)]
    outputs = [*(target for target, _ in there), out / FAILURES]
    require_no_overwriting(outputs, [*(path for path, _ in plan), *inputs, *artefact], "--out")
    _refuse_foreign_files(there, inputs, out)


def _targets(plan: Sequence[tuple[Path, Path]], out: Path) -> Iterator[tuple[Path, Path]]:
    """(file, its name): what may be there already."""
    for kind in KINDS:
        if (out / kind).is_dir():
            yield from ((out / kind / name, name) for _, name in plan)


def _refuse_inputs_among_results(inputs: Sequence[Path], out: Path) -> None:
    results: dict[tuple[int, int] | None, Path] = {_identity(out / kind): out / kind for kind in KINDS}
    results.pop(None, None)
    inside: dict[Path, Path | None] = {}
    for given in inputs:
        place = Path(os.path.realpath(given))
        for folder in (place, place.parent):
            if folder not in inside:
                above = (results.get(_identity(parent)) for parent in (folder, *folder.parents))
                inside[folder] = next((found for found in above if found is not None), None)
        result = inside[place.parent] or inside[place]
        if result is not None:
            raise UsageError(
                f"{given} lies in {result}, where results are written",
                "Choose another --out; nothing was written.",
            )


def _refuse_foreign_files(there: Sequence[tuple[Path, Path]], inputs: Sequence[Path], out: Path) -> None:
    """Someone's own ``index/a.png`` in a folder of images looks like an earlier result: it is left out as an input."""
    folders = {_identity(given) for given in inputs} - {None}
    if not any(_identity(parent) in folders for parent in (out, *Path(os.path.realpath(out)).parents)):
        return
    for target, name in there:
        if not is_result(target, [out / kind / name for kind in KINDS]):
            raise UsageError(
                f"{target} lies in a folder of images and is not a result of predict: it would be replaced",
                "Choose another --out; nothing was written.",
            )


def _folded(path: Path) -> str:
    return folded(path.as_posix())


def _fitted(path: Path) -> Path:
    return path.with_name(fitted(path.name))


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino
