"""Images, manifests and results in places that fsspec reaches."""

import tarfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from protoseg_deploy.errors import DataError, ProtosegError, UsageError
from protoseg_deploy.evaluation.shards import stores
from protoseg_deploy.evaluation.shards.libraries import require_library
from protoseg_deploy.evaluation.shards.notes import ShardNotes
from protoseg_deploy.evaluation.shards.stores import is_url, open_store, read_content
from tests.evaluation.shards.conftest import Predict, everything


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    """An empty file system in memory."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    system.pseudo_dirs[:] = [""]
    yield system
    system.store.clear()


def uploaded(system: fsspec.AbstractFileSystem, folder: Path, place: str) -> None:
    for name, content in everything(folder).items():
        system.pipe_file(f"{place}/{name}", content)


def below(system: fsspec.AbstractFileSystem, place: str) -> dict[str, bytes]:
    return {path.removeprefix(f"{place}/"): system.cat_file(path) for path in system.find(place)}


@pytest.mark.parametrize("pack", [False, True])
def test_a_prediction_in_memory_is_that_of_folders(
    predict: Predict, images: Path, tmp_path: Path, memory: fsspec.AbstractFileSystem, pack: bool
) -> None:
    (images / "0/0002.png").write_bytes(b"no image")
    (images / ".hidden.png").write_bytes(b"no image")
    uploaded(memory, images, "/bucket/in")
    local = predict(images, tmp_path / "out", shards=4, pack=pack)
    result = predict("memory://bucket/in/", "memory://bucket/out", shards=4, pack=pack)
    assert (result.images, result.failed) == (local.images, local.failed) == (11, 1)
    assert result.failures == ["memory://bucket/in/0/0002.png: not an image, or its header is damaged"]
    there, here = below(memory, "/bucket/out"), everything(tmp_path / "out")
    assert there.keys() == here.keys()
    masks = [name for name in here if name.endswith((".png", ".tar"))]
    assert len(masks) == (4 if pack else 11)
    assert {name: there[name] for name in masks} == {name: here[name] for name in masks}
    if pack:
        with tarfile.open(fileobj=BytesIO(there["masks/shard-00000.tar"])) as archive:
            assert archive.getnames() == ["0/0000.png", "0/0001.png"]


def test_a_stopped_prediction_in_memory_goes_on(
    predict: Predict, images: Path, memory: fsspec.AbstractFileSystem
) -> None:
    def stop(done: int, total: int) -> None:
        if done == 7:
            raise RuntimeError("stopped")

    uploaded(memory, images, "/in")
    predict("memory://in", "memory://whole", shards=6)
    with pytest.raises(RuntimeError, match="stopped"):
        predict("memory://in", "memory://out", shards=6, progress=stop)
    assert len(memory.ls("/out/results")) == 3
    assert predict("memory://in", "memory://out", shards=6).resumed == 3
    assert below(memory, "/out") == below(memory, "/whole")
    with pytest.raises(UsageError, match="number of shards: 6 then, 5 now"):
        predict("memory://in", "memory://out", shards=5)
    with pytest.raises(UsageError, match="is not empty"):
        predict("memory://in", "memory://in")


def test_a_manifest_may_lie_elsewhere_and_name_images_anywhere(
    predict: Predict, images: Path, tmp_path: Path, memory: fsspec.AbstractFileSystem
) -> None:
    uploaded(memory, images, "/bucket/in")
    local = images / "0/0003.png"
    memory.pipe_file("/bucket/lists/a.txt", f"../in/0/0001.png\nmemory://bucket/in/1/0010.png\n{local}\n".encode())
    memory.pipe_file("/bucket/in/b.csv", f"image\n0/0001.png\nfile://{local}\n".encode())
    result = predict([], tmp_path / "a", manifest="memory://bucket/lists/a.txt")
    assert (result.images, result.failed) == (3, 0)
    result = predict([], tmp_path / "b", manifest="memory://bucket/in/b.csv")
    assert (result.images, result.failed) == (2, 0)
    assert sorted(everything(tmp_path / "b/index")) == ["0/0001.png", "0003.png"]


def test_file_urls_are_paths(predict: Predict, images: Path, tmp_path: Path) -> None:
    predict(f"file://{images}", f"file://{tmp_path}/out")
    predict(images, tmp_path / "plain")
    assert everything(tmp_path / "out") == everything(tmp_path / "plain")
    assert is_url("s3://a/b")
    assert not is_url(f"file://{images}")
    assert not is_url("a/b")


def test_places_that_cannot_be_reached_are_named(predict: Predict, images: Path, tmp_path: Path) -> None:
    for given, said in (
        ("memory://none", "memory://none: no such file or folder"),
        ("nosuchthing://a/b", "nosuchthing://a/b cannot be reached: Protocol not known"),
    ):
        with pytest.raises(UsageError) as caught:
            predict(given, tmp_path / "out")
        assert said in caught.value.message
    with pytest.raises(UsageError, match="Protocol not known"):
        predict(images, "nosuchthing://a/b")
    with pytest.raises(DataError, match=r"^memory://none: no such file$"):
        read_content("memory://none")


def test_results_below_remote_images_are_no_images(
    predict: Predict, images: Path, memory: fsspec.AbstractFileSystem
) -> None:
    uploaded(memory, images, "/bucket/in")
    for place in ("memory://bucket/in/out", "memory://bucket/in/packed/"):
        begun = predict("memory://bucket/in", place, shards=3, pack=place.endswith("/"))
        assert predict("memory://bucket/in", place, shards=3, pack=place.endswith("/")).resumed == begun.plan.shards
        memory.rm(place, recursive=True)


class Buckets(MemoryFileSystem):
    """Like drivers of object stores: to make a folder is to make the bucket."""

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        raise AssertionError(f"{path} was made")

    def put_file(self, lpath: str, rpath: str, **options: object) -> None:
        self.pipe_file(rpath, Path(lpath).read_bytes())


def test_no_bucket_is_made(
    predict: Predict, images: Path, memory: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "file_system", lambda url: (Buckets(), f"/{url.partition('://')[2]}"))
    for pack in (False, True):
        assert predict(images, f"s3://bucket/{pack}", pack=pack).images == 12


@pytest.mark.parametrize("place", ["memory://", "s3:///", "simplecache::s3://"])
def test_a_url_without_a_place_is_refused(
    predict: Predict, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.chdir(tmp_path)
    before = everything(tmp_path)
    for given, out in ((images, place), (place, tmp_path / "out")):
        with pytest.raises(UsageError, match="names no place"):
            predict(given, out)
    assert everything(tmp_path) == before


def test_a_library_that_is_missing_is_named_with_the_command_that_installs_it() -> None:
    with pytest.raises(UsageError) as caught:
        require_library("no_such_library.part", "cloud", "paths like s3://a need")
    assert caught.value.message == "paths like s3://a need no_such_library, which is not installed"
    assert caught.value.hint == "pip install 'protoseg-deploy[cloud]'"


@pytest.mark.parametrize("place", ["memory://notes", "{tmp_path}/notes"])
def test_an_image_is_poisonous_when_two_workers_have_died_at_it(
    tmp_path: Path, memory: fsspec.AbstractFileSystem, place: str
) -> None:
    store = open_store(place.format(tmp_path=tmp_path))
    if not place.startswith("memory"):
        store.prepare()
    # To an object store nothing is noted until a worker has died.
    tries = 3 if place.startswith("memory") else 2
    for number in range(tries):
        notes = ShardNotes(store, 7)
        assert notes.begin() == {}, f"after {number} deaths"
        for row in (0, 1, 2):
            notes.turn_to(row)
        ShardNotes(store, 7).record_death("killed by SIGSEGV")
    notes = ShardNotes(store, 7)
    assert notes.begin() == {2: "killed by SIGSEGV"}
    assert ShardNotes(store, 8).begin() == {}
    notes.end()
    assert ShardNotes(store, 7).begin() == {}


def test_workers_that_die_at_no_image_are_not_replaced_for_ever(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.prepare()
    notes = ShardNotes(store, 0)
    for _ in range(2):
        notes.begin()
        notes.record_death("killed by SIGKILL")
    notes.begin()
    with pytest.raises(ProtosegError, match="3 worker processes have died in shard 0, at no image in particular"):
        notes.record_death("killed by SIGKILL")


def test_a_shard_of_nothing_but_poison_is_given_up(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.prepare()

    def die_at(row: int) -> None:
        notes = ShardNotes(store, 0)
        assert row not in notes.begin()
        notes.turn_to(row)
        notes.record_death("killed by SIGSEGV")

    for row in range(16):
        die_at(row)
        die_at(row)
    die_at(16)
    with pytest.raises(ProtosegError, match=r"34 worker processes have died in shard 0, at 17 images") as caught:
        die_at(16)
    assert ".notes" in caught.value.hint
