"""``report.json``: every record that was bad, skipped or changed, written as it comes, whatever their number."""

import os
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from protoseg_deploy.annotations.shapes import Kind, Problem
from protoseg_deploy.data.list_text import as_column
from protoseg_deploy.data.paths import name_below
from protoseg_deploy.documents import dump_document
from protoseg_deploy.errors import WriteError
from protoseg_deploy.files import write_atomically

REPORT, LIST, CLASSES, MASKS = "report.json", "labeled.txt", "classes.json", "masks"
"""What a conversion writes into its folder."""

_SHOWN = 20


class ReportWriter:
    """Collects lines in files without names that are read; `finish` makes the report and the list of them."""

    def __init__(self, out: Path, scratch: Path) -> None:
        self._out = out
        self.counts: Counter[Kind] = Counter()
        self.first_bad: list[Problem] = []
        self._paths = scratch / "problems", scratch / "list"
        self._problems, self._list = (self._open(path) for path in self._paths)

    def add(self, problem: Problem) -> None:
        """Note one record."""
        self.counts[problem.kind] += 1
        if problem.kind == "bad" and len(self.first_bad) < _SHOWN:
            self.first_bad.append(problem)
        entry = {"kind": problem.kind, "file": problem.file, "record": problem.record, "image": problem.image}
        self._problems.write(dump_document(entry | {"reason": problem.reason}, indent=None) + b"\n")

    def pair(self, image: Path, mask: Path) -> None:
        """List an image with its mask."""
        columns = (as_column(name_below(path.absolute(), self._out.absolute())) for path in (image, mask))
        self._list.write(os.fsencode("\t".join(columns)) + b"\n")

    def finish(self, facts: Mapping[str, object]) -> None:
        """Write both files; facts come first in the report.

        Raises:
            WriteError: one cannot be written.
        """
        self._flush()
        head = dump_document({**facts, "records": {kind: self.counts[kind] for kind in ("bad", "skipped", "changed")}})

        def write_report(file: BinaryIO) -> None:
            file.write(head[: head.rindex(b"\n}")] + b',\n  "problems": [')
            for number, line in enumerate(self._paths[0].open("rb")):
                file.write((b",\n    " if number else b"\n    ") + line.rstrip())
            file.write(b"\n  ]\n}\n")

        def write_list(file: BinaryIO) -> None:
            file.write(b"# image, tab, mask; relative paths start at data.root\n")
            with self._paths[1].open("rb") as lines:
                file.writelines(lines)

        write_atomically(self._out / REPORT, write_report)
        write_atomically(self._out / LIST, write_list)

    def close(self) -> None:
        for file in (self._problems, self._list):
            with suppress(OSError):  # a full disk, which the error that led here has told
                file.close()

    def _flush(self) -> None:
        try:
            self._problems.flush()
            self._list.flush()
        except OSError as error:
            raise WriteError(self._paths[0], error) from None

    @staticmethod
    def _open(path: Path) -> BinaryIO:
        try:
            return path.open("wb")
        except OSError as error:
            raise WriteError(path, error) from None
