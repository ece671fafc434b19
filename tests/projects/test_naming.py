"""What the values of masks mean."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from protoseg_deploy.data.survey import survey_masks
from protoseg_deploy.errors import DataError, UsageError
from protoseg_deploy.projects.naming import Naming, name_classes


def named(folder: Path, *masks: np.ndarray, palette: list[int] | None = None, names: Path | None = None) -> Naming:
    paths = []
    for number, values in enumerate(masks):
        image = Image.fromarray(values)
        if palette is not None:
            image = image.convert("P") if image.mode != "L" else image
            image.putpalette(palette)
        image.save(folder / f"{number}.png")
        paths.append(folder / f"{number}.png")
    contents = survey_masks(paths)
    assert not any(content.fault for content in contents)
    return name_classes(contents, [folder], names)


def grey(*values: int) -> np.ndarray:
    return np.array([values * 8], np.uint8).reshape(-1, len(values))


def color(*values: tuple[int, int, int]) -> np.ndarray:
    return np.array([values] * 8, np.uint8)


def test_foreground_and_background(tmp_path: Path) -> None:
    for values, value_map in ((grey(0, 255), {255: 1}), (grey(0, 1), {})):
        found = named(tmp_path, values)
        assert found.names == ("foreground",)
        assert found.value_map == value_map


def test_indices_keep_their_numbers_or_get_new_ones(tmp_path: Path) -> None:
    assert named(tmp_path, grey(0, 1, 3, 255)).names == ("class_0", "class_1", "class_2", "class_3")
    found = named(tmp_path, grey(0, 7, 11), grey(26, 255, 7))
    assert found.names == ("value_0", "value_7", "value_11", "value_26")
    assert found.value_map == {7: 1, 11: 2, 26: 3}


def test_palettes_give_colours(tmp_path: Path) -> None:
    found = named(tmp_path, grey(0, 1, 2), palette=[0, 0, 0, 200, 0, 0, 0, 200, 0])
    assert found.colors == ((0, 0, 0), (200, 0, 0), (0, 200, 0))
    assert not found.read_by_color


def test_colours(tmp_path: Path) -> None:
    found = named(tmp_path, color((0, 0, 0), (255, 0, 0), (12, 34, 56)))
    assert found.names == ("black", "color_12_34_56", "red")
    assert found.colors == ((0, 0, 0), (12, 34, 56), (255, 0, 0))
    assert found.read_by_color


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("label_colors.txt", "64 128 64\tcar\n0 0 0 Void\n192 0 128 tree\n"),
        ("class_dict.csv", "name,r,g,b\ncar,64,128,64\nVoid,0,0,0\ntree,192,0,128\n"),
        ("labelmap.txt", "# label:color_rgb:parts:actions\ncar:64,128,64::\nVoid:0,0,0::\ntree:192,0,128::\n"),
    ],
)
def test_names_beside_colour_masks(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    found = named(tmp_path, color((0, 0, 0), (64, 128, 64), (192, 0, 128)))
    assert found.names == ("car", "tree")
    assert found.colors == ((64, 128, 64), (192, 0, 128))
    assert found.ignore_colors == ((0, 0, 0),)
    with pytest.raises(UsageError, match=r"does not name the colour \(1, 2, 3\)"):
        named(tmp_path, color((0, 0, 0), (64, 128, 64), (1, 2, 3)))


def test_names_beside_index_masks(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("road\ncar\ntree\n")
    assert named(tmp_path, grey(0, 2)).names == ("road", "car", "tree")
    assert named(tmp_path, grey(0, 1, 2, 3)).names == ("class_0", "class_1", "class_2", "class_3")
    other = tmp_path / "mine.json"
    other.write_text('{"names": ["a", "b"], "colors": [[1, 2, 3], [4, 5, 6]]}')
    assert named(tmp_path, grey(0, 1), names=other).colors == ((1, 2, 3), (4, 5, 6))
    with pytest.raises(UsageError, match="names 2 classes; the masks hold the values up to 2"):
        named(tmp_path, grey(0, 2), names=other)
    other.write_text("[null]")
    with pytest.raises(DataError, match="is no name of a class"):
        named(tmp_path, grey(0, 2), names=other)


def test_what_is_no_mask(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing to tell apart"):
        named(tmp_path, grey(3, 3))
    with pytest.raises(DataError, match="nothing to tell apart"):
        named(tmp_path, grey(255, 255))
    ids = np.arange(400, dtype=np.uint16).reshape(20, 20)
    with pytest.raises(DataError, match="400 different values"):
        named(tmp_path, ids)
    blurred = np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype(np.uint8)
    with pytest.raises(DataError, match="these are no classes"):
        named(tmp_path, blurred)
