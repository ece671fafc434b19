"""The check of the data: faults with their files, counts and shares against NumPy, warnings."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from protoseg_deploy.data import DataReport, check_before_training, check_data, find_data, formats, looking
from protoseg_deploy.errors import DataError
from protoseg_deploy.recipe import Recipe, load_recipe, recipe_from_dict

CLASSES = ["sky", "road", "car"]
SHARED = Path(__file__).parents[3] / "shared" / "data"


def write(path: Path, values: np.ndarray) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return values


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four labelled, six unlabelled and two validation images of differing sizes, without faults."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 4), ("more", 6), ("val", 2)):
        for number in range(count):
            height, width = 24 + number, 40 - number
            write(tmp_path / part / f"{number}.png", rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
            if part != "more":
                mask = rng.choice(np.array([0, 1, 2, 255], dtype=np.uint8), (height, width), p=[0.6, 0.2, 0.1, 0.1])
                write(tmp_path / f"{part}_masks" / f"{number}.png", mask)
    return tmp_path


def recipe_for(root: Path, **sections: dict[str, object]) -> Recipe:
    data = {
        "root": str(root),
        "labeled": {"images": "train", "masks": "train_masks"},
        "unlabeled": {"images": "more"},
        "val": {"images": "val", "masks": "val_masks"},
        "classes": CLASSES,
    }
    train = {"crop": 16, "batch_labeled": 2, "batch_unlabeled": 2}
    return recipe_from_dict(
        {
            "data": data | sections.get("data", {}),
            "method": sections.get("method", {}),
            "train": train | sections.get("train", {}),
        },
        "test",
    )


def check(root: Path, decode_limit: int = 2000, open_limit: int = 20_000, **sections: dict[str, object]) -> DataReport:
    recipe = recipe_for(root, **sections)
    sets = find_data(recipe.data, need_unlabeled=True, need_val=recipe.data.val.is_set)
    return check_data(recipe, sets, decode_limit=decode_limit, open_limit=open_limit)


def faults_of(root: Path, **sections: dict[str, object]) -> tuple[str, ...]:
    with pytest.raises(DataError) as caught:
        check(root, **sections)
    return caught.value.faults


def test_counts_sizes_and_shares_agree_with_numpy(root: Path) -> None:
    report = check(root)
    masks = [np.asarray(Image.open(path)) for path in sorted((root / "train_masks").iterdir())]
    pixels = np.concatenate([mask.ravel() for mask in masks])
    assert (report.labeled.images, report.unlabeled.images, report.val.images) == (4, 6, 2)
    assert report.labeled.heights_px == (24, 27)
    assert report.labeled.widths_px == (37, 40)
    for index in range(3):
        assert report.labeled.class_percent(index) == pytest.approx(100 * np.mean(pixels[pixels != 255] == index))
        assert report.labeled.class_images[index] == 4
    assert report.labeled.ignored_percent == pytest.approx(100 * np.mean(pixels == 255))
    assert report.unlabeled_decoded == 6
    assert report.warnings == ()


def test_every_fault_is_listed_with_its_file(root: Path) -> None:
    truncated = root / "train/0.png"
    truncated.write_bytes(truncated.read_bytes()[:500])
    write(root / "train_masks/1.png", np.zeros((9, 9), dtype=np.uint8))
    values = np.zeros((26, 38), dtype=np.uint8)
    values[0, :5], values[1, 0] = 7, 9
    write(root / "train_masks/2.png", values)
    (root / "val/0.png").write_bytes(b"")
    (root / "val_masks/1.png").write_text("no mask")
    (root / "more/5.png").write_bytes((root / "more/5.png").read_bytes()[:100])
    faults = faults_of(root)
    expected = [
        ("train/0.png", "truncated"),
        ("train_masks/1.png", "9×9"),
        ("train_masks/2.png", "7, 9 in 6 pixels"),
        ("val/0.png", "empty"),
        ("val_masks/1.png", "not an image"),
        ("more/5.png", ""),
    ]
    assert len(faults) == len(expected)
    for fault, (name, reason) in zip(faults, expected, strict=True):
        assert fault.startswith(str(root / name))
        assert reason in fault


def test_ids_out_of_range_point_to_the_value_map(root: Path) -> None:
    write(root / "train_masks/0.png", np.full((24, 40), 3, dtype=np.uint8))
    with pytest.raises(DataError) as caught:
        check(root)
    assert "data.value_map" in caught.value.hint
    assert check(root, data={"value_map": {3: 255}}).labeled.images == 4


def test_classes_without_a_labelled_pixel_are_a_fault_where_prototypes_need_them(root: Path) -> None:
    more = {"classes": [*CLASSES, "tram", "bus"]}
    (fault,) = faults_of(root, data=more, method={"name": "prototype"})
    assert "no labelled pixel of tram, bus" in fault
    for method in ("fixmatch", "supervised"):
        assert any(
            "no labelled pixel of tram, bus" in text
            for text in check(root, data=more, method={"name": method}).warnings
        )
        assert len(faults_of(root, data=more | {"missing_classes": "error"}, method={"name": method})) == 1
    assert any("tram, bus" in text for text in check(root, data=more | {"missing_classes": "ignore"}).warnings)


def test_a_missing_class_comes_with_the_line_that_mends_it(root: Path) -> None:
    with pytest.raises(DataError) as caught:
        check(root, data={"classes": ["sky", "road", "tram", "car"], "value_map": {2: 3, 7: 1}})
    assert (
        "data.value_map: {2: 2, 3: 2, 7: 1}" in caught.value.hint or "data.value_map: {3: 2, 7: 1}" in caught.value.hint
    )
    assert "data.missing_classes: ignore" in caught.value.hint
    for path in (root / "train_masks").iterdir():
        write(
            path,
            np.where(np.asarray(Image.open(path)) == 255, 255, np.asarray(Image.open(path)) * 127).astype(np.uint8),
        )
    with pytest.raises(DataError) as caught:
        check(root, data={"val": {}})
    assert "data.value_map: {127: 1, 254: 2}" in caught.value.hint


def test_a_single_class_in_all_masks_is_a_fault_for_every_method(root: Path) -> None:
    for path in (root / "train_masks").iterdir():
        write(path, np.zeros_like(np.asarray(Image.open(path))))
    (fault,) = faults_of(root, method={"name": "supervised"})
    assert "no labelled pixel of road, car" in fault


def test_a_class_that_only_validation_lacks_is_a_warning(root: Path) -> None:
    for path in (root / "val_masks").iterdir():
        write(path, np.where(np.asarray(Image.open(path)) == 1, 0, np.asarray(Image.open(path))).astype(np.uint8))
    assert any(f"no validation pixel of {CLASSES[1]}" in warning for warning in check(root).warnings)


def test_validation_masks_of_nothing_but_ignored_pixels_are_a_fault(root: Path) -> None:
    for path in (root / "val_masks").iterdir():
        write(path, np.full_like(np.asarray(Image.open(path)), 255))
    (fault,) = faults_of(root)
    assert "nothing but ignored pixels" in fault


def test_one_class_means_background_and_foreground(root: Path) -> None:
    report = check(root, data={"classes": ["thing"], "value_map": {2: 1}})
    assert report.classes.names == ("background", "thing")
    assert len(report.labeled.class_pixels) == 2


def test_masks_of_0_and_255_get_a_hint(root: Path) -> None:
    for path in (root / "train_masks").iterdir():
        write(path, np.where(np.asarray(Image.open(path)) > 0, 255, 0).astype(np.uint8))
    with pytest.raises(DataError) as caught:
        check(root, data={"classes": ["thing"], "val": {}})
    assert "{255: 1}" in caught.value.hint


def test_copies_of_validation_images_are_reported_as_leakage(root: Path) -> None:
    shutil.copy(root / "val/0.png", root / "train/0.png")
    shutil.copy(root / "val_masks/0.png", root / "train_masks/0.png")
    shutil.copy(root / "val/1.png", root / "more/other_name.png")
    warnings = check(root).warnings
    assert len(warnings) == 2
    for part in ("1 validation image also trained on, with its mask", "val/0.png", "train/0.png"):
        assert part in warnings[0]
    assert "without its mask" in warnings[1]
    assert "other_name.png" in warnings[1]


def test_what_deserves_a_look_is_a_warning(root: Path) -> None:
    write(root / "val_masks/0.png", np.full((24, 40), 255, dtype=np.uint8))
    write(root / "train_masks/stray.png", np.zeros((4, 4), dtype=np.uint8))
    text = "\n".join(check(root, train={"crop": 26, "batch_unlabeled": 7}).warnings)
    for part in (
        "1 mask belongs to no labelled or validation image",
        "2 labelled images smaller than train.crop 26",
        "2 unlabelled images smaller than train.crop 26",
        "6 unlabelled images for train.batch_unlabeled 7",
        "1 validation image with nothing but ignored pixels",
    ):
        assert part in text
    assert "4 labelled images smaller" in "\n".join(check(root, data={"input_scale": 0.5}).warnings)
    assert "no validation images" in "\n".join(check(root, data={"val": {}}).warnings)


def test_beyond_the_limit_headers_are_read_and_a_part_is_decoded(root: Path) -> None:
    report = check(root, decode_limit=3)
    assert (report.unlabeled.images, report.unlabeled_decoded) == (6, 3)
    assert report.unlabeled.heights_px == (24, 29)
    assert any("3 of 6 unlabelled images were decoded" in warning for warning in report.warnings)
    (root / "more/1.png").write_text("its header is damaged, and it is not among those decoded")
    with pytest.raises(DataError, match=r"more/1\.png: not an image"):
        check(root, decode_limit=2)


def test_beyond_a_second_limit_files_are_not_even_opened(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    open_regular = formats.open_regular
    monkeypatch.setattr(formats, "open_regular", lambda path: (opened.append(path.name), open_regular(path))[1])
    report = check(root, decode_limit=2, open_limit=3, train={"crop": 26})
    assert sum(name in opened for name in ("4.png", "5.png")) == 1, "only among the unlabelled there are six"
    assert (report.unlabeled.images, report.unlabeled_opened, report.unlabeled_decoded) == (6, 3, 2)
    text = "\n".join(report.warnings)
    assert "2 of 6 unlabelled images were decoded, evenly spaced; of 1 more only the header was read" in text
    assert "1 unlabelled image of 3 opened smaller than train.crop 26" in text
    assert report.as_document()["unlabeled"]["opened_images"] == 3


def test_a_few_unreadable_unlabelled_images_are_a_warning(root: Path) -> None:
    (root / "more/1.png").write_bytes(b"")
    (root / "more/4.png").write_text("no image")
    report = check(root, data={"max_unreadable_share": 0.4})
    (warning,) = report.warnings
    for part in ("2 unlabelled images cannot be read", "more/1.png: the file is empty", "more/4.png: not an image"):
        assert part in warning
    assert (report.unlabeled.images, report.unlabeled_decoded) == (6, 4)
    with pytest.raises(DataError) as caught:
        check(root, data={"max_unreadable_share": 0.3})
    assert len(caught.value.faults) == 2
    assert "data.max_unreadable_share" in caught.value.hint
    (root / "train/0.png").write_bytes(b"")
    assert len(faults_of(root, data={"max_unreadable_share": 1.0})) == 1, "a labelled one is never tolerated"


def test_the_check_before_training_warns_of_the_same(root: Path) -> None:
    recipe = recipe_for(root, train={"crop": 26})
    sets = find_data(recipe.data, need_unlabeled=True, need_val=True)
    assert check_before_training(recipe, sets) == check_data(recipe, sets).warnings != ()
    (root / "train/0.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"train/0\.png"):
        check_before_training(recipe, sets)


def test_labelled_images_among_the_unlabelled_are_reported_once(root: Path) -> None:
    assert check(root, data={"unlabeled": {"images": "train"}}).unlabeled_decoded == 4
    (root / "train/0.png").write_bytes(b"")
    assert len(faults_of(root, data={"unlabeled": {"images": "train"}})) == 1


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


def test_files_that_are_not_read_are_counted(root: Path) -> None:
    for name in ("train/a.dcm", "train/b.dcm", "more/c.mov", "more/.hidden", "more/Thumbs.db", "val/noext"):
        (root / name).touch()
    report = check(root)
    text = "\n".join(report.warnings)
    assert report.as_document()["unread_files"][str(root / "train")] == {".dcm": 2}
    assert f"{root / 'train'}: 2 files are not read: 2 .dcm" in text
    assert f"{root / 'more'}: 1 file is not read: 1 .mov" in text
    assert f"{root / 'val'}: 1 file is not read: 1 without an ending" in text


def test_pipes_folders_and_links_to_nowhere_are_named_and_the_others_read(root: Path) -> None:
    os.mkfifo(root / "more/pipe.png")
    (root / "more/link.png").symlink_to("nowhere.png")
    (root / "more/folder.png").mkdir()
    report = check(root, data={"max_unreadable_share": 0.5})
    text = "\n".join(report.warnings)
    for part in (
        "pipe.png: not readable: a named pipe",
        "link.png: no such file",
        "folder.png: a folder named like an image",
    ):
        assert part in text
    assert (report.unlabeled.images, report.unlabeled_decoded) == (8, 6)


def test_an_image_that_vanishes_while_it_is_read_is_a_fault(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = looking.read_image

    def read_and_remove(path: Path, reading: object) -> np.ndarray:
        image = read(path, reading)
        if path.name == "1.png" and path.parent.name == "train":
            path.unlink()
        return image

    monkeypatch.setattr(looking, "read_image", read_and_remove)
    (fault,) = faults_of(root)
    assert fault == f"{root / 'train/1.png'}: no such file"


def test_progress_reaches_the_end(root: Path) -> None:
    recipe = recipe_for(root, data={"unlabeled": {"images": "train"}})
    steps: list[tuple[int, int]] = []
    sets = find_data(recipe.data, need_unlabeled=True, need_val=True)
    check_data(recipe, sets, progress=lambda done, total: steps.append((done, total)))
    assert steps == [(done, 6) for done in range(1, 7)]  # four labelled images, also the unlabelled ones, and two more


def test_the_shipped_camvid_recipe_on_the_real_images() -> None:
    if not (SHARED / "camvid").is_dir():
        pytest.skip(f"CamVid is not at {SHARED / 'camvid'}")
    recipe = load_recipe("camvid-mobilenetv2", [f"data.root={SHARED / 'camvid'}"])
    report = check_data(recipe, find_data(recipe.data, need_unlabeled=True, need_val=True))
    assert (report.labeled.images, report.labeled_pool, report.val.images) == (23, 367, 101)
    assert report.labeled.size_text == "360×480"
    assert report.warnings == ()


def oriented(path: Path, orientation: int, values: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(values).save(path, exif=exif)


def pairs_of(root: Path) -> list[tuple[Path, Path]]:
    sets = find_data(recipe_for(root).data, need_unlabeled=False, need_val=False)
    return [(sample.image, sample.mask) for sample in sets.labeled]


def test_an_image_that_exif_turned_says_so_where_its_mask_differs_in_size(root: Path) -> None:
    image, mask = pairs_of(root)[0]
    oriented(image, 6, np.asarray(Image.open(image)))
    with pytest.raises(DataError, match=r"turned by its EXIF orientation 6; .*data\.exif: ignore") as caught:
        check(root)
    assert mask.name in caught.value.message
    assert check(root, data={"exif": "ignore"}).labeled.images == 4


@pytest.mark.parametrize("orientation", [2, 3, 4])
def test_an_image_that_exif_turned_without_its_mask_is_a_warning(root: Path, orientation: int) -> None:
    image, mask = pairs_of(root)[0]
    oriented(image, orientation, np.asarray(Image.open(image)))
    text = "\n".join(check(root).warnings)
    assert f"1 image has an EXIF orientation that turns the image but not its mask, such as {image}" in text
    assert "EXIF" not in "\n".join(check(root, data={"exif": "ignore"}).warnings)
    oriented(mask, orientation, np.asarray(Image.open(mask)))
    assert "EXIF" not in "\n".join(check(root).warnings), "both are turned"


def test_images_that_are_almost_one_value_are_a_warning(root: Path) -> None:
    assert "less than a tenth" not in "\n".join(check(root).warnings)
    image, _ = pairs_of(root)[0]
    dark = np.asarray(Image.open(image).convert("L")).astype(np.uint16) * 16
    write(image, dark)
    text = "\n".join(check(root).warnings)
    assert f"1 image uses less than a tenth of the values from black to white, such as {image}" in text
    assert "data.value_range" in text


def test_one_range_does_not_suit_8_bits_and_16(root: Path) -> None:
    image, _ = pairs_of(root)[0]
    write(image, np.asarray(Image.open(image).convert("L")).astype(np.uint16) * 16)
    assert "where others have 8 bits, convert these to 8 bits instead" in "\n".join(check(root).warnings)
    (warning,) = [t for t in check(root, data={"value_range": [0, 4095]}).warnings if "less than a tenth" in t]
    assert warning.startswith("11 images use"), "those of 8 bits are nearly black now"
    assert "set data.value_range" not in warning, "it is set"


def test_a_fourth_band_that_is_passed_over_is_a_warning(root: Path) -> None:
    image, _ = pairs_of(root)[0]
    height, width = np.asarray(Image.open(image)).shape[:2]
    four = np.random.default_rng(0).integers(0, 256, (height, width, 4), dtype=np.uint8)
    tifffile.imwrite(root / "more" / "extra.tif", four, photometric="rgb", extrasamples=[0])
    assert "1 TIFF with 4 bands" in "\n".join(check(root).warnings)


def test_percentiles_are_measured_for_a_check_too(root: Path) -> None:
    assert check(root, data={"value_range": "percentile_1_99"}).labeled.images == 4
