"""The check of the data: what the values and the palettes of masks say, across masks."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from protoseg_deploy.errors import DataError
from tests.data.small_data import check, write


def test_ids_out_of_range_point_to_the_value_map(root: Path) -> None:
    write(root / "train_masks/0.png", np.full((24, 40), 3, dtype=np.uint8))
    with pytest.raises(DataError) as caught:
        check(root)
    assert "data.value_map" in caught.value.hint
    assert check(root, data={"value_map": {3: 255}}).labeled.images == 4


def test_masks_of_0_and_255_get_a_hint(root: Path) -> None:
    for path in (root / "train_masks").iterdir():
        write(path, np.where(np.asarray(Image.open(path)) > 0, 255, 0).astype(np.uint8))
    with pytest.raises(DataError) as caught:
        check(root, data={"classes": ["thing"], "val": {}})
    assert "{255: 1}" in caught.value.hint


def repaint(path: Path, colors: list[tuple[int, int, int]], order: list[int]) -> None:
    """A mask as an image editor saves it: the colours of classes, numbered anew."""
    values = np.asarray(Image.open(path))
    image = Image.fromarray(np.argsort(order).astype(np.uint8)[np.where(values > 2, 0, values)], mode="P")
    image.putpalette([channel for index in order for channel in colors[index]])
    image.save(path)


COLORS = [(0, 0, 0), (255, 0, 0), (0, 255, 0)]


def test_palettes_that_number_colours_differently_are_a_fault_and_colours_mend_it(root: Path) -> None:
    for folder in ("train_masks", "val_masks"):
        for path in (root / folder).iterdir():
            repaint(path, COLORS, [0, 2, 1] if path.name == "1.png" else [0, 1, 2])
    with pytest.raises(DataError) as caught:
        check(root)
    first, second = caught.value.faults
    for fault, color in ((first, "(0, 255, 0) is index 1"), (second, "(255, 0, 0) is index 2")):
        assert color in fault
        assert "train_masks/1.png" in fault
        assert "val_masks/1.png" in fault
        assert "4 other masks" in fault
        assert "0.png" not in fault
    assert "data.palette_masks: colors" in caught.value.hint
    assert "[[0, 0, 0], [0, 255, 0], [255, 0, 0]]" in caught.value.hint
    wrong = check(root, data={"palette_masks": "indices"}).labeled.class_pixels
    right = check(root, data={"palette_masks": "colors", "colors": COLORS}).labeled.class_pixels
    masks = [np.asarray(Image.open(path).convert("RGB")) for path in sorted((root / "train_masks").iterdir())]
    assert right == tuple(sum(int((mask == color).all(axis=2).sum()) for mask in masks) for color in COLORS)
    assert wrong != right


def test_palettes_alike_and_grey_ones_are_no_fault(root: Path) -> None:
    for path in (root / "train_masks").iterdir():
        repaint(path, COLORS, [0, 1, 2])
    for path in (root / "val_masks").iterdir():
        repaint(path, [(index,) * 3 for index in range(3)], [0, 1, 2])
    assert check(root).warnings == ()


def test_an_index_with_two_colours_is_a_warning(root: Path) -> None:
    for path in (root / "train_masks").iterdir():
        repaint(path, COLORS if path.name != "3.png" else [(0, 0, 0), (255, 0, 0), (9, 9, 200)], [0, 1, 2])
    text = "\n".join(check(root, data={"val": {}}).warnings)
    assert "index 2 has the colour (9, 9, 200) in 1 mask" in text
    assert "train_masks/3.png" in text


@pytest.mark.parametrize("folder", ["train_masks", "val_masks"])
def test_foreground_that_is_255_in_some_masks_is_named_with_its_mend(root: Path, folder: str) -> None:
    for path in [*(root / "train_masks").iterdir(), *(root / "val_masks").iterdir()]:
        white = path.parent.name == folder and path.name != "0.png"
        write(path, np.where(np.asarray(Image.open(path)) == 1, 255 if white else 1, 0).astype(np.uint8))
    (warning,) = [text for text in check(root, data={"classes": ["thing"]}).warnings if "255" in text]
    assert f"{folder}/1.png" in warning
    assert "0.png" not in warning
    assert "data.value_map: {255: 1}" in warning
    assert not [t for t in check(root, data={"classes": ["thing"], "value_map": {255: 1}}).warnings if "255" in t]


def test_foreground_that_is_255_in_all_masks_is_named_for_several_classes_too(root: Path) -> None:
    for path in [*(root / "train_masks").iterdir(), *(root / "val_masks").iterdir()]:
        write(path, np.where(np.asarray(Image.open(path)) == 1, 255, 0).astype(np.uint8))
    with pytest.raises(DataError) as caught:
        check(root)
    assert "If 255, which is ignored, means road: data.value_map: {255: 1} (or the index" in caught.value.hint


def test_ignored_pixels_in_some_masks_are_what_they_are(root: Path) -> None:
    for path in (root / "train_masks").iterdir():
        values = np.asarray(Image.open(path)).copy()
        values[values == 2] = 1
        write(path, np.where((values == 255) & (path.name > "1.png"), 0, values))
    assert not [text for text in check(root, data={"classes": ["thing"], "val": {}}).warnings if "255" in text]


def test_values_of_one_part_only_are_named(root: Path) -> None:
    for folder, value in (("train_masks", 1), ("val_masks", 2)):
        for path in (root / folder).iterdir():
            write(path, np.where(np.asarray(Image.open(path)) == 1, value, 0).astype(np.uint8))
    text = "\n".join(check(root, method={"name": "fixmatch"}).warnings)
    assert "only labelled masks show 1 (road), only validation masks 2 (car)" in text
    assert "data.value_map: {2: 1}" in text


def test_masks_of_several_kinds_are_named(root: Path) -> None:
    path = root / "train_masks/2.png"
    values = np.asarray(Image.open(path))
    write(path, np.array([*COLORS], dtype=np.uint8)[np.where(values > 2, 0, values)])
    text = "\n".join(check(root, data={"colors": COLORS}).warnings)
    assert "train_masks/2.png" in text
    assert "three channels" in text


def test_values_that_are_no_class_come_with_one_line_for_all_masks(root: Path) -> None:
    for name, value in (("train_masks/0.png", 7), ("train_masks/1.png", 9), ("val_masks/0.png", 11)):
        values = np.asarray(Image.open(root / name)).copy()
        values[0, 0] = value
        write(root / name, values)
    with pytest.raises(DataError) as caught:
        check(root)
    assert len(caught.value.faults) == 3
    assert "data.value_map: {7: 255, 9: 255, 11: 255}" in caught.value.hint
    assert check(root, data={"value_map": {7: 255, 9: 255, 11: 255}}).labeled.images == 4
