"""What hints say where a file cannot be written."""

import errno
import os
from pathlib import Path

import pytest

from protoseg_deploy.errors import WriteError
from protoseg_deploy.files import write_atomically


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (errno.ENOSPC, "Free some space"),
        (errno.EROFS, "that you may write into"),
        (errno.ENAMETOOLONG, "a shorter name"),
        (errno.EIO, "another place"),
    ],
)
def test_the_hint_fits_the_reason(number: int, hint: str) -> None:
    error = WriteError(Path("out/a.png"), OSError(number, os.strerror(number)))
    assert f"cannot write out/a.png: {os.strerror(number)}" in error.message
    assert hint in error.hint
    assert "nothing was replaced" in error.hint


def test_a_file_in_the_place_of_a_folder_is_named_as_such(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(WriteError) as caught:
        write_atomically(tmp_path / "out" / "a.png", b"theirs")
    assert "Something else has this name" in caught.value.hint
    assert (tmp_path / "out").read_text() == "mine"
