"""The panel as pixels: what must be in it, and how it grows."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from protoseg_deploy.errors import ProtosegError
from protoseg_deploy.recipe import ClassTable
from protoseg_deploy.reporting.panel import panel

CLASSES = ClassTable(("sky", "road", "a rather long class name"), ((10, 90, 200), (220, 30, 40), (60, 170, 80)))


def picture(color: tuple[int, int, int], height: int = 30, width: int = 40) -> np.ndarray:
    return np.full((height, width, 3), color, dtype=np.uint8)


def pixels_of(path: Path, color: tuple[int, int, int]) -> np.ndarray:
    """Rows and columns of the pixels of just this colour."""
    return np.argwhere((np.asarray(Image.open(path).convert("RGB")) == color).all(axis=-1))


def test_pictures_stand_in_their_order_undistorted(tmp_path: Path) -> None:
    path = tmp_path / "deep/panel.png"
    colors = [[(250, 1, 1), (1, 250, 1)], [(1, 1, 250), (250, 250, 1)]]
    rows = [("row", [("left", picture(first)), ("right", picture(second))]) for first, second in colors]
    panel(rows, path)
    boxes = {
        color: (pixels_of(path, color).min(axis=0), pixels_of(path, color).max(axis=0))
        for row in colors
        for color in row
    }
    for low, high in boxes.values():
        height, width = high - low + 1
        assert height / width == pytest.approx(30 / 40, rel=0.03)
        assert width > 250
    (a, b), (c, d) = colors
    assert boxes[a][1][1] < boxes[b][0][1]  # a left of b
    assert boxes[a][1][0] < boxes[c][0][0]  # a above c
    assert boxes[b][0][1] == boxes[d][0][1]  # b and d in one column


def test_the_legend_shows_every_colour_and_the_ignore_stripes_on_request(tmp_path: Path) -> None:
    grey = picture((128, 128, 128))
    panel([("", [("image", grey)])], tmp_path / "with.png", classes=CLASSES, ignored=True)
    panel([("", [("image", grey)])], tmp_path / "without.png")
    for color in CLASSES.colors:
        assert len(pixels_of(tmp_path / "with.png", color)) > 50
        assert len(pixels_of(tmp_path / "without.png", color)) == 0
    with_legend, without = (Image.open(tmp_path / f"{name}.png") for name in ("with", "without"))
    assert with_legend.width == without.width
    assert with_legend.height > without.height


def test_equal_titles_are_written_once(tmp_path: Path) -> None:
    plain = picture((9, 9, 9))
    for name, second in (("once", "truth"), ("twice", "truth\n50.0 % mIoU")):
        panel([("", [("truth", plain)]), ("", [(second, plain)])], tmp_path / f"{name}.png")
    once, twice = (Image.open(tmp_path / f"{name}.png") for name in ("once", "twice"))
    assert twice.height > once.height + 20


def test_rows_of_different_length_and_shape_fit_together(tmp_path: Path) -> None:
    rows = [
        ("", [("a", picture((250, 1, 1), 50, 20))]),
        ("", [("b", picture((1, 250, 1), 20, 50)), ("c", picture((1, 1, 250)))]),
    ]
    panel(rows, tmp_path / "panel.png", title="A heading")
    for color in ((250, 1, 1), (1, 250, 1), (1, 1, 250)):
        assert len(pixels_of(tmp_path / "panel.png", color)) > 1000


def test_faults_are_said(tmp_path: Path) -> None:
    for nothing in ([], [("", [])]):
        with pytest.raises(ValueError, match="at least one row"):
            panel(nothing, tmp_path / "panel.png")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ProtosegError, match="cannot write"):
        panel([("", [("a", picture((1, 2, 3)))])], tmp_path / "file/panel.png")
