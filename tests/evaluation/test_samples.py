"""Folders to judge by: searched as those of a recipe are."""

import os
from pathlib import Path

import pytest

from protoseg_deploy.errors import UsageError
from protoseg_deploy.evaluation.samples import folder_samples


def test_a_folder_is_searched_as_that_of_a_recipe(tmp_path: Path) -> None:
    """Links are followed and end, hidden files are skipped, what is no image file is named when it is read."""
    for name in ("images/a.png", "images/.hidden.png", "images/.git/b.png", "elsewhere/c.JPG", "images/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    images = tmp_path / "images"
    (images / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (images / "loop").symlink_to(images, target_is_directory=True)
    os.mkfifo(images / "pipe.png")
    found = [sample.image.relative_to(images).as_posix() for sample in folder_samples(images)]
    assert found == ["a.png", "linked/c.JPG", "pipe.png"]


def test_a_folder_without_images_says_what_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "scan.dcm").touch()
    with pytest.raises(UsageError, match=r"a folder without images \(looked for .*1 file is not read: 1 \.dcm"):
        folder_samples(tmp_path)
