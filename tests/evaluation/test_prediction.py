"""Class maps as files: what is written where, and what happens to files that cannot be read."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from protoseg_deploy.data.images import read_image
from protoseg_deploy.errors import ProtosegError, UsageError
from protoseg_deploy.evaluation import prediction
from protoseg_deploy.evaluation.colors import colorize
from protoseg_deploy.evaluation.prediction import find_inputs, name_outputs, predict_files
from protoseg_deploy.recipe import ImageReading
from tests.fake_runtime import FakeRuntime


def write_image(path: Path, height: int = 6, width: int = 9) -> np.ndarray:
    """A random image whose red channel is the class; returns that channel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    numbers = np.random.default_rng(sum(path.name.encode()))
    image = numbers.integers(0, 4, (height, width, 3), dtype=np.uint8)
    Image.fromarray(image).save(path)
    return image[..., 0]


def test_three_pngs_of_the_images_own_size_and_layout(tmp_path: Path) -> None:
    runtime, out = FakeRuntime(), tmp_path / "out"
    expected = {
        "a.png": write_image(tmp_path / "in/a.png"),
        "deep/er/b.png": write_image(tmp_path / "in/deep/er/b.bmp", 11, 3),
        "c.png": write_image(tmp_path / "alone/c.tif", 1, 1),
    }
    result = predict_files(runtime, [tmp_path / "in", tmp_path / "alone/c.tif"], out)
    assert not result.failed
    for kind in ("index", "color", "overlay"):
        written = {path.relative_to(out / kind).as_posix() for path in (out / kind).rglob("*.png")}
        assert written == set(expected)
    for name, class_map in expected.items():
        index = Image.open(out / "index" / name)
        assert index.mode == "L"
        np.testing.assert_array_equal(np.asarray(index), class_map)
        color = np.asarray(Image.open(out / "color" / name))
        np.testing.assert_array_equal(color, colorize(class_map, runtime.info.classes.colors))
        assert Image.open(out / "overlay" / name).size == index.size
    done = {path.index.name: path for path in result.images}["b.png"]
    assert (done.height, done.width) == (11, 3)
    assert done.class_pixels == tuple(np.bincount(expected["deep/er/b.png"].ravel(), minlength=4))


def test_unreadable_images_do_not_keep_the_others_from_being_done(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write_image(tmp_path / f"in/{name}.png")
    (tmp_path / "in/b.png").write_bytes(b"no image at all")
    seen: list[tuple[int, int]] = []
    result = predict_files(
        FakeRuntime(), [tmp_path / "in"], tmp_path / "out", progress=lambda done, total: seen.append((done, total))
    )
    assert [path.image.name for path in result.images] == ["a.png", "c.png"]
    assert [(failed.image.name, failed.kind) for failed in result.failed] == [("b.png", "unreadable")]
    assert "b.png" in result.failed[0].reason
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_a_second_run_into_a_folder_below_its_input_does_not_eat_its_own_results(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    for out in (tmp_path / "results", tmp_path):
        first = predict_files(FakeRuntime(), [tmp_path / "a.png"], out)
        assert len(first.images) == 1
        found = find_inputs([tmp_path], out)
        assert [relative.as_posix() for _, relative in found if "results" not in relative.parts] == ["a.png"]
    assert len(find_inputs([tmp_path, tmp_path / "a.png"], tmp_path / "results")) == 1 + 3  # tmp_path/{index,…}/a.png


def test_equal_names_never_overwrite_each_other(tmp_path: Path) -> None:
    inputs = ["x/a.png", "x/a.bmp", "y/a.png", "y/A.tif", "z/a.png.png"]
    for name in inputs:
        write_image(tmp_path / name)
    result = predict_files(FakeRuntime(), [tmp_path / folder for folder in ("x", "y", "z")], tmp_path / "out")
    names = [image.index.relative_to(tmp_path / "out/index").as_posix() for image in result.images]
    assert len(names) == len({name.lower() for name in names}) == len(inputs)
    for image in result.images:
        red = np.asarray(Image.open(image.image).convert("RGB"))[..., 0]
        np.testing.assert_array_equal(np.asarray(Image.open(image.index)), red)


def test_links_are_images_of_their_own_and_repeated_inputs_are_not(tmp_path: Path) -> None:
    write_image(tmp_path / "in/a.png")
    (tmp_path / "in/b.png").symlink_to("a.png")
    found = find_inputs([tmp_path / "in", tmp_path / "in/a.png"], tmp_path / "out")
    assert [relative.name for _, relative in found] == ["a.png", "b.png"]


def test_names_stay_plain_where_nothing_collides() -> None:
    found = [(Path("in/a.v2.jpg"), Path("a.v2.jpg")), (Path("in/b/a.jpg"), Path("b/a.jpg"))]
    assert [name.as_posix() for _, name in name_outputs(found)] == ["a.v2.png", "b/a.png"]


def test_tiles_of_a_fixed_size_come_by_themselves(tmp_path: Path) -> None:
    expected = write_image(tmp_path / "big.png", 40, 33)
    runtime = FakeRuntime(fixed_size=(16, 8))
    result = predict_files(runtime, [tmp_path / "big.png"], tmp_path / "out", batch=3)
    assert (result.tile, result.overlap) == ((16, 8), 2)
    assert {shape[1:3] for shape in runtime.shapes} == {(16, 8)}
    np.testing.assert_array_equal(np.asarray(Image.open(result.images[0].index)), expected)


def test_more_than_256_classes_are_written_as_16_bit(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    runtime = FakeRuntime(lambda images: images[..., 0].astype(np.int32) + 500, classes=600)
    result = predict_files(runtime, [tmp_path / "a.png"], tmp_path / "out")
    index = Image.open(result.images[0].index)
    assert index.mode == "I;16"
    assert np.asarray(index).min() >= 500


@pytest.mark.parametrize(("inputs", "message"), [(["nothing.png"], "no such file"), (["empty"], "no images in")])
def test_inputs_that_are_not_there_are_named(tmp_path: Path, inputs: list[str], message: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=message):
        predict_files(FakeRuntime(), [tmp_path / name for name in inputs], tmp_path / "out")


def test_an_overlap_without_a_tile_is_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    with pytest.raises(UsageError, match="needs a tile size"):
        predict_files(FakeRuntime(), [tmp_path / "a.png"], tmp_path / "out", overlap=4)


def fails_for(height: int, error: Exception):
    """Takes the red channel for the class, but fails for images of a height."""

    def predict(images: np.ndarray) -> np.ndarray:
        if images.shape[1] == height:
            raise error
        return images[..., 0] % 4

    return predict


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (MemoryError(), "memory", "--tile"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 400 bytes"),
            "memory",
            "--tile",
        ),
        (RuntimeError("[ONNXRuntimeError] : 6 : std::bad_alloc"), "memory", "--tile"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), "memory", "--tile"),
        (UsageError("takes 32 to 64 pixels"), "runtime", "takes 32 to 64 pixels"),
        (RuntimeError("Pad node: reflection is too wide\nmore"), "runtime", "RuntimeError: Pad node"),
        (ProtosegError("the engine failed"), "runtime", "the engine failed"),
    ],
)
def test_an_image_that_a_runtime_cannot_compute_does_not_keep_the_others(
    tmp_path: Path, error: Exception, kind: str, said: str
) -> None:
    for name, height in (("a", 6), ("b", 7), ("c", 6)):
        write_image(tmp_path / f"in/{name}.png", height)
    result = predict_files(FakeRuntime(fails_for(7, error)), [tmp_path / "in"], tmp_path / "out")
    assert [image.image.name for image in result.images] == ["a.png", "c.png"]
    (failed,) = result.failed
    assert (failed.image.name, failed.kind) == ("b.png", kind)
    assert failed.reason.startswith(f"{failed.image}: ")
    assert "9x7 pixels" in failed.reason
    assert said in failed.reason


def test_too_little_memory_for_tiles_asks_for_smaller_ones(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", 40, 40)
    runtime = FakeRuntime(fails_for(32, MemoryError()))
    result = predict_files(runtime, [tmp_path / "a.png"], tmp_path / "out", tile=(32, 32))
    assert "make --tile or --batch smaller" in result.failed[0].reason


def test_an_image_too_large_to_be_read_does_not_keep_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        write_image(tmp_path / f"in/{name}.png")

    def read(path: Path, reading: ImageReading) -> np.ndarray:
        if path.name == "b.png":
            raise MemoryError
        return read_image(path, reading)

    monkeypatch.setattr(prediction, "read_image", read)
    result = predict_files(FakeRuntime(), [tmp_path / "in"], tmp_path / "out")
    assert [(failed.image.name, failed.kind) for failed in result.failed] == [("b.png", "memory")]
    assert len(result.images) == 2


def test_an_artefact_that_fails_on_a_plain_image_too_ends_the_call(tmp_path: Path) -> None:
    """The third image is the last: what is done before stays, and is said."""
    calls: list[tuple[int, ...]] = []

    def breaks(images: np.ndarray) -> np.ndarray:
        calls.append(images.shape)
        if len(calls) > 2:
            raise RuntimeError("CUDA error: device-side assert triggered")
        return images[..., 0]

    for number in range(9):
        write_image(tmp_path / f"in/{number}.png")
    with pytest.raises(ProtosegError, match="plain grey image too: RuntimeError: CUDA error") as raised:
        predict_files(FakeRuntime(breaks), [tmp_path / "in"], tmp_path / "out")
    assert "2 of 9 images are done: --skip-existing" in raised.value.hint
    assert len(calls) == 4
    assert sorted(path.name for path in (tmp_path / "out/overlay").iterdir()) == ["0.png", "1.png"]


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda images: images[:, 1:, :, 0], r"is uint8 \[1, 5, 9\], not integers \[1, 6, 9\]"),
        (lambda images: images[..., 0] / 2, "is float64"),
        (lambda images: images[..., 0] + 1, r"holds 4: classes are 0\.\.3"),
        (lambda images: images[..., 0].astype(np.int32) - 1, "holds -1"),
    ],
)
def test_a_result_that_is_no_class_map_is_no_result(tmp_path: Path, function, said: str) -> None:
    write_image(tmp_path / "a.png")

    def plain_images_go_well(images: np.ndarray) -> np.ndarray:
        return images[..., 0] * 0 if (images == 127).all() else function(images)

    result = predict_files(FakeRuntime(plain_images_go_well), [tmp_path / "a.png"], tmp_path / "out")
    assert not result.images
    assert re.search(said, result.failed[0].reason)
    assert not list((tmp_path / "out").rglob("*.png"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_what_is_no_regular_file_is_reported_and_not_waited_for(tmp_path: Path) -> None:
    write_image(tmp_path / "in/b.png")
    os.mkfifo(tmp_path / "in/a.png")
    (tmp_path / "in/c.png").symlink_to("/dev/zero")
    (tmp_path / "in/d.png").symlink_to("nowhere")
    result = predict_files(FakeRuntime(), [tmp_path / "in"], tmp_path / "out")
    assert [image.image.name for image in result.images] == ["b.png"]
    assert [failed.image.name for failed in result.failed] == ["a.png", "c.png", "d.png"]
    assert "named pipe" in result.failed[0].reason


def test_files_of_a_folder_that_are_not_read_are_counted(tmp_path: Path) -> None:
    write_image(tmp_path / "in/b.png")
    for name in ("a.dcm", "c.DCM", "notes"):
        (tmp_path / "in" / name).write_bytes(b"something")
    result = predict_files(FakeRuntime(), [tmp_path / "in"], tmp_path / "out")
    ((folder, unread),) = result.unread
    assert (folder, unread.counts) == (tmp_path / "in", {".dcm": 2, "": 1})
    write_image(tmp_path / "unusual.png")
    (tmp_path / "unusual.png").rename(tmp_path / "unusual")
    assert len(predict_files(FakeRuntime(), [tmp_path / "unusual"], tmp_path / "out").images) == 1


def test_an_output_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    (tmp_path / "out").write_text("a file where a folder should be")
    with pytest.raises(ProtosegError, match="cannot write"):
        predict_files(FakeRuntime(), [tmp_path / "a.png"], tmp_path / "out")
