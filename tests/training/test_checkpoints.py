"""Checkpoint files: what a full disk and altered bytes do to them."""

import errno
import os
import random
import zipfile
from pathlib import Path

import pytest
import torch

from protoseg_deploy.errors import ProtosegError, WriteError
from protoseg_deploy.training.checkpoints import Checkpoints


def state_after(step):
    generator = torch.Generator().manual_seed(step)
    tensors = [torch.randn(3000, generator=generator) for _ in range(4)]
    return {"step": step, "tensors": tensors, "random": torch.get_rng_state(), "latest": {"miou": 1.5, "none": None}}


def assert_state(state, step):
    expected = state_after(step)
    assert state["step"] == step
    assert state["latest"] == expected["latest"]
    for found, tensor in zip(state["tensors"], expected["tensors"], strict=True):
        assert torch.equal(found, tensor)


@pytest.fixture
def checkpoints(tmp_path):
    return Checkpoints(tmp_path / "checkpoints")


class _FullDisk:
    """A file on a disk that has room for so many bytes more."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.file.close()

    def __getattr__(self, name):
        return getattr(self.file, name)

    def write(self, data):
        self.file.write(data[: self.room])
        self.room -= len(data)
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return len(data)


def test_the_newest_two_are_kept(checkpoints):
    for step in (2, 4, 6, 8):
        checkpoints.save(step, state_after(step))
    assert [path.name for path in checkpoints.paths()] == ["step-00000006.pt", "step-00000008.pt"]
    state, damaged = checkpoints.load_newest()
    assert_state(state, 8)
    assert damaged == []


def test_nothing_there_is_no_error(checkpoints):
    assert checkpoints.load_newest() == (None, [])


def test_a_state_is_streamed(checkpoints, monkeypatch):
    """No piece that reaches the file is larger than one tensor."""
    pieces = []

    class Watched(_FullDisk):
        def write(self, data):
            pieces.append(len(data))
            return super().write(data)

    path_open = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *how: Watched(path_open(self, *how), 10**9))
    path = checkpoints.save(3, state_after(3))
    assert max(pieces) <= 4 * 3000
    assert sum(pieces) == path.stat().st_size


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.5, 0.9, 0.999])
def test_a_full_disk_is_named_and_spoils_nothing(checkpoints, monkeypatch, share):
    earlier = checkpoints.save(3, state_after(3))
    content = earlier.read_bytes()
    path_open = Path.open
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda self, *how: _FullDisk(path_open(self, *how), int(share * len(content))))
        with pytest.raises(WriteError, match=r"step-00000006\.pt: No space left on device"):
            checkpoints.save(6, state_after(6))
    assert [path.name for path in checkpoints.folder.iterdir()] == [earlier.name], "and nothing half-written"
    assert earlier.read_bytes() == content
    checkpoints.save(6, state_after(6))
    assert_state(checkpoints.load_newest()[0], 6)


def test_a_disk_that_fails_when_flushed_spoils_nothing(checkpoints, monkeypatch):
    earlier = checkpoints.save(3, state_after(3))

    def refuse(_file):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(WriteError, match="Input/output error"):
        checkpoints.save(6, state_after(6))
    assert [path.name for path in checkpoints.folder.iterdir()] == [earlier.name]


def test_where_the_run_is_gone_no_folder_is_made_again(tmp_path):
    checkpoints = Checkpoints(tmp_path / "gone" / "checkpoints")
    with pytest.raises(WriteError, match="No such file or directory"):
        checkpoints.save(1, state_after(1))
    assert not (tmp_path / "gone").exists()


def test_what_a_killed_run_began_is_removed_by_the_next_checkpoint(checkpoints):
    checkpoints.save(3, state_after(3))
    (checkpoints.folder / ".step-00000005.pt.tmp").write_bytes(b"half")
    checkpoints.save(6, state_after(6))
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == ["step-00000003.pt", "step-00000006.pt"]


@pytest.mark.parametrize("share", [0.0, 0.2, 0.6, 0.99])
def test_a_torn_checkpoint_is_named_and_the_one_before_is_used(checkpoints, share):
    checkpoints.save(3, state_after(3))
    newest = checkpoints.save(6, state_after(6))
    content = newest.read_bytes()
    newest.write_bytes(content[: int(share * len(content))])
    state, damaged = checkpoints.load_newest()
    assert_state(state, 3)
    assert len(damaged) == 1
    assert str(newest) in damaged[0]


def test_a_flipped_bit_is_found_or_does_not_matter(checkpoints):
    """In tensors, in headers, in the directory of the archive: never is anything else read than was written."""
    checkpoints.save(3, state_after(3))
    newest = checkpoints.save(6, state_after(6))
    content = newest.read_bytes()
    draw = random.Random(0)
    directory = zipfile.ZipFile(newest).start_dir
    places = [draw.randrange(len(content)) for _ in range(150)]
    places += [draw.randrange(directory, len(content)) for _ in range(250)]
    found = 0
    for place in places:
        altered = bytearray(content)
        altered[place] ^= 1 << draw.randrange(8)
        newest.write_bytes(altered)
        state, damaged = checkpoints.load_newest()
        assert_state(state, 3 if damaged else 6)
        found += bool(damaged)
    assert found > 150


def test_every_flipped_bit_of_a_tensor_is_found(checkpoints):
    checkpoints.save(3, state_after(3))
    newest = checkpoints.save(6, state_after(6))
    content = newest.read_bytes()
    start = content.index(state_after(6)["tensors"][1].numpy().tobytes())
    for place in (start, start + 5000, start + 11_999):
        altered = bytearray(content)
        altered[place] ^= 1
        newest.write_bytes(altered)
        state, damaged = checkpoints.load_newest()
        assert_state(state, 3)
        assert newest.name in damaged[0]


def test_an_entry_marked_as_a_folder_is_damage(checkpoints):
    """Torch would read whatever is in memory."""
    checkpoints.save(3, state_after(3))
    newest = checkpoints.save(6, state_after(6))
    content = bytearray(newest.read_bytes())
    entry = content.index(b"PK\x01\x02", content.rindex(b"data/1") - 60)
    content[entry + 38] |= 0x10  # the attribute of MS-DOS
    newest.write_bytes(content)
    assert_state(checkpoints.load_newest()[0], 3)


def test_a_damaged_checkpoint_of_a_later_step_makes_room(checkpoints):
    checkpoints.save(3, state_after(3))
    checkpoints.save(6, state_after(6)).write_bytes(b"damaged")
    checkpoints.save(5, state_after(5))
    assert [path.name for path in checkpoints.paths()] == ["step-00000003.pt", "step-00000005.pt"]


def test_no_readable_checkpoint_is_an_error_that_names_them_all(checkpoints):
    for step in (3, 6):
        checkpoints.save(step, state_after(step)).write_bytes(b"damaged")
    with pytest.raises(ProtosegError, match=r"(?s)no checkpoint to resume from.*step-00000006.*step-00000003"):
        checkpoints.load_newest()
