"""Files appear whole; outputs replace no inputs; nothing is written through links; nothing is read from pipes."""

import os
from pathlib import Path

import pytest

from protoseg_deploy.errors import UsageError, WriteError
from protoseg_deploy.files import (
    is_scratch,
    open_regular,
    remove_scratch,
    require_inside,
    require_no_overwriting,
    scratch_path,
    write_atomically,
)


def test_a_file_is_written_or_left_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.bin"
    write_atomically(path, b"first")
    assert path.read_bytes() == b"first"

    def half(file) -> None:
        file.write(b"sec")
        raise OSError(28, "No space left on device")

    with pytest.raises(WriteError, match="No space left"):
        write_atomically(path, half)
    assert path.read_bytes() == b"first"
    assert [entry.name for entry in path.parent.iterdir()] == ["a.bin"]


def test_scratch_names_are_never_shared(tmp_path: Path) -> None:
    names = {scratch_path(tmp_path / "a").name for _ in range(100)}
    assert len(names) == 100
    assert all(map(is_scratch, names))
    assert not is_scratch("a.png")
    assert not is_scratch(".hidden.tmp")


def test_a_scratch_folder_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    seen = []

    def content(file) -> None:
        seen.append([entry.parent.name for entry in tmp_path.rglob(".*.tmp")])
        file.write(b"x")

    write_atomically(tmp_path / "out" / "a.png", content, scratch_folder=tmp_path / "scratch", sync=False)
    assert seen == [["scratch"]]
    assert (tmp_path / "out" / "a.png").read_bytes() == b"x"


def test_what_killed_processes_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"photo")
    for name in ("a.png", ".hidden", ".a.tmp", ".a.0123.tmp"):
        (tmp_path / name).write_bytes(b"x")
    before = sorted(tmp_path.rglob("*"))
    scratch_path(tmp_path / "a").write_bytes(b"half")
    scratch_path(tmp_path / "graph").mkdir()
    (tmp_path / ".link.0123456789ab.tmp").symlink_to(tmp_path / "photos")
    remove_scratch(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before
    remove_scratch(tmp_path / "nowhere")


def test_a_very_long_name_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 250)
    write_atomically(path, b"x")
    assert path.read_bytes() == b"x"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.parametrize("name", ["\U0001f600" * 60, "\udcff\udcfe", "two\nlines", "\u00fc" * 120])
def test_names_of_any_bytes_can_be_written_and_their_scratch_files_are_known(tmp_path: Path, name: str) -> None:
    scratch = scratch_path(tmp_path / name)
    assert is_scratch(scratch.name)
    assert len(os.fsencode(scratch.name)) <= 255
    write_atomically(tmp_path / name, b"content")
    assert (tmp_path / name).read_bytes() == b"content"


def test_a_path_too_long_for_the_system_is_no_link(tmp_path: Path) -> None:
    require_inside(tmp_path, tmp_path / ("x" * 300) / "y")


def test_what_could_be_read_for_ever_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for path, says in ((tmp_path / "pipe", "pipe"), (tmp_path / "link", "pipe"), (Path("/dev/zero"), "device")):
        with pytest.raises(OSError, match=says):
            open_regular(path)
    with pytest.raises(IsADirectoryError):
        open_regular(tmp_path)
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "nothing")
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "good").symlink_to("file")
    with open_regular(tmp_path / "good") as file:
        assert file.read() == b"x"


@pytest.mark.parametrize("way", ["itself", "dots", "link", "linked folder", "hard link"])
def test_an_output_that_is_an_input_is_refused(tmp_path: Path, way: str) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    photo = photos / "a.png"
    photo.write_bytes(b"photo")
    (tmp_path / "link").symlink_to(photo)
    (tmp_path / "linked").symlink_to(photos)
    os.link(photo, tmp_path / "hard")
    output = {
        "itself": photo,
        "dots": photos / ".." / "photos" / "a.png",
        "link": tmp_path / "link",
        "linked folder": tmp_path / "linked" / "a.png",
        "hard link": tmp_path / "hard",
    }[way]
    with pytest.raises(UsageError, match="--out") as raised:
        require_no_overwriting([tmp_path / "free.png", output], [photo], "--out")
    assert str(photo) in raised.value.message
    require_no_overwriting([tmp_path / "free.png"], [photo, tmp_path / "gone"], "--out")


def test_nothing_goes_through_a_link(tmp_path: Path) -> None:
    inside = tmp_path / "real" / "out"
    inside.mkdir(parents=True)
    (tmp_path / "given").symlink_to(inside)
    (inside / "index").symlink_to(tmp_path)
    (inside / "color").mkdir()
    given = tmp_path / "given"  # reached by a link itself, which is what the user asked for
    require_inside(given, given / "color" / "new" / "a.png")
    for path in (given / "index" / "a.png", given / "index", given / "color" / ".." / ".." / "a.png"):
        with pytest.raises(UsageError, match="link"):
            require_inside(given, path)
