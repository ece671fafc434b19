"""Names of masks: one of its own for every image, found in memory that hardly grows with their number."""

import hashlib
import os

import numpy as np
from numpy.typing import NDArray

from protoseg_deploy.evaluation.result_names import fitted, folded

_BYTES = 8


class MaskNames:
    """Names of the masks of many images, equal ones told apart as in `prediction_plan.name_outputs`.

    First every image is given to `add`, then, in the same order, to `name`. In between 8 bytes an image are kept: a
    digest of its plain name. Names whose digests are equal count as equal, which makes one of them longer.

    Args:
        dotless: names without dots before their ending, as WebDataset needs them: there a sample is what stands before
            the first dot.
    """

    def __init__(self, *, dotless: bool) -> None:
        self._dotless = dotless
        self._wishes = bytearray()
        self._folders: set[bytes] = set()
        self._last_folder = ""
        self._given: set[bytes] = set()
        self._sorted: NDArray[np.uint64] | None = None
        self._shared: set[int] = set()

    def add(self, relative: str) -> None:
        """Note the wish of one image: its path below the folder of its input."""
        folder, _, _ = relative.rpartition("/")
        if folder != self._last_folder:
            self._last_folder = folder
            while folder:
                self._folders.add(_digest(folder))
                folder, _, _ = folder.rpartition("/")
        self._wishes += _digest(self._plain(relative))

    def name(self, relative: str) -> str:
        """A name that no other image has, ending in .png."""
        name = self._plain(relative)
        digest = _digest(name)
        if self._is_shared(digest):
            number = 1
            name = self._longer(relative, "")
            while self._is_taken(digest := _digest(name)):
                number += 1
                name = self._longer(relative, f"-{number}")
            self._given.add(digest)
        return name

    def _plain(self, relative: str) -> str:
        folder, slash, file = relative.rpartition("/")
        stem = os.path.splitext(file)[0]  # noqa: PTH122  a Path takes ten times as long
        return f"{folder}{slash}{fitted(f'{self._key(stem)}.png')}"

    def _longer(self, relative: str, ending: str) -> str:
        folder, slash, file = relative.rpartition("/")
        return f"{folder}{slash}{fitted(f'{self._key(file)}{ending}.png')}"

    def _key(self, stem: str) -> str:
        return stem.replace(".", "_") if self._dotless else stem

    def _is_shared(self, digest: bytes) -> bool:
        self._sort()
        return digest in self._folders or int.from_bytes(digest, "big") in self._shared

    def _is_taken(self, digest: bytes) -> bool:
        wishes, number = self._sort(), np.uint64(int.from_bytes(digest, "big"))
        place = int(np.searchsorted(wishes, number))
        is_wish = place < len(wishes) and wishes[place] == number
        return bool(is_wish) or digest in self._folders or digest in self._given

    def _sort(self) -> NDArray[np.uint64]:
        if self._sorted is None:
            wishes = np.sort(np.frombuffer(bytes(self._wishes), ">u8").astype(np.uint64))
            self._shared = set(np.unique(wishes[1:][wishes[1:] == wishes[:-1]]).tolist())
            self._sorted, self._wishes = wishes, bytearray()
        return self._sorted


def _digest(name: str) -> bytes:
    return hashlib.blake2b(os.fsencode(folded(name)), digest_size=_BYTES).digest()
