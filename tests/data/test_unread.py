"""What lies in a folder of images and is not read, counted."""

import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from protoseg_deploy.data.finding import find_images, unread_files


def touch(root: Path, names: Iterable[str]) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_files_are_counted_by_ending(tmp_path: Path) -> None:
    touch(tmp_path, ["a.jpg", "b.dcm", "sub/c.DCM", "sub/d.mov", "noext", "sub/deep/e.npy", "f.tar.gz"])
    unread = unread_files(tmp_path)
    assert unread.counts == {".dcm": 2, "": 1, ".gz": 1, ".mov": 1, ".npy": 1}
    assert next(iter(unread.counts)) == ".dcm"
    assert unread.text.startswith("6 files are not read: 2 .dcm, 1 without an ending, 1 .gz")


def test_images_hidden_files_and_litter_do_not_count(tmp_path: Path) -> None:
    touch(tmp_path, ["a.jpg", ".DS_Store", "Thumbs.db", "sub/desktop.ini", "sub/._b.png", ".git/config", "masks/m.txt"])
    unread = unread_files(tmp_path, [tmp_path / "masks"])
    assert unread.counts == {}
    assert unread.text == ""


def test_many_endings_are_cut_and_the_total_is_right(tmp_path: Path) -> None:
    touch(tmp_path, [f"{number}.x{number:02}" for number in range(20)])
    text = unread_files(tmp_path).text
    assert text.startswith("20 files are not read: 1 .x00, ")
    assert text.endswith("12 with 12 other endings")


def test_a_folder_named_like_an_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").mkdir()
    touch(tmp_path, ["b.png/inside.jpg"])
    assert unread_files(tmp_path).empty == (tmp_path / "a.png",)
    assert "a.png" in unread_files(tmp_path).text


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, ["open/a.jpg", "closed/b.jpg"])
    scandir = os.scandir

    def refuse(place: Path) -> object:  # root may list everything
        if Path(place).name == "closed":
            raise PermissionError(13, "Permission denied", str(place))
        return scandir(place)

    monkeypatch.setattr(os, "scandir", refuse)
    (closed,) = unread_files(tmp_path).closed
    assert closed == f"{tmp_path / 'closed'}: the folder cannot be listed: Permission denied"
    assert find_images(tmp_path, leave_out=[], key="", faults=[]) == [tmp_path / "open/a.jpg"]


def test_pipes_and_names_that_are_no_text_are_counted(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/stra\xdfe.x\xff")).touch()
    except OSError:
        pytest.skip("this file system takes text only")
    assert sum(unread_files(tmp_path).counts.values()) == 2


def test_a_folder_without_images_says_what_is_there(tmp_path: Path) -> None:
    touch(tmp_path, ["a.dcm", "b.dcm"])
    faults: list[str] = []
    assert find_images(tmp_path, leave_out=[], key="data.val.images", faults=faults) == []
    assert faults[0].startswith(f"data.val.images: no images in {tmp_path}")
    assert "2 files are not read: 2 .dcm" in faults[0]
