"""Pictures of one scene are found among others, in any orientation; thumbnails are read once."""

import sqlite3
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from protoseg_deploy.data.similarity import find_similar, groups_of, joined, read_thumbnails
from protoseg_deploy.data.similarity.hashing import (
    ORIENTATIONS,
    close_pairs,
    close_pairs_of_many,
    oriented,
    oriented_hashes,
    perceptual_hashes,
)
from protoseg_deploy.data.similarity.thumbnails import SIDE
from protoseg_deploy.recipe import ImageReading

PLAIN = ImageReading()


def picture(seed: int, width: int = 160, height: int = 120) -> Image.Image:
    """Rectangles of random greys and places."""
    random = np.random.default_rng(seed)
    values = np.full((height, width, 3), 90, np.uint8)
    for _ in range(25):
        left, top = random.integers(0, width - 8), random.integers(0, height - 8)
        right, bottom = left + random.integers(8, 50), top + random.integers(8, 50)
        values[top:bottom, left:right] = random.integers(0, 256, 3)
    return Image.fromarray(values)


def thumbnail(image: Image.Image) -> np.ndarray:
    return np.array(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PROTOSEG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_hashes_of_turned_pictures_follow_from_the_hash() -> None:
    pixels = np.stack([thumbnail(picture(seed)) for seed in range(40)])
    every = list(oriented_hashes(perceptual_hashes(pixels)))
    assert len(every) == ORIENTATIONS
    assert len({int(hashes[0]) for hashes in every}) == ORIENTATIONS
    for orientation, hashes in enumerate(every):
        computed = perceptual_hashes(np.ascontiguousarray(oriented(pixels, orientation)))
        assert np.bitwise_count(computed ^ hashes).max() <= 1  # a frequency at zero may fall on either side


@pytest.mark.parametrize(
    "change",
    [
        lambda image: ImageEnhance.Brightness(image).enhance(1.3),
        lambda image: image.resize((70, 50)),
        lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        lambda image: image.transpose(Image.Transpose.ROTATE_90),
        lambda image: image.transpose(Image.Transpose.TRANSVERSE),
        lambda image: image.crop((6, 5, 154, 116)),
    ],
)
def test_changed_copies_are_found_and_nothing_else(change) -> None:
    originals = np.stack([thumbnail(picture(seed)) for seed in range(60)])
    copies = np.stack([thumbnail(change(picture(seed))) for seed in range(0, 60, 3)])
    found = {(pair.first, pair.second) for pair in find_similar(copies, originals)}
    expected = {(number, 3 * number) for number in range(20)}
    assert len(found & expected) >= 19
    assert not found - expected


def test_pairs_among_themselves_come_once_and_plain_pictures_match_nothing() -> None:
    pixels = np.stack([thumbnail(picture(0)), thumbnail(picture(1)), thumbnail(picture(0))])
    plain = np.full((2, SIDE, SIDE), 120, np.uint8)
    (pair,) = find_similar(np.concatenate([pixels, plain]))
    assert (pair.first, pair.second, pair.orientation) == (0, 2, 0)
    assert pair.resemblance == pytest.approx(1, abs=1e-3)
    assert find_similar(plain) == []
    assert find_similar(pixels[:0]) == []


def test_the_index_finds_all_that_a_comparison_of_all_pairs_finds() -> None:
    random = np.random.default_rng(0)
    first = random.integers(0, 2**63, 3000, dtype=np.uint64)
    second = first[:500].copy()
    for row in range(len(second)):
        for bit in random.choice(64, size=row % 8, replace=False):
            second[row] ^= np.uint64(1 << int(bit))
    pairs = [set(), set()]
    for number, choose in enumerate((close_pairs, close_pairs_of_many)):
        for left, right in choose(first, second, 7):
            pairs[number] |= set(zip(left.tolist(), right.tolist(), strict=True))
    assert pairs[0] == pairs[1] >= {(row, row) for row in range(500)}


def test_of_too_many_pairs_the_closest_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("protoseg_deploy.data.similarity.finding.MOST_PAIRS", 3)
    pixels = np.stack([thumbnail(picture(seed)) for seed in range(40)])
    copies = np.stack([thumbnail(picture(seed).resize((70, 50))) for seed in (5, 30)])
    assert {(pair.first, pair.second) for pair in find_similar(copies, pixels)} == {(0, 5), (1, 30)}


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_what_images_of_more_than_8_bits_show_counts_and_not_their_range(tmp_path: Path, dtype: type) -> None:
    paths = []
    for number in range(6):
        values = np.asarray(picture(number // 2).convert("L")).astype(dtype) * (10 + number)
        paths.append(tmp_path / f"{number}.tif")
        Image.fromarray(values).save(paths[-1])
    found = read_thumbnails(paths, PLAIN)
    assert not any(found.faults)
    assert {(pair.first, pair.second) for pair in find_similar(found.pixels)} == {(0, 1), (2, 3), (4, 5)}


def test_groups() -> None:
    assert groups_of(6, [(4, 5), (0, 2), (2, 4)]) == [0, 1, 0, 3, 0, 0]
    assert joined(["a", "b", "a", "c"], [1, 2, 3, 2]) == [0, 1, 0, 1]


def test_thumbnails_are_kept_until_a_file_changes(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = []
    for seed, name in enumerate(("a.jpg", "b.png", "c.tif")):
        picture(seed).save(tmp_path / name)
        paths.append(tmp_path / name)
    (tmp_path / "d.png").write_bytes(b"no picture")
    paths.append(tmp_path / "d.png")
    shown: list[tuple[int, int]] = []
    found = read_thumbnails(paths, PLAIN, lambda done, total: shown.append((done, total)))
    assert shown[-1] == (4, 4)
    assert [bool(fault) for fault in found.faults] == [False, False, False, True]
    assert "d.png" in found.faults[3]
    for index in range(3):
        assert np.abs(found.pixels[index].astype(int) - thumbnail(picture(index))).mean() < 4

    monkeypatch.setattr(
        "protoseg_deploy.data.similarity.thumbnails.open_source", lambda *_, **__: pytest.fail("opened")
    )
    monkeypatch.setattr("protoseg_deploy.data.similarity.thumbnails.read_values", lambda *_: pytest.fail("decoded"))
    again = read_thumbnails(paths, PLAIN)
    assert np.array_equal(again.pixels, found.pixels)
    assert again.faults == found.faults
    monkeypatch.undo()
    monkeypatch.setenv("PROTOSEG_CACHE", str(cache))
    picture(9).save(tmp_path / "b.png")
    assert np.array_equal(read_thumbnails(paths, PLAIN).pixels[1], thumbnail(picture(9)))


@pytest.mark.parametrize("harm", ["damaged", "a folder", "of another table"])
def test_a_cache_that_cannot_be_used_costs_time_alone(tmp_path: Path, cache: Path, harm: str) -> None:
    picture(0).save(tmp_path / "a.png")
    read_thumbnails([tmp_path / "a.png"], PLAIN)
    (file,) = cache.glob("thumbnails*")
    file.unlink()
    if harm == "damaged":
        file.write_bytes(b"SQLite format 3\0" + bytes(range(256)) * 40)
    elif harm == "a folder":
        file.mkdir()
    else:
        with sqlite3.connect(file) as connection:
            connection.execute("create table thumbnails (x)")
    found = read_thumbnails([tmp_path / "a.png"], PLAIN)
    assert np.array_equal(found.pixels[0], thumbnail(picture(0)))
