"""Several ask for a thing at once and one makes it; a failed attempt leaves nothing that looks complete."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.made_once import made_once


def test_one_makes_it_and_the_others_wait(tmp_path: Path) -> None:
    made = []

    def make(folder: Path) -> None:
        made.append(folder)
        folder.mkdir()
        time.sleep(0.2)
        (folder / "last").touch()

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: (made_once(tmp_path / "a" / "b", make) / "last").exists(), range(4)))
    assert found == [True] * 4
    assert len(made) == 1


def test_what_failed_is_made_again(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        folder.mkdir()
        (folder / "half").touch()
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        made_once(tmp_path / "a", fail)
    assert not (tmp_path / "a").exists()
    made_once(tmp_path / "a", Path.mkdir)
    assert list((tmp_path / "a").iterdir()) == []
