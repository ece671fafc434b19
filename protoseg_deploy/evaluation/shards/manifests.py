"""Manifest files: the images of a prediction, named in a text list, a CSV, JSON lines or a Parquet file."""

import csv
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from protoseg_deploy.data.list_text import image_column, read_lines
from protoseg_deploy.errors import DataError, UsageError
from protoseg_deploy.evaluation.shards.libraries import pa, pq
from protoseg_deploy.evaluation.shards.stores import is_url, plain_path, read_content
from protoseg_deploy.files import open_regular, path_fault

COLUMN = "image"
"""Of the images in a CSV, a Parquet file or JSON lines."""

_MOST_FAULTS = 20
_LONGEST_PLAIN = 200
_ROWS_AT_ONCE = 16_384

Line = tuple[int, str | None, str]
"""Its number, the image it names, and what is wrong where it names none."""


def read_manifest(manifest: str) -> Iterator[str]:
    """The images a manifest names, in order, as they are written there.

    The ending says how it is read: ``.csv``, ``.parquet`` and ``.jsonl`` have a column or key ``image``; everything
    else is a text list with one image per line. In a list blank lines and lines that start with ``#`` are skipped, a
    JSON string is the name it stands for, and what follows a tab, or follows a blank after the name of an image,
    does not count.

    Raises:
        UsageError: there is no such file, it cannot be read as what its ending says, names no image at all, or has
            lines that name none; the message gives the first of these lines.
    """
    ending = manifest.rpartition(".")[2].lower()
    form: Callable[[Path], Iterator[Line]] = _FORMS.get(ending, _text_lines)
    faults: list[str] = []
    empty = True
    with _local_copy(manifest) as path:
        try:
            for number, name, fault in form(path):
                if name is not None:
                    fault = _name_fault(name)
                if fault or name is None:
                    faults.append(f"{manifest}:{number}: {fault}")
                    if len(faults) == _MOST_FAULTS:
                        faults.append("… the rest is not read")
                        break
                    continue
                empty = False
                if not faults:
                    yield name
        except (OSError, ValueError, pa.ArrowException) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            reason = "not a text file" if isinstance(error, UnicodeError) else reason.splitlines()[0]
            raise UsageError(f"--manifest {manifest} cannot be read: {reason}", _HINT) from None
    if faults:
        raise UsageError("\n".join(faults), _HINT)
    if empty:
        raise UsageError(f"--manifest {manifest} names no images", _HINT)


_HINT = (
    "A manifest is a list with one image per line, or a .csv, .parquet or .jsonl file with a column 'image'. Paths "
    "start at its folder."
)


@contextmanager
def _local_copy(manifest: str) -> Iterator[Path]:
    if not is_url(manifest):
        yield Path(plain_path(manifest))
        return
    try:
        content = read_content(manifest)
    except DataError as error:
        raise UsageError(f"--manifest {error.message}", _HINT) from None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "manifest"
        path.write_bytes(content)
        yield path


def _name_fault(name: str) -> str:
    """Why a name is no path; empty for nearly all, which are hardly looked at."""
    if not name.strip():
        return "an empty path"
    if ("\0" in name or len(name) > _LONGEST_PLAIN) and "://" not in name:
        return path_fault(name) or ""
    if not name.isascii():
        try:
            os.fsencode(name)
        except UnicodeEncodeError:  # half of a surrogate pair, which JSON can spell
            return path_fault(name) or ""
    return ""


def _text_lines(path: Path) -> Iterator[Line]:
    for number, text in read_lines(path):
        yield number, image_column(text), ""


def _csv_rows(path: Path) -> Iterator[Line]:
    with open_regular(path):  # no folder, no named pipe
        pass
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        rows = csv.reader(file, strict=True)
        start = 1
        try:
            header = [column.strip() for column in next(rows, [])]
            if header.count(COLUMN) != 1:
                found = ", ".join(header) or "(none)"
                raise ValueError(f"its first line names the columns {found}, not one {COLUMN!r}")
            place, start = header.index(COLUMN), rows.line_num + 1
            for row in rows:
                if row:
                    short = len(row) <= place
                    yield rows.line_num, None if short else row[place], f"no column {COLUMN!r}" if short else ""
                start = rows.line_num + 1
        except csv.Error as error:
            raise ValueError(f"the row that begins at line {start} is no CSV, are its quotes closed? {error}") from None


def _json_lines(path: Path) -> Iterator[Line]:
    with open_regular(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                value = json.loads(line.decode("utf-8-sig", "surrogateescape"))
            except (ValueError, RecursionError) as error:
                yield number, None, f"not JSON: {error}"
                continue
            name = value.get(COLUMN) if isinstance(value, dict) else None
            good = isinstance(name, str)
            yield number, name if good else None, "" if good else f"no text under the key {COLUMN!r}"


def _parquet_rows(path: Path) -> Iterator[Line]:
    with open_regular(path) as opened, pq.ParquetFile(opened) as file:
        names = file.schema_arrow.names
        if names.count(COLUMN) != 1:
            raise ValueError(f"it has the columns {', '.join(names[:8]) or '(none)'}, not one {COLUMN!r}")
        number = 0
        for batch in file.iter_batches(_ROWS_AT_ONCE, columns=[COLUMN], use_threads=False):
            for value in batch.column(0).to_pylist():
                number += 1
                name = _decoded(value)
                yield number, name, "" if name is not None else f"no text in the column {COLUMN!r}"


def _decoded(value: Any) -> str | None:
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    return value if isinstance(value, str) else None


_FORMS: dict[str, Callable[[Path], Iterator[Line]]] = {
    "csv": _csv_rows,
    "parquet": _parquet_rows,
    "jsonl": _json_lines,
    "ndjson": _json_lines,
}
