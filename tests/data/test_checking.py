"""The check of the data: faults with their files, counts and shares against NumPy, warnings."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from protoseg_deploy.data import check_before_training, check_data, find_data, formats, looking
from protoseg_deploy.errors import DataError
from protoseg_deploy.recipe import load_recipe
from tests.data.small_data import CLASSES, check, faults_of, recipe_for, write

SHARED = Path(__file__).parents[3] / "shared" / "data"


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


def test_a_recipe_without_validation_images_is_warned_of(root: Path) -> None:
    """`check` passes it, `train` does not."""
    warned = [warning for warning in check(root, data={"val": {}}).warnings if "data.val" in warning]
    assert len(warned) == 1
    assert not [warning for warning in check(root).warnings if "data.val" in warning]
