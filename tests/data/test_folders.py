"""Finding, pairing and drawing the files of a recipe."""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest

from protoseg_deploy.data import DataSets, find_data, write_list
from protoseg_deploy.data.finding import find_images
from protoseg_deploy.data.paths import name_below
from protoseg_deploy.errors import DataError
from protoseg_deploy.recipe import Data

# Pairing looks at names only, so empty files will do.


def touch(root: Path, names: Iterable[str]) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def data(root: Path, **keys: object) -> Data:
    keys.setdefault("labeled", {"images": "images", "masks": "masks"})
    return Data.model_validate({"root": str(root), "classes": ["a", "b"], **keys})


def find(root: Path, **keys: object) -> DataSets:
    """The labelled part, and those of the others that `keys` name."""
    return find_data(data(root, **keys), need_unlabeled="unlabeled" in keys, need_val="val" in keys)


def faults_of(root: Path, **keys: object) -> list[str]:
    with pytest.raises(DataError) as caught:
        find(root, **keys)
    return list(caught.value.faults)


def names(sets: DataSets, root: Path) -> list[tuple[str, str]]:
    return [
        (sample.image.relative_to(root).as_posix(), sample.mask.relative_to(root).as_posix())
        for sample in sets.labeled
        if sample.mask is not None
    ]


def test_folders_are_paired_by_stem_in_sorted_order(tmp_path: Path) -> None:
    touch(tmp_path, ["images/c.JPG", "images/a.jpg", "images/b.png", "images/notes.txt", "images/.b.jpg"])
    touch(tmp_path, ["masks/a.png", "masks/b.png", "masks/c.png"])
    sets = find(tmp_path)
    assert names(sets, tmp_path) == [
        ("images/a.jpg", "masks/a.png"),
        ("images/b.png", "masks/b.png"),
        ("images/c.JPG", "masks/c.png"),
    ]
    assert sets.labeled_pool == 3
    assert not sets.unlabeled
    assert sets.val == ()


def test_nested_folders_are_paired_through_parent(tmp_path: Path) -> None:
    touch(tmp_path, ["images/x/a.jpg", "images/y/z/a.jpg", "images/a.jpg"])
    touch(tmp_path, ["masks/x/a_id.png", "masks/y/z/a_id.png", "masks/a_id.png"])
    folders = {"images": "images", "masks": "masks", "mask_template": "{parent}/{stem}_id.png"}
    assert names(find(tmp_path, labeled=folders), tmp_path) == [
        ("images/a.jpg", "masks/a_id.png"),
        ("images/x/a.jpg", "masks/x/a_id.png"),
        ("images/y/z/a.jpg", "masks/y/z/a_id.png"),
    ]


def test_images_and_masks_in_one_folder(tmp_path: Path) -> None:
    touch(tmp_path, ["a.jpg", "a_mask.png", "b.png", "b_mask.png"])
    folders = {"images": ".", "masks": ".", "mask_template": "{stem}_mask.png"}
    sets = find(tmp_path, labeled=folders)
    assert names(sets, tmp_path) == [("a.jpg", "a_mask.png"), ("b.png", "b_mask.png")]


def test_masks_are_never_taken_for_unlabeled_images(tmp_path: Path) -> None:
    touch(tmp_path, ["a.jpg", "a_mask.png", "b.jpg", "more/c.jpg", "valmasks/v.png", "valimages/v.jpg"])
    keys = {
        "labeled": {"images": ".", "masks": ".", "mask_template": "{stem}_mask.png", "list": "list.txt"},
        "unlabeled": {"images": "."},
        "val": {"images": "valimages", "masks": "valmasks"},
    }
    (tmp_path / "list.txt").write_text("a.jpg\n")
    sets = find(tmp_path, **keys)
    assert [path.relative_to(tmp_path).as_posix() for path in sets.unlabeled] == [
        "a.jpg",
        "b.jpg",
        "more/c.jpg",
        "valimages/v.jpg",
    ]


def test_missing_masks_are_all_listed_with_their_files(tmp_path: Path) -> None:
    touch(tmp_path, ["images/a.jpg", "images/b.jpg", "images/c.jpg", "masks/b.png", "masks/a_seg.png"])
    touch(tmp_path, ["vi/d.jpg", "vm/e.png"])
    faults = faults_of(tmp_path)
    assert len(faults) == 2
    assert str(tmp_path / "images/a.jpg") in faults[0]
    assert "{stem}_seg.png" in faults[0]
    assert str(tmp_path / "images/c.jpg") in faults[1]
    assert str(tmp_path / "masks/c.png") in faults[1]
    assert len(faults_of(tmp_path, val={"images": "vi", "masks": "vm"})) == 3


def test_two_images_with_one_mask_are_a_fault(tmp_path: Path) -> None:
    touch(tmp_path, ["images/a.jpg", "images/a.png", "masks/a.png"])
    (fault,) = faults_of(tmp_path)
    assert "a.jpg" in fault
    assert "images/a.png" in fault
    (tmp_path / "images/a.png").unlink()
    touch(tmp_path, ["images/deep/a.jpg"])
    (fault,) = faults_of(tmp_path)
    assert "{parent}" in fault


def test_an_image_is_not_its_own_mask(tmp_path: Path) -> None:
    touch(tmp_path, ["images/a.png"])
    (fault,) = faults_of(tmp_path, labeled={"images": "images", "masks": "images"})
    assert "same file" in fault


def test_missing_folders_name_their_keys_and_places(tmp_path: Path) -> None:
    touch(tmp_path, ["masks/a.png", "void/readme.txt"])
    faults = faults_of(tmp_path, labeled={"images": "imgs", "masks": "masks"})
    assert faults == [f"data.labeled.images: no such folder: {tmp_path / 'imgs'}"]
    faults = faults_of(tmp_path, labeled={"images": "imgs", "masks": "gone"}, unlabeled={"images": "void"}, val={})
    text = "\n".join(faults)
    assert len(faults) == 4
    for part in ("data.labeled.images", "data.labeled.masks", "data.unlabeled.images: no images", "data.val names no"):
        assert part in text
    with pytest.raises(DataError, match=r"data\.root: no such folder: .*/nowhere"):
        find(tmp_path / "nowhere")


def test_an_unknown_placeholder_is_named(tmp_path: Path) -> None:
    touch(tmp_path, ["images/a.jpg", "masks/a.png"])
    (fault,) = faults_of(tmp_path, labeled={"images": "images", "masks": "masks", "mask_template": "{city}/{stem}.png"})
    assert "data.labeled.mask_template" in fault
    assert "{city}" in fault


def test_masks_left_over_are_reported(tmp_path: Path) -> None:
    touch(tmp_path, ["images/a.jpg", "masks/a_m.png", "masks/b_m.png", "masks/a_color.png"])
    sets = find(tmp_path, labeled={"images": "images", "masks": "masks", "mask_template": "{stem}_m.png"})
    assert sets.unused_masks == (tmp_path / "masks/b_m.png",)


def test_links_back_to_a_parent_end(tmp_path: Path) -> None:
    touch(tmp_path, ["images/a.jpg", "masks/a.png"])
    (tmp_path / "images/loop").symlink_to(tmp_path / "images", target_is_directory=True)
    assert len(find(tmp_path).labeled) == 1


def test_a_folder_reached_by_two_paths_is_found_under_both(tmp_path: Path) -> None:
    """A link that sorts before the folder it leads to does not hide it."""
    touch(tmp_path, ["images/real/a.jpg", "masks/real/a.png"])
    for kind in ("images", "masks"):
        (tmp_path / kind / "alias").symlink_to(tmp_path / kind / "real", target_is_directory=True)
    folders = {"images": "images", "masks": "masks", "mask_template": "{parent}/{stem}.png"}
    assert names(find(tmp_path, labeled=folders), tmp_path) == [
        ("images/alias/a.jpg", "masks/alias/a.png"),
        ("images/real/a.jpg", "masks/real/a.png"),
    ]
    assert len(find(tmp_path, unlabeled={"images": "images"}, labeled=folders).unlabeled) == 2
    (tmp_path / "masks/a.png").touch()
    assert names(find(tmp_path), tmp_path) == [
        ("images/alias/a.jpg", "masks/a.png"),
        ("images/real/a.jpg", "masks/a.png"),
    ], "one image by two paths may share its mask"


def test_folders_that_link_to_each_other_end(tmp_path: Path) -> None:
    touch(tmp_path, ["images/a/x.jpg", "images/b/y.jpg"])
    (tmp_path / "images/a/to_b").symlink_to(tmp_path / "images/b", target_is_directory=True)
    (tmp_path / "images/b/to_a").symlink_to(tmp_path / "images/a", target_is_directory=True)
    found = find_images(tmp_path / "images", leave_out=[], key="", faults=[])
    assert [name_below(path, tmp_path / "images") for path in found] == [
        "a/to_b/y.jpg",
        "a/x.jpg",
        "b/to_a/x.jpg",
        "b/y.jpg",
    ]


def test_links_that_multiply_are_named_in_bounded_time(tmp_path: Path) -> None:
    """Forty folders, each with two links to the next: 2**40 paths."""
    for number in range(40):
        place = tmp_path / f"images/{number}"
        place.mkdir(parents=True)
        for link in ("left", "right"):
            (place / link).symlink_to(tmp_path / f"images/{number + 1}", target_is_directory=True)
    touch(tmp_path, ["images/40/a.jpg"])
    with pytest.raises(DataError, match="more than 1000 paths"):
        find_images(tmp_path / "images/0", leave_out=[], key="", faults=[])


def test_folders_nested_deeper_than_python_calls(tmp_path: Path) -> None:
    depth = 1200
    places = [tmp_path]
    for _ in range(depth):
        places.append(places[-1] / "d")
        places[-1].mkdir()
    (places[-1] / "deep.jpg").touch()
    try:
        (found,) = find_images(tmp_path, leave_out=[], key="", faults=[])
        assert found.name == "deep.jpg"
        assert len(found.relative_to(tmp_path).parts) == depth + 1
    finally:  # too deep for `shutil.rmtree`, which pytest calls
        (places[-1] / "deep.jpg").unlink()
        for place in reversed(places[1:]):
            place.rmdir()


def pool_of(root: Path, count: int) -> None:
    touch(root, [f"images/{number:03}.jpg" for number in range(count)])
    touch(root, [f"masks/{number:03}.png" for number in range(count)])


def test_a_subset_depends_on_its_seed_alone(tmp_path: Path) -> None:
    pool_of(tmp_path / "one", 40)
    shutil.copytree(tmp_path / "one", tmp_path / "other")

    def drawn(root: str, **keys: object) -> list[str]:
        return [sample.image.name for sample in find(tmp_path / root, **keys).labeled]

    subset = drawn("one", labeled_count=10, labeled_seed=3)
    assert len(set(subset)) == 10
    assert subset == sorted(subset)
    assert drawn("other", labeled_count=10, labeled_seed=3) == subset
    assert drawn("one", labeled_share=0.25, labeled_seed=3) == subset
    assert drawn("one", labeled_count=10, labeled_seed=4) != subset
    assert set(subset) < set(drawn("one", labeled_count=20, labeled_seed=3))
    assert find(tmp_path / "one", labeled_count=10).labeled_pool == 40
    assert len(drawn("one", labeled_share=0.001)) == 1


def test_every_image_is_drawn_equally_often(tmp_path: Path) -> None:
    pool_of(tmp_path, 10)
    hits = dict.fromkeys((f"{number:03}.jpg" for number in range(10)), 0)
    for seed in range(200):
        for sample in find(tmp_path, labeled_count=3, labeled_seed=seed).labeled:
            hits[sample.image.name] += 1
    assert all(35 <= hit <= 85 for hit in hits.values()), hits  # 60 expected, standard deviation 6.5


def test_a_subset_larger_than_its_pool_is_a_fault(tmp_path: Path) -> None:
    pool_of(tmp_path, 3)
    (fault,) = faults_of(tmp_path, labeled_count=4)
    assert "data.labeled_count" in fault
    assert "4" in fault
    assert "3" in fault


def test_a_written_list_reads_back_to_the_same_samples(tmp_path: Path) -> None:
    root, outside = tmp_path / "data", tmp_path / "outside"
    for folder in (root, outside):
        pool_of(folder, 8)
    touch(root, ["images/two words.jpg", "masks/two words.png", "images/#1.jpg", "masks/#1.png"])
    drawn = find(root, labeled_count=5, labeled_seed=1).labeled
    everything = find(root).labeled
    elsewhere = find(outside).labeled[:2]
    for samples in (drawn, everything, (*drawn, *elsewhere)):
        path = tmp_path / "subset.txt"
        write_list(path, samples, root)
        for labeled in ({"list": str(path)}, {"list": str(path), "images": "images", "masks": "masks"}):
            assert set(find(root, labeled=labeled).labeled) == set(samples)
    write_list(tmp_path / "subset.txt", drawn, root)
    shutil.copytree(root, tmp_path / "moved")
    moved = find(tmp_path / "moved", labeled={"list": str(tmp_path / "subset.txt")}).labeled
    assert [sample.image.name for sample in moved] == [sample.image.name for sample in drawn]
    assert all(sample.image.is_relative_to(tmp_path / "moved") for sample in moved)


@pytest.mark.parametrize(
    "stem",
    [
        b"a\tb",
        b"two\nlines",
        b" blanks ",
        b"a, b",
        b"a;b",
        b"back\\slash",
        b'"quoted"',
        b"#1",
        b"stra\xdfe",
        b"\x1b[31m",
        b"a  b",
    ],
)
def test_any_name_reads_back_from_a_written_list(tmp_path: Path, stem: bytes) -> None:
    name = os.fsdecode(stem)
    try:
        touch(tmp_path, [f"images/{name}.jpg", f"masks/{name}.png", "images/b.png b.jpg", "masks/b.png b.png"])
    except OSError:
        pytest.skip("this file system does not take such names")
    samples = find(tmp_path).labeled
    assert len(samples) == 2
    write_list(tmp_path / "list.txt", samples, tmp_path)
    first = (tmp_path / "list.txt").read_bytes()
    assert set(find(tmp_path, labeled={"list": "list.txt"}).labeled) == set(samples)
    write_list(tmp_path / "list.txt", find(tmp_path, labeled={"list": "list.txt"}).labeled, tmp_path)
    assert (tmp_path / "list.txt").read_bytes() == first
