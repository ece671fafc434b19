"""The embedded demo data set: what its splits promise."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from protoseg_deploy.data.scenes import KINDS, SEEN, draw_scene, scene_of_split, write_scenes
from protoseg_deploy.data.scenes.canvas import Canvas, random_direction
from protoseg_deploy.errors import UsageError

LABELED, UNLABELED, VAL = 6, 5, 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scenes")
    write_scenes(path, labeled=LABELED, unlabeled=UNLABELED, val=VAL)
    return path


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_folders_hold_what_was_asked_for(folder: Path) -> None:
    counts = {str(path.parent.relative_to(folder)): 0 for path in folder.rglob("*.png")}
    for path in folder.rglob("*.png"):
        counts[str(path.parent.relative_to(folder))] += 1
    assert counts == {
        "labeled/images": LABELED,
        "labeled/masks": LABELED,
        "unlabeled/images": UNLABELED,
        "val/images": VAL,
        "val/masks": VAL,
    }


def test_classes_file_names_and_colours_every_class(folder: Path) -> None:
    classes = json.loads((folder / "classes.json").read_text(encoding="utf-8"))
    assert classes["names"] == [kind.name for kind in KINDS]
    assert len({tuple(color) for color in classes["colors"]}) == len(KINDS) >= 5


@pytest.mark.parametrize("split", ["labeled", "val"])
def test_masks_fit_their_images_and_hold_classes_or_ignore(folder: Path, split: str) -> None:
    for image_path in sorted((folder / split / "images").iterdir()):
        image, mask = pixels(image_path), pixels(folder / split / "masks" / image_path.name)
        assert image.shape == (96, 128, 3)
        assert image.dtype == mask.dtype == np.uint8
        assert mask.shape == image.shape[:2]
        assert set(np.unique(mask)) <= {*range(len(KINDS)), 255}
        assert (mask == 255).mean() < 0.15


def test_same_seed_same_bytes_and_another_seed_another_picture(folder: Path, tmp_path: Path) -> None:
    write_scenes(tmp_path / "again", labeled=2, unlabeled=2, val=2)
    write_scenes(tmp_path / "other", seed=1, labeled=2, unlabeled=2, val=2)
    written = sorted((tmp_path / "again").rglob("*.png"))
    assert len(written) == 10
    for path in written:
        name = path.relative_to(tmp_path / "again")
        assert path.read_bytes() == (folder / name).read_bytes()
        assert path.read_bytes() != (tmp_path / "other" / name).read_bytes()


def test_splits_are_different_pictures() -> None:
    pictures = [scene_of_split(split, number).image for split in ("labeled", "unlabeled", "val") for number in (1, 3)]
    assert len({picture.tobytes() for picture in pictures}) == len(pictures)


def test_every_class_has_pixels_in_half_of_the_labelled_masks_and_in_val(folder: Path) -> None:
    shown = {}
    for split in ("labeled", "val"):
        masks = [pixels(path) for path in (folder / split / "masks").iterdir()]
        shown[split] = np.stack([np.bincount(mask.ravel(), minlength=256)[: len(KINDS)] for mask in masks])
    assert ((shown["labeled"] > 0).sum(axis=0) >= LABELED / 2).all()
    assert (shown["val"].sum(axis=0) > 0).all()


def test_no_class_is_rare() -> None:
    masks = np.stack([scene_of_split("val", number).mask for number in range(40)])
    shares = np.bincount(masks.ravel(), minlength=256)[: len(KINDS)] / masks.size
    assert shares.min() > 0.02


def test_labelled_scenes_lack_half_of_the_modes_and_the_pool_shows_them_all() -> None:
    labeled = _appearances("labeled", 14)
    pool = _appearances("unlabeled", 60)
    for class_id, kind in enumerate(KINDS):
        assert max(labeled[class_id]) <= SEEN < 2
        nearest = {round(appearance) for appearance in pool[class_id]}
        assert nearest == set(range(len(kind.modes))), kind.name


def _appearances(split: str, count: int) -> dict[int, list[float]]:
    drawn: dict[int, list[float]] = {class_id: [] for class_id in range(len(KINDS))}
    for number in range(count):
        for class_id, appearances in scene_of_split(split, number).appearances.items():
            drawn[class_id] += appearances
    return drawn


def test_looks_pass_through_the_modes_and_blend_between_them() -> None:
    for kind in KINDS:
        for number, mode in enumerate(kind.modes):
            main, detail = kind.look(float(number))
            np.testing.assert_array_equal(main, mode.main)
            np.testing.assert_array_equal(detail, mode.detail)
        halfway = (np.asarray(kind.modes[1].main) + np.asarray(kind.modes[2].main)) / 2
        np.testing.assert_allclose(kind.look(1.5)[0], halfway, rtol=1e-6)


def test_other_sizes() -> None:
    scene = draw_scene(np.random.default_rng(3), (70, 151))
    assert scene.image.shape == (70, 151, 3)
    assert scene.mask.shape == (70, 151)


def test_too_small_a_picture_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="8x8 pixels"):
        write_scenes(tmp_path, size=(8, 8), labeled=1, unlabeled=0, val=0)


def test_directions_are_unit_vectors_all_around() -> None:
    rng = np.random.default_rng(0)
    vectors = np.asarray([random_direction(rng) for _ in range(400)])
    np.testing.assert_allclose(np.hypot(vectors[:, 0], vectors[:, 1]), 1, rtol=1e-12)
    quadrants = {(x > 0, y > 0) for x, y in vectors}
    assert len(quadrants) == 4


def test_noise_is_smooth_and_uses_its_range() -> None:
    canvas = Canvas(48, 64, np.random.default_rng(0))
    noise = canvas.noise(12)
    assert noise.shape == (96, 128)
    assert 0 <= noise.min() < 0.2
    assert 0.8 < noise.max() <= 1
    assert np.abs(np.diff(noise, axis=1)).max() < 0.1
