"""Which image a worker process is at, and which images workers have died at: so that a poisonous one is found.

A decoder or a driver that crashes takes its process with it, which can then tell nobody what it was doing. So a worker
notes the number of the image that it turns to. Who sees the worker die writes down where. A worker that takes the shard
up again reads that, and an image at which two have died is not tried again.
"""

import json
from collections import Counter
from dataclasses import dataclass
from typing import BinaryIO

from protoseg_deploy.errors import ProtosegError
from protoseg_deploy.evaluation.shards.stores import LocalStore, RemoteStore

NOTES = ".notes"
"""Folder below the results."""

DEATHS_OF_POISON = 2
_MOST_UNEXPLAINED = 3
"""So many workers may die in one shard while they are at no image, such as when they open the runtime."""
_MOST_POISONOUS = 16
"""Images of one shard: with more of them it is not the images."""


@dataclass(frozen=True)
class Death:
    """The end of a worker process that nobody asked for."""

    row: int | None
    """Number of the image in its shard; None where it was at none, or nobody knows."""
    how: str
    """Such as ``killed by SIGSEGV``."""


class ShardNotes:
    """The notes of one shard, written by the worker that has it and by who watches that.

    Args:
        store: of the results.
        shard: which one.
    """

    def __init__(self, store: LocalStore | RemoteStore, shard: int) -> None:
        self._store = store
        self._at, self._deaths = f"{NOTES}/shard-{shard:05}.at", f"{NOTES}/shard-{shard:05}.deaths"
        self._shard = shard
        self._file: BinaryIO | None = None
        self._is_careful = False

    def begin(self) -> dict[int, str]:
        """Take the shard up.

        Returns:
            The rows not to be tried, each with how its workers ended.
        """
        deaths = self.deaths()
        # To an object store each note is a request: there it is written only where a worker has died before.
        self._is_careful = bool(deaths)
        counts = Counter(death.row for death in deaths)
        self.turn_to(None)
        return {
            death.row: death.how for death in deaths if death.row is not None and counts[death.row] >= DEATHS_OF_POISON
        }

    def turn_to(self, row: int | None) -> None:
        """Note the image that is looked at next; None: none. Survives the end of the process, not of the machine."""
        text = b"%-12d" % (-1 if row is None else row)
        if isinstance(self._store, LocalStore):
            if self._file is None:
                self._store.write(self._at, text, sync=False)
                self._file = (self._store.folder / self._at).open("r+b", buffering=0)
            self._file.seek(0)
            self._file.write(text)
        elif self._is_careful:
            self._store.write(self._at, text)

    def close(self) -> None:
        """Nothing more is noted by this process; what is noted stays."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def end(self) -> None:
        """The shard is done: nothing is left of its notes."""
        self.close()
        if isinstance(self._store, LocalStore) or self._is_careful:
            self._store.remove(self._at)
            self._store.remove(self._deaths)

    def deaths(self) -> list[Death]:
        """What is known of workers that died in this shard."""
        try:
            return [Death(row, how) for row, how in json.loads(self._store.read(self._deaths))]
        except FileNotFoundError:
            return []
        except (ValueError, TypeError):
            self._store.remove(self._deaths)
            return []

    def record_death(self, how: str) -> None:
        """The worker that had this shard is gone.

        Raises:
            ProtosegError: so many have died here that it cannot be single images.
        """
        deaths = [*self.deaths(), Death(self._row(), how)]
        self._store.write(self._deaths, json.dumps([[death.row, death.how] for death in deaths]).encode())
        self._store.remove(self._at)
        counts = Counter(death.row for death in deaths)
        poisonous = sum(count >= DEATHS_OF_POISON for row, count in counts.items() if row is not None)
        if counts[None] < _MOST_UNEXPLAINED and poisonous <= _MOST_POISONOUS:
            return
        where = "at no image in particular" if poisonous <= _MOST_POISONOUS else f"at {poisonous} images"
        raise ProtosegError(
            f"{len(deaths)} worker processes have died in shard {self._shard}, {where}: the last one was {how}",
            f"It may be the runtime, or too little memory: try it with --workers 1, or on one image without --shards. "
            f"Remove {self._store.root}/{NOTES} to start this shard anew.",
        )

    def _row(self) -> int | None:
        try:
            row = int(self._store.read(self._at))
        except (FileNotFoundError, ValueError):
            return None
        return row if row >= 0 else None
