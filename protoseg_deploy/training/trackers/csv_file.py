"""``metrics.csv`` in the run folder: a line for each figure, for spreadsheets and data frames."""

import csv
import errno
import io
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import BinaryIO

from protoseg_deploy.files import open_regular, write_atomically
from protoseg_deploy.text import readable
from protoseg_deploy.training.trackers.base import Outcome, RunFacts, Tracker

_HEAD = ("step", "name", "value")


class CsvTracker(Tracker):
    """Every record is one write to the system, and a resumed run replaces the lines that it writes again."""

    def start(self, facts: RunFacts) -> None:
        path = facts.run.csv_path
        try:
            with open_regular(path) as before:
                kept = _lines_up_to(before, facts.first_step)
        except FileNotFoundError:
            kept = []
        write_atomically(path, b"".join([_line(_HEAD), *kept]))
        self._file = path.open("ab", buffering=0)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        lines = b"".join(_line((step, readable(name), value)) for name, value in values.items())
        if self._file.write(lines) != len(lines):  # a nearly full disk takes a part of it
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._file.name)

    def finish(self, outcome: Outcome) -> None:
        self._file.close()


def _line(cells: Iterable[object]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode()


def _lines_up_to(file: BinaryIO, step: int) -> list[bytes]:
    """Whole lines of these steps. One that a killed run has left half written, or that is no figure, is dropped."""
    text = file.read().decode("utf-8", "replace")
    whole = text[: text.rfind("\n") + 1]
    kept = []
    for cells in csv.reader(io.StringIO(whole, newline="")):
        with suppress(ValueError):
            at, _, value = cells
            if int(at) <= step:
                float(value)
                kept.append(_line(cells))
    return kept
