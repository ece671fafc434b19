"""A folder takes another's place as a whole, whenever its writer is killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from protoseg_deploy.errors import UsageError
from protoseg_deploy.exchange import replacing, settle
from protoseg_deploy.locks import LockedError

_REPLACE = """
import os, signal, sys
from pathlib import Path
import protoseg_deploy.exchange as exchange
target, deadly = Path(sys.argv[1]), int(sys.argv[2])
calls = 0
def counted(real):
    def call(*arguments, **options):
        global calls
        calls += 1
        if calls == deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **options)
    return call
for owner, name in ((Path, "rename"), (exchange.shutil, "rmtree"), (Path, "mkdir")):
    setattr(owner, name, counted(getattr(owner, name)))
with exchange.replacing(target) as new:
    (new.folder / "a").write_text("new")
    (new.folder / "b").write_text("new")
    new.put_in_place()
print("done")
"""


def content(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir() if path.name != ".lock"}


OLD, NEW = {"a": "old"}, {"a": "new", "b": "new"}


def test_wherever_it_is_killed_a_whole_folder_is_there(tmp_path: Path) -> None:
    target = tmp_path / "b"
    seen = set()
    for deadly in range(1, 20):
        for left in tmp_path.iterdir():
            assert left == target, "the next writer removes all that a killed one has left"
        target.mkdir(exist_ok=True)
        for path in target.iterdir():
            path.unlink()
        (target / "a").write_text("old")
        program = [sys.executable, "-c", _REPLACE, str(target), str(deadly)]
        killed = subprocess.run(program, capture_output=True, check=False)
        if killed.stdout == b"done\n":
            assert deadly > 5
            break
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        seen.add("gone" if not target.exists() else "there")
        settle(target)
        assert content(target) in (OLD, NEW)
        with replacing(target) as new:
            (new.folder / "a").write_text("again")
            new.put_in_place()
        assert content(target) == {"a": "again"}
    else:
        pytest.fail("it never came to its end")
    assert seen == {"gone", "there"}, "one of the kills fell between the two renames"


def test_a_new_folder_appears_or_not(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "b"
    with replacing(target) as new:
        (new.folder / "a").write_text("never put in place")
    assert list(target.parent.iterdir()) == []
    with replacing(target) as new:
        (new.folder / "a").write_text("new")
        new.put_in_place()
    assert content(target) == {"a": "new"}
    assert list(target.parent.iterdir()) == [target]


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    with replacing(tmp_path / "b") as new:
        other = subprocess.run(
            [sys.executable, "-c", _REPLACE, str(tmp_path / "b"), "0"], capture_output=True, text=True, check=False
        )
        assert f"LockedError: {tmp_path / 'b'} is being written by process {os.getpid()}" in other.stderr
        assert new.folder.is_dir()
        with pytest.raises(LockedError), replacing(tmp_path / "b"):
            pass


def test_another_place_beside_it(tmp_path: Path) -> None:
    failed = tmp_path / "b-failed"
    failed.mkdir()
    (failed / "a").write_text("old")
    with replacing(tmp_path / "b") as new:
        (new.folder / "a").write_text("new")
        new.put_in_place(failed)
    assert content(failed) == {"a": "new"}
    assert list(tmp_path.iterdir()) == [failed]


def test_what_a_link_leads_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "v1").mkdir()
    (tmp_path / "latest").symlink_to("v1")
    with replacing(tmp_path / "latest") as new:
        (new.folder / "a").write_text("new")
        new.put_in_place()
    assert (tmp_path / "latest").is_symlink()
    assert content(tmp_path / "v1") == {"a": "new"}


def test_what_only_looks_like_a_leftover_is_left_alone(tmp_path: Path) -> None:
    for name in (".b.old", ".b.123.tmp", ".bb.0123456789ab.tmp", ".b.0123456789ab.new.txt", ".b.tmp"):
        (tmp_path / name).mkdir()
    outside = tmp_path / "photos"
    outside.mkdir()
    (tmp_path / ".b.0123456789ab.tmp").symlink_to(outside)
    before = sorted(tmp_path.iterdir())
    with replacing(tmp_path / "b"):
        pass
    assert sorted(tmp_path.iterdir()) == before
    settle(tmp_path / "b")
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_comes_into_being_meanwhile_is_left_where_it_may_not_be_replaced(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "b"
    mine = target / "thesis.txt" if kind == "folder" else target

    def check(place: Path) -> None:
        assert place == target
        raise UsageError("somebody else's")

    with replacing(target, check) as new:
        (new.folder / "a").write_text("new")
        mine.parent.mkdir(exist_ok=True)
        mine.write_text("years of work")
        with pytest.raises(UsageError, match="somebody else's"):
            new.put_in_place()
    assert list(tmp_path.iterdir()) == [target]
    assert mine.read_text() == "years of work"
    mine.rename(tmp_path / "elsewhere")
    if kind == "folder":
        assert list(target.iterdir()) == []
        target.rmdir()
    with replacing(target, check) as new:  # nothing there: nothing to be refused
        (new.folder / "a").write_text("new")
        new.put_in_place()
    assert content(target) == {"a": "new"}
