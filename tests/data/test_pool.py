"""The index of unlabelled images: what it holds, when it is made anew, how it gets to other processes."""

import itertools
import os
import pickle
import time
from pathlib import Path

import pytest
import torch

from protoseg_deploy.data import ImagePool, find_data, pool
from protoseg_deploy.data.finding import find_images
from protoseg_deploy.data.paths import name_below
from protoseg_deploy.errors import DataError, ProtosegError
from protoseg_deploy.recipe import Data

NAMES = ["a.jpg", "a/b.png", "a-1/b.png", "a/b/c.jpg", "a/c.JPEG", "ä/ü x.jpg", "z.webp"]


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Labelled images, and a folder ``pool`` of others."""
    touch(tmp_path, "images/1.jpg", "masks/1.png", *(f"pool/{name}" for name in NAMES))
    return tmp_path


@pytest.fixture
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of its own, in which every index is kept, however small."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("PROTOSEG_CACHE", str(folder))
    monkeypatch.setattr(pool, "LARGE_POOL", 0)
    return folder


def unlabeled(root: Path, more: dict[str, object] | None = None, **part: str) -> ImagePool:
    """The unlabelled images of a recipe, its data section with `more` in it."""
    labeled = {"images": "images", "masks": "masks"}
    data = {"root": str(root), "labeled": labeled, "unlabeled": part or {"images": "pool"}, "classes": ["a", "b"]}
    data |= more or {}
    return find_data(Data.model_validate(data), need_unlabeled=True, need_val="val" in data).unlabeled


def let_settle(*folders: Path) -> None:
    """As if the last change had been a minute ago."""
    then = time.time_ns() - 60 * 10**9
    for folder in folders:
        for place in [folder, *folder.rglob("*")]:
            os.utime(place, ns=(then, then))


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One entry for each folder that is listed."""
    listed: list[str] = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda place: (listed.append(str(place)), scandir(place))[1])
    return listed


def test_a_pool_is_the_sorted_paths_of_its_images(root: Path) -> None:
    images = unlabeled(root)
    expected = sorted((root / "pool" / name for name in NAMES), key=lambda path: path.as_posix())
    assert list(images) == [images[index] for index in range(len(NAMES))] == expected
    assert (len(images), images[-1], images[1:3]) == (7, expected[-1], tuple(expected[1:3]))
    assert set(find_images(root / "pool", leave_out=[], key="", faults=[])) == set(expected)
    with pytest.raises(IndexError):
        images[7]


def test_any_tree_comes_out_in_the_order_of_whole_paths(tmp_path: Path) -> None:
    parts = ["a", "a-", "a.b", "a0", "B", "ä"]
    names = [f"{one}/{two}/{three}.png" for one, two, three in itertools.product(parts, repeat=3)]
    names += [f"{one}/{two}.png" for one, two in itertools.product(parts, repeat=2)] + [f"{one}.png" for one in parts]
    touch(tmp_path, "images/1.jpg", "masks/1.png", *(f"pool/{name}" for name in names))
    assert [name_below(path, tmp_path / "pool") for path in unlabeled(tmp_path)] == sorted(names)


def test_an_empty_pool_is_nothing() -> None:
    assert not pool.NO_IMAGES
    assert list(pool.NO_IMAGES) == []
    assert not pickle.loads(pickle.dumps(pool.NO_IMAGES))


def test_hidden_files_links_and_masks_are_treated_as_in_any_search(root: Path) -> None:
    touch(root, "pool/.hidden.jpg", "pool/.git/x.jpg", "pool/notes.txt", "elsewhere/e.jpg", "pool/folder.jpg/f.jpg")
    (root / "pool/loop").symlink_to(root / "pool", target_is_directory=True)
    (root / "pool/linked").symlink_to(root / "elsewhere", target_is_directory=True)
    (root / "pool/link.jpg").symlink_to(root / "elsewhere/e.jpg")
    (root / "pool/broken.jpg").symlink_to(root / "nowhere.jpg")
    more = ["linked/e.jpg", "link.jpg", "broken.jpg", "folder.jpg/f.jpg"]
    assert [name_below(path, root / "pool") for path in unlabeled(root)] == sorted([*NAMES, *more])
    everything = {name_below(path, root) for path in unlabeled(root, images=".")}
    assert {"images/1.jpg", "pool/a.jpg"} < everything
    assert not any(name.startswith("masks/") for name in everything)


def test_a_name_that_is_no_text_survives(root: Path) -> None:
    try:
        Path(os.fsdecode(os.fsencode(root / "pool") + b"/\xff.jpg")).touch()
    except OSError:
        pytest.skip("this file system takes text only")
    assert unlabeled(root)[-1].exists()


def test_the_digest_knows_the_names_and_not_the_place(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    moved = tmp_path_factory.mktemp("moved")
    touch(moved, "images/1.jpg", "masks/1.png", *(f"pool/{name}" for name in NAMES))
    digest = unlabeled(root).digest
    assert unlabeled(moved).digest == digest
    (moved / "pool/a.jpg").rename(moved / "pool/b.jpg")
    assert unlabeled(moved).digest != digest


def test_a_kept_index_is_used_until_a_folder_changes(root: Path, cache: Path, searches: list[str]) -> None:
    let_settle(root)
    first = list(unlabeled(root))
    folders = {str(path) for path in (root / "pool").rglob("*") if path.is_dir()} | {str(root / "pool")}
    assert folders < set(searches)
    searches.clear()
    assert list(unlabeled(root)) == first
    assert not folders & set(searches)
    touch(root, "pool/a/b/new.jpg")
    assert len(unlabeled(root)) == len(first) + 1
    (root / "pool/a/b/new.jpg").unlink()
    assert list(unlabeled(root)) == first
    assert len(list(cache.iterdir())) == 1
    (root / "pool/a/b/c.jpg").unlink()
    (root / "pool/a/b").rmdir()
    assert len(unlabeled(root)) == len(first) - 1


def test_a_folder_that_changed_a_moment_ago_is_searched_again(root: Path, cache: Path) -> None:
    folder = root / "pool"
    touched = folder.stat().st_mtime_ns
    assert len(unlabeled(root)) == len(NAMES)
    touch(root, "pool/late.jpg")
    os.utime(folder, ns=(touched, touched))  # within the same tick of the file system's clock
    assert len(unlabeled(root)) == len(NAMES) + 1


@pytest.mark.parametrize("content", [b"", b"torn", b"protoseg pool 0\0" + bytes(64), None])
def test_a_damaged_index_is_made_anew(root: Path, cache: Path, content: bytes | None) -> None:
    let_settle(root)
    first = list(unlabeled(root))
    (file,) = cache.iterdir()
    file.write_bytes(file.read_bytes()[:-60] if content is None else content)
    assert list(unlabeled(root)) == first


def test_every_byte_of_an_index_counts(root: Path, cache: Path) -> None:
    """One bit wrong, anywhere: the index is made anew, and never believed."""
    let_settle(root)
    first = list(unlabeled(root))
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    for place in range(0, len(whole), 7):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ValueError, match="index"):
            ImagePool.map(file)
    for content in (whole[:-1], whole + b" ", whole.replace(b"a.jpg", b"b.jpg")):
        file.write_bytes(content)
        assert list(unlabeled(root)) == first
        assert file.read_bytes() != content


def test_an_index_of_another_folder_or_user_is_not_believed(
    root: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    touch(elsewhere, "images/1.jpg", "masks/1.png", "pool/other.jpg")
    let_settle(root, elsewhere)
    unlabeled(elsewhere)
    (other,) = cache.iterdir()
    first = list(unlabeled(root))
    (file,) = set(cache.iterdir()) - {other}
    file.write_bytes(other.read_bytes())
    assert list(unlabeled(root)) == first
    user = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: user + 1)
    with pytest.raises(PermissionError):
        ImagePool.map(file)


def test_a_pipe_in_place_of_an_index_is_not_waited_for(root: Path, cache: Path) -> None:
    first = list(unlabeled(root))
    (file,) = cache.iterdir()
    file.unlink()
    os.mkfifo(file)
    assert list(unlabeled(root)) == first


def test_what_killed_processes_left_is_removed(
    root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    then = time.time_ns() - 2 * 3600 * 10**9
    left = [cache / ".images-ab12.pool", cache / f".images-00.pool.{'a' * 12}.tmp"]
    others = [cache / "notes.txt", cache / f".other.{'a' * 12}.tmp"]
    young = cache / f".images-00.pool.{'b' * 12}.tmp"
    for path in (*left, *others, young):
        path.touch()
        if path != young:
            os.utime(path, ns=(then, then))
    unlabeled(root)
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in (*others, young))
    monkeypatch.setenv("PROTOSEG_CACHE", str(cache / "notes.txt"))  # no folder: temporary files serve
    temporary = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr(pool.tempfile, "tempdir", str(temporary))
    (temporary / ".images-dead.pool").touch()
    os.utime(temporary / ".images-dead.pool", ns=(then, then))
    images = unlabeled(root)
    (alive,) = temporary.iterdir()
    os.utime(alive, ns=(then, then))
    others_images = unlabeled(root)
    assert alive.exists(), "it is in use, however old"
    assert list(images) == list(others_images)


def test_what_decides_the_search_is_part_of_the_key(root: Path, cache: Path) -> None:
    touch(root, "val/b.jpg")
    let_settle(root)
    masks_inside = {"val": {"images": "val", "masks": "pool/a"}}
    for _ in range(2):
        assert {name_below(path, root / "pool") for path in unlabeled(root)} == set(NAMES)
        others = {name_below(path, root / "pool") for path in unlabeled(root, more=masks_inside)}
        assert others == {name for name in NAMES if not name.startswith("a/")}
    assert len(list(cache.iterdir())) == 2


def test_without_a_cache_a_temporary_file_serves(
    root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (cache / "file").touch()
    monkeypatch.setenv("PROTOSEG_CACHE", str(cache / "file" / "below"))
    temporary = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr(pool.tempfile, "tempdir", str(temporary))
    images = unlabeled(root)
    assert list(pickle.loads(pickle.dumps(images))) == list(images)
    assert len(list(temporary.iterdir())) == 1
    del images
    assert not list(temporary.iterdir())
    monkeypatch.setattr(pool.tempfile, "tempdir", str(cache / "file"))
    with pytest.raises(ProtosegError, match="cannot be written"):
        unlabeled(root)


def test_a_large_pool_pickles_as_the_path_of_its_file(root: Path, cache: Path) -> None:
    let_settle(root)
    images = unlabeled(root)
    pickled = pickle.dumps(images)
    assert b"a/c.JPEG" not in pickled
    assert list(pickle.loads(pickled)) == list(images)
    touch(root, "pool/more.jpg")
    unlabeled(root)
    with pytest.raises(DataError, match="changed while"):
        pickle.loads(pickled)
    assert len(list(images)) == len(NAMES), "a pool in use keeps what it has mapped"


def test_spawned_workers_read_the_same_paths(root: Path, cache: Path) -> None:
    images = unlabeled(root)
    loader = torch.utils.data.DataLoader(
        images, batch_size=None, num_workers=1, multiprocessing_context="spawn", sampler=range(7), collate_fn=str
    )
    assert list(loader) == [str(path) for path in images]


def listed(root: Path, monkeypatch: pytest.MonkeyPatch, *lines: str, images: str | None = None) -> list[str]:
    """Names read from a list: the same one by one and all at once."""
    (root / "list.txt").write_text("\n".join(lines), encoding="utf-8")
    part = {"list": "list.txt"} | ({} if images is None else {"images": images})
    monkeypatch.setattr("protoseg_deploy.data.lists.LARGE_POOL", 1000)
    slowly = [name_below(path, root) for path in unlabeled(root, **part)]
    monkeypatch.setattr("protoseg_deploy.data.lists.LARGE_POOL", 0)
    assert [name_below(path, root) for path in unlabeled(root, **part)] == slowly
    return slowly


@pytest.mark.parametrize(
    "line",
    [
        "pool/a/b.png",
        "/pool/a/b.png",
        "./pool/a/b.png",
        "pool/a/b.png masks/x.png",
        "pool/a/b.png\tmasks/x.png",
        "pool/a/b.png,masks/x.png",
        "pool/a/b.png; masks/x.png",
        "pool\\a\\b.png",
        "pool\\a\\b.png,masks\\x.png",
        '"pool/a/b.png"',
        "pool/a/b",
    ],
)
def test_large_lists_are_read_as_small_ones(root: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    assert listed(root, monkeypatch, "# pool", "pool/z.webp", line, line) == ["pool/a/b.png", "pool/z.webp"]


def test_large_lists_find_folders_blanks_and_absolute_names(
    root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    touch(elsewhere, "e.jpg")
    lines = ("a/b.png", "ä/ü x.jpg masks/none.png", "images/1.jpg", "a/c.JPEG", str(elsewhere / "e.jpg"))
    expected = ["pool/a/b.png", "pool/a/c.JPEG", "images/1.jpg", "pool/ä/ü x.jpg", (elsewhere / "e.jpg").as_posix()]
    assert listed(root, monkeypatch, *lines, images="pool") == sorted(expected)
    assert listed(root, monkeypatch, "masks/1.png", "images/1.jpg") == ["images/1.jpg"], "a mask is no image"


def test_a_missing_file_of_a_large_list_shows_when_it_is_read(
    root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("protoseg_deploy.data.lists.LARGE_POOL", 0)
    (root / "list.txt").write_text("pool/gone.jpg\npool/z.webp\nfar/gone.jpg\npool/none\n")
    let_settle(root)
    for _ in range(2):
        with pytest.raises(DataError, match=r"list\.txt:4: no image pool/none"):
            unlabeled(root, list="list.txt")
    (root / "list.txt").write_text("pool/gone.jpg\npool/z.webp\nfar/gone.jpg\n")
    assert [name_below(path, root) for path in unlabeled(root, list="list.txt")] == [
        "far/gone.jpg",
        "pool/gone.jpg",
        "pool/z.webp",
    ]


def test_a_kept_list_is_read_again_when_it_or_its_folders_change(
    root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("protoseg_deploy.data.lists.LARGE_POOL", 0)
    (root / "list.txt").write_text("a.jpg\nz.webp\n")
    let_settle(root)
    part = {"list": "list.txt", "images": "pool"}
    assert list(unlabeled(root, **part)) == [root / "pool/a.jpg", root / "pool/z.webp"]
    for name in ("a.jpg", "z.webp"):
        (root / "pool" / name).rename(root / name)
    assert list(unlabeled(root, **part)) == [root / "a.jpg", root / "z.webp"]
    (root / "list.txt").write_text("a.jpg\n")
    assert list(unlabeled(root, **part)) == [root / "a.jpg"]
