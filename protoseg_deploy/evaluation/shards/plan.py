"""The plan of a sharded prediction: which image is in which shard, and how its mask is called.

It is one Parquet file in the folder of results, with one row group a shard, so that whoever predicts a shard reads its
rows alone and nobody holds them all. It depends on the images alone, not on who predicts them.
"""

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protoseg_deploy.errors import UsageError
from protoseg_deploy.evaluation.shards.libraries import pa, pq
from protoseg_deploy.evaluation.shards.listing import Found
from protoseg_deploy.evaluation.shards.naming import MaskNames

IMAGES_A_SHARD = 1000
_SHARDS_OF_FEW = 64
_SMALLEST_SHARD = 16
"""Fewer images than 64 shards of a thousand are spread over 64 shards, so that no worker waits long for the last."""

_AT_ONCE = 16_384
_FOUND = pa.schema([("image", pa.binary()), ("start", pa.int32())])
_PLANNED = pa.schema([("image", pa.binary()), ("name", pa.binary())])
"""Bytes, as the file system has them: names that are no text survive."""


@dataclass(frozen=True)
class Plan:
    """How many images there are, and in how many shards."""

    images: int
    shards: int
    sha256: str
    """Of all images and names, in order."""

    def size(self, shard: int) -> int:
        """Images of a shard: as many as of any other, or one more."""
        return (shard + 1) * self.images // self.shards - shard * self.images // self.shards


def make_plan(found: Iterable[Found], file: Path, *, shards: int | None, dotless: bool) -> Plan:
    """Write the plan of images as they come; each counts once. Holds some 30 bytes an image in memory.

    Args:
        found: see `list_images`.
        file: to be written.
        shards: how many; None: of about a thousand images. Never more than there are images.
        dotless: see `MaskNames`.

    Raises:
        UsageError: there are no images; and whatever `found` raises.
    """
    with tempfile.TemporaryDirectory() as folder:
        spool = Path(folder) / "found.parquet"
        common, repeated = _spool(found, spool)

        def images() -> Iterator[tuple[bytes, str]]:
            return _relative(spool, common, repeated)

        names, count = MaskNames(dotless=dotless), 0
        for _, relative in images():
            names.add(relative)
            count += 1
        if not count:
            raise UsageError("there are no images")
        plan = Plan(count, min(shards or _default_shards(count), count), "")
        digest = _write(((image, names.name(relative)) for image, relative in images()), plan, file)
    return replace(plan, sha256=digest)


def _default_shards(images: int) -> int:
    few = min(_SHARDS_OF_FEW, -(-images // _SMALLEST_SHARD))
    return max(few, -(-images // IMAGES_A_SHARD))


class PlanReader:
    """Reads the rows of shards from a plan.

    Args:
        content: path of the file, which is kept open, or what it holds.

    Raises:
        OSError: it cannot be read.
    """

    def __init__(self, content: bytes | str) -> None:
        self._file = pq.ParquetFile(BytesIO(content) if isinstance(content, bytes) else content)

    def rows(self, shard: int) -> list[tuple[str, str]]:
        """Images of a shard, each with the name of its mask, in order."""
        table = self._file.read_row_group(shard, use_threads=False)
        images, names = (table.column(name).to_pylist() for name in ("image", "name"))
        return [(os.fsdecode(image), os.fsdecode(name)) for image, name in zip(images, names, strict=True)]


def _spool(found: Iterable[Found], spool: Path) -> tuple[str, NDArray[np.bool_] | None]:
    """Write what is found to a file.

    Returns:
        The folder, with a slash, of all images outside that of the manifest; and which images came before, if any.
    """
    identities = bytearray()
    common: str | None = None
    with _Writer(spool, _FOUND) as writer:
        for image, start in found:
            encoded = os.fsencode(image)
            identities += hashlib.blake2b(encoded, digest_size=16).digest()
            if start < 0 and (common is None or not image.startswith(common)):
                common = _common(common, image)
            writer.add(encoded, start)
            if len(writer) == _AT_ONCE:
                writer.end_group()
    return common or "", _repeated(identities)


def _common(folder: str | None, image: str) -> str:
    """The deepest folder above an image that lies above all of a folder too."""
    above = image[: image.rfind("/") + 1]
    if folder is None:
        return above
    while above and not folder.startswith(above):
        above = above[: above.rstrip("/").rfind("/") + 1]
    return above


def _repeated(identities: bytearray) -> NDArray[np.bool_] | None:
    halves = np.frombuffer(bytes(identities), np.uint64).reshape(-1, 2)
    order = np.lexsort((halves[:, 1], halves[:, 0]))  # stable: the first of equal ones comes first
    ordered = halves[order]
    again = (ordered[1:] == ordered[:-1]).all(axis=1)
    if not again.any():
        return None
    repeated = np.zeros(len(order), np.bool_)
    repeated[order[1:][again]] = True
    return repeated


def _relative(spool: Path, common: str, repeated: NDArray[np.bool_] | None) -> Iterator[tuple[bytes, str]]:
    """Every image once, with its path below the folder that it is named by."""
    number = -1
    with pq.ParquetFile(spool) as file:
        for batch in file.iter_batches(_AT_ONCE, use_threads=False):
            for encoded, start in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                number += 1
                if repeated is not None and repeated[number]:
                    continue
                relative = os.fsdecode(encoded)[len(common) if start < 0 else start :]
                if ".." in relative or "://" in relative or relative.startswith("/"):
                    parts = relative.replace("://", "/").split("/")
                    relative = "/".join(part for part in parts if part not in ("", ".", ".."))
                yield encoded, relative


def _write(rows: Iterable[tuple[bytes, str]], plan: Plan, file: Path) -> str:
    digest = hashlib.sha256()
    shard, rest = 0, plan.size(0)
    with _Writer(file, _PLANNED) as writer:
        for image, name in rows:
            encoded = os.fsencode(name)
            digest.update(b"%b\0%b\n" % (image, encoded))
            writer.add(image, encoded)
            rest -= 1
            if not rest:
                writer.end_group()
                shard += 1
                rest = plan.size(shard)
    return digest.hexdigest()


class _Writer:
    """Writes a table of two columns, a group of rows at a time."""

    def __init__(self, file: Path, schema: Any) -> None:
        self._schema = schema
        self._columns: tuple[list[Any], list[Any]] = ([], [])
        self._writer = pq.ParquetWriter(
            file, schema, compression="zstd", use_dictionary=False, write_statistics=False, store_schema=False
        )

    def __len__(self) -> int:
        """Rows of the group that is not written yet."""
        return len(self._columns[0])

    def add(self, first: Any, second: Any) -> None:
        self._columns[0].append(first)
        self._columns[1].append(second)

    def end_group(self) -> None:
        if len(self):
            table = pa.table(list(self._columns), schema=self._schema)
            self._writer.write_table(table, row_group_size=table.num_rows)
        self._columns = ([], [])

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, *exception: object) -> None:
        if exception[0] is None:
            self.end_group()
        self._writer.close()
