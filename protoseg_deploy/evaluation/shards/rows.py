"""The Parquet file of a finished shard: one row an image, and the totals in its metadata.

Equal rows give equal bytes: the options of the writer are fixed, and nothing of time or place is stored.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from protoseg_deploy.errors import ProtosegError
from protoseg_deploy.evaluation.class_maps import FailureKind
from protoseg_deploy.evaluation.shards.libraries import pa, pq
from protoseg_deploy.text import readable

RESULTS = "results"
"""Folder of these files below the results."""

_KEY = b"protoseg"
_SHOWN_FAILURES = 20
_SCHEMA = pa.schema(
    [
        ("image", pa.string()),
        ("mask", pa.string()),
        ("member", pa.string()),
        ("status", pa.string()),
        ("kind", pa.string()),
        ("reason", pa.string()),
        ("image_sha256", pa.string()),
        ("artefact_sha256", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("class_pixels", pa.list_(pa.int64())),
    ]
)


@dataclass(frozen=True)
class Row:
    """What became of one image."""

    image: str
    """Its path, absolute, or its URL."""
    artefact_sha256: str
    mask: str | None = None
    """Below the folder of results: a PNG, or the tar that holds it. None: it failed."""
    member: str | None = None
    """Name of the mask in its tar."""
    kind: FailureKind | None = None
    reason: str | None = None
    """Why it failed; begins with the image."""
    image_sha256: str | None = None
    """None: it could not be read."""
    height: int | None = None
    width: int | None = None
    class_pixels: tuple[int, ...] | None = None

    @property
    def status(self) -> str:
        return "ok" if self.kind is None else "failed"


@dataclass(frozen=True)
class ShardResult:
    """A finished shard in few words."""

    shard: int
    images: int
    failed: int
    class_pixels: tuple[int, ...]
    """Pixels by class, of all its masks."""
    failures: tuple[str, ...] = field(default=())
    """Why images failed, of the first few."""


def shard_file(shard: int) -> str:
    """``results/shard-00012.parquet``."""
    return f"{RESULTS}/shard-{shard:05}.parquet"


def shard_of(name: str) -> int | None:
    """The shard of a file in the folder of results, by its name."""
    number = name.removeprefix("shard-").removesuffix(".parquet")
    if not number.isdecimal() or shard_file(int(number)) != f"{RESULTS}/{name}":
        return None
    return int(number)


def write_rows(rows: Sequence[Row], shard: int, plan_sha256: str, classes: Sequence[str]) -> tuple[bytes, ShardResult]:
    """The content of the file of a shard, and what it says in few words."""
    pixels = [0] * len(classes)
    for row in rows:
        for number, count in enumerate(row.class_pixels or ()):
            pixels[number] += count
    failures = [readable(row.reason or "") for row in rows if row.kind is not None]
    totals = {
        "shard": shard,
        "plan_sha256": plan_sha256,
        "images": len(rows),
        "failed": len(failures),
        "classes": list(classes),
        "class_pixels": pixels,
    }
    metadata = {_KEY: json.dumps(totals, ensure_ascii=False).encode()}
    columns = [[_value(getattr(row, column)) for row in rows] for column in _SCHEMA.names]
    table = pa.table(columns, schema=_SCHEMA.with_metadata(metadata))
    content = BytesIO()
    pq.write_table(
        table,
        content,
        version="2.6",
        compression="zstd",
        use_dictionary=["status", "kind", "artefact_sha256", "mask"],
        row_group_size=max(1, len(rows)),
    )
    result = ShardResult(shard, len(rows), len(failures), tuple(pixels), tuple(failures[:_SHOWN_FAILURES]))
    return content.getvalue(), result


def read_result(source: bytes | str, shard: int, plan_sha256: str, place: str) -> ShardResult:
    """What the file of a shard says in few words.

    Args:
        source: path of the file, or what it holds.
        shard: which one it is to be.
        plan_sha256: the plan it is to belong to.
        place: of the file, for messages.

    Raises:
        ProtosegError: it is damaged, or of another shard or plan.
    """
    try:
        with pq.ParquetFile(BytesIO(source) if isinstance(source, bytes) else source) as file:
            totals: dict[str, Any] = json.loads((file.schema_arrow.metadata or {})[_KEY])
            found = (totals["shard"], totals["plan_sha256"])
            pixels, failures = tuple(totals["class_pixels"]), _failures(file) if totals["failed"] else ()
            result = ShardResult(shard, totals["images"], totals["failed"], pixels, failures)
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ProtosegError(f"{place} is damaged: {reason}", "Remove it: its shard is predicted again.") from None
    if found != (shard, plan_sha256):
        raise ProtosegError(
            f"{place} is shard {found[0]} of another prediction", "Remove it: its shard is predicted again."
        )
    return result


def _failures(file: Any) -> tuple[str, ...]:
    table = file.read(columns=["status", "reason"], use_threads=False).to_pydict()
    pairs = zip(table["status"], table["reason"], strict=True)
    return tuple([reason for status, reason in pairs if status == "failed"][:_SHOWN_FAILURES])


def _value(value: Any) -> Any:
    return readable(value) if isinstance(value, str) else value
