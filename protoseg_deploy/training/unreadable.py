"""Unlabelled images that turned out to be unreadable: recorded once each, and an error where they are too many."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import distributed as dist

from protoseg_deploy.distributed import world
from protoseg_deploy.documents import dump_document, read_lines
from protoseg_deploy.errors import DataError, WriteError
from protoseg_deploy.files import write_atomically
from protoseg_deploy.text import readable
from protoseg_deploy.training.records import UnreadableRecord

_LEAST_DRAWN = 100
"""Until so many images have been drawn, the share that cannot be read is taken of this number."""
_NAMED = 3


class UnreadableImages:
    """The files that could not be read so far, in ``unreadable.jsonl`` of a run: image, reason, step.

    Every process of a run keeps one, and all know the same after `record`; the first of them writes.

    Args:
        run_folder: of the run; what an interrupted run recorded is read back.
        max_share: ``data.max_unreadable_share``.
    """

    def __init__(self, run_folder: Path, max_share: float) -> None:
        self.path = run_folder / "unreadable.jsonl"
        self.max_share = max_share
        self._records: dict[str, dict[str, Any]] = {record["image"]: record for record in _read(self.path)}
        self._seen: list[tuple[int, str]] = []

    def see(self, unreadable: Sequence[str], step: int) -> None:
        """Remember what was replaced in this process's part of a batch.

        Args:
            unreadable: `Batch.unreadable`: file, tab, reason.
            step: the steps done, with this batch.
        """
        self._seen += [(step, line) for line in unreadable]

    def record(self, drawn: int) -> None:
        """Write down what all processes have seen since the last time; they all call it, and before each checkpoint.

        Args:
            drawn: unlabelled images drawn so far by all processes.

        Raises:
            DataError: in every process alike: more files cannot be read than the share allows of those drawn.
            WriteError: the record cannot be written.
        """
        found: dict[str, dict[str, Any]] = {}
        for step, line in _of_all_processes(self._seen):
            image, _, reason = readable(line).rpartition("\t")
            if image not in self._records:
                found.setdefault(image, {"image": image, "reason": reason, "step": step})
        self._seen = []
        if not found:
            return
        self._records |= found
        self._append(found)
        if len(self._records) > self.max_share * max(drawn, _LEAST_DRAWN):
            raise DataError(
                f"{self._count()} could not be read among the first {drawn} drawn, more than "
                f"data.max_unreadable_share {self.max_share:g} allows",
                self._named(),
                f"All of them are in {self.path}. Fix or remove them, or set data.max_unreadable_share higher and "
                "continue with --resume.",
            )

    def report(self) -> str | None:
        """What to say at the end of training; None where every image could be read."""
        if not self._records:
            return None
        return (
            f"{self._count()} could not be read: skipped and replaced, first {self._named()[0]}; "
            f"all of them are in {self.path}"
        )

    def forget_after(self, step: int) -> None:
        """Drop what a resumed run is about to see again."""
        self._records = {image: record for image, record in self._records.items() if record["step"] <= step}
        if world().is_first and self.path.is_file():
            write_atomically(self.path, _lines(self._records))

    def _append(self, records: Mapping[str, dict[str, Any]]) -> None:
        if world().is_first:
            try:
                with self.path.open("ab") as file:
                    file.write(_lines(records))
            except OSError as error:
                raise WriteError(self.path, error) from None

    def _count(self) -> str:
        return "1 unlabelled image" if len(self._records) == 1 else f"{len(self._records)} unlabelled images"

    def _named(self) -> list[str]:
        """The first few, and how many more there are."""
        lines = [f"{record['image']}: {record['reason']}" for record in list(self._records.values())[:_NAMED]]
        more = len(self._records) - len(lines)
        return [*lines, f"… and {more} more"] if more else lines


def _of_all_processes(seen: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """In the order of steps, and within one in the order of slots: as one process alone would have seen them."""
    if world().size == 1:
        return seen
    parts: list[list[tuple[int, str]]] = [[] for _ in range(world().size)]
    dist.all_gather_object(parts, seen)
    return sorted(itertools.chain(*parts), key=lambda entry: entry[0])


def _lines(records: Mapping[str, dict[str, Any]]) -> bytes:
    return b"".join(dump_document(record, indent=None) + b"\n" for record in records.values())


def _read(path: Path) -> list[dict[str, Any]]:
    """What an interrupted run recorded, without a line that it has left half written."""
    try:
        records = read_lines(path, UnreadableRecord, "Remove the damaged line, or the file: images are recorded again.")
    except FileNotFoundError:
        return []
    return [record.model_dump() for record in records]
