"""The folder of results: whole pictures, one writer, nothing beside it touched, and going on after a kill."""

import dataclasses
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from protoseg_deploy.errors import ProtosegError, UsageError, WriteError
from protoseg_deploy.evaluation import output_folder
from protoseg_deploy.evaluation.output_folder import open_output
from protoseg_deploy.evaluation.prediction import Prediction, predict_files
from protoseg_deploy.evaluation.result_marks import Mark, read_results
from protoseg_deploy.locks import LockedError
from tests.fake_runtime import FakeRuntime

MARK = Mark(image_sha256="a" * 64, made_by="b" * 64, class_pixels=(3, 4))
PICTURES = {kind: np.arange(12, dtype=np.uint8).reshape(3, 4) for kind in ("index", "color", "overlay")}


def runtime_of(weights: Path) -> FakeRuntime:
    """A runtime that takes the red channel for the class, and says that a file decides that."""
    runtime = FakeRuntime()
    runtime.info = dataclasses.replace(runtime.info, files=(weights,))
    return runtime


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(4):
        Image.fromarray(np.full((5, 6, 3), number, np.uint8)).save(folder / f"{number}.png")
    (tmp_path / "weights").write_bytes(b"first")
    return folder


def skipped(result: Prediction) -> list[str]:
    return [image.image.name for image in result.images if image.is_skipped]


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def predict(images: Path, **options: object) -> Prediction:
    return predict_files(
        runtime_of(images.parent / "weights"), [images], images.parent / "out", skip_existing=True, **options
    )


def test_what_was_done_is_skipped_and_told_as_if_it_had_been_done_now(images: Path) -> None:
    first, second = predict(images), predict(images)
    assert skipped(first) == []
    assert skipped(second) == ["0.png", "1.png", "2.png", "3.png"]
    assert [dataclasses.replace(image, is_skipped=False) for image in second.images] == list(first.images)
    assert first.images[2].class_pixels == (0, 0, 30, 0)


def test_another_image_artefact_or_option_is_predicted_again(images: Path) -> None:
    predict(images)
    changed = images / "2.png"
    status = changed.stat()
    content = np.full((5, 6, 3), 3, np.uint8)
    Image.fromarray(content).save(changed)
    os.utime(changed, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert skipped(predict(images)) == ["0.png", "1.png", "3.png"]
    assert np.asarray(Image.open(images.parent / "out/index/2.png")).max() == 3
    for options in ({"tile": (4, 4)}, {"tile": (4, 4), "overlap": 2}, {"alpha": 0.25}):
        assert skipped(predict(images, **options)) == []
        assert len(skipped(predict(images, **options))) == 4
    predict(images)
    (images.parent / "weights").write_bytes(b"second")
    assert skipped(predict(images)) == []


def test_what_is_missing_torn_or_foreign_is_predicted_again(images: Path) -> None:
    predict(images)
    out = images.parent / "out"
    whole = {name: (out / name).read_bytes() for name in files(out)}
    (out / "color/0.png").unlink()
    (out / "overlay/1.png").write_bytes(whole["overlay/1.png"][:-8])
    (out / "index/2.png").write_bytes(b"")
    Image.fromarray(PICTURES["index"]).save(out / "color/3.png")
    assert skipped(predict(images)) == []
    assert {name: (out / name).read_bytes() for name in files(out)} == whole
    # pictures that are whole and marked, but of different calls
    (out / "color/3.png").write_bytes(whole["color/1.png"])
    assert skipped(predict(images)) == ["0.png", "1.png", "2.png"]


def test_a_runtime_that_does_not_say_what_it_is_made_of_skips_nothing(images: Path, tmp_path: Path) -> None:
    for _ in range(2):
        assert not skipped(predict_files(FakeRuntime(), [images], tmp_path / "out", skip_existing=True))


def test_failures_are_listed_in_a_file_of_their_own(images: Path) -> None:
    out = images.parent / "out"
    (images / "1.png").write_bytes(b"no image")
    odd = os.fsdecode(os.fsencode(images) + b"/\xff\xfe [red] \xc3\xbc.png")
    Path(odd).write_bytes(b"")
    assert len(predict(images).failed) == 2
    lines = (out / "failures.jsonl").read_bytes().decode("utf-8").splitlines()
    first, second = (json.loads(line) for line in lines)
    assert (first["image"], first["kind"]) == (str(images / "1.png"), "unreadable")
    assert str(images / "1.png") in first["reason"]
    assert second["image"] == f"{images}/\\xff\\xfe [red] ü.png"
    second["image"].encode()  # no half characters
    second["reason"].encode()
    (images / "1.png").unlink()
    predict(images)
    assert len((out / "failures.jsonl").read_text(encoding="utf-8").splitlines()) == 1
    Path(odd).unlink()
    predict(images)
    assert not (out / "failures.jsonl").exists()


def _predict_slowly(images: Path, weights: Path, out: Path) -> None:
    runtime = runtime_of(weights)

    def slow(array: np.ndarray) -> np.ndarray:
        time.sleep(0.01)
        return array[..., 0] % 4

    runtime.function = slow
    predict_files(runtime, [images], out)


def _forked(target, *arguments) -> multiprocessing.Process:
    process = multiprocessing.get_context("fork").Process(target=target, args=arguments)
    process.start()
    return process


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked here")
def test_after_a_kill_there_are_whole_pictures_only_and_the_next_call_goes_on(tmp_path: Path) -> None:
    images, out, weights = tmp_path / "in", tmp_path / "out", tmp_path / "weights"
    images.mkdir()
    weights.write_bytes(b"weights")
    noise = np.random.default_rng(0).integers(0, 255, (200, 300, 3), dtype=np.uint8)
    for number in range(40):
        Image.fromarray(noise).save(images / f"{number:02}.png", compress_level=0)
    process = _forked(_predict_slowly, images, weights, out)
    while process.is_alive() and not (out / "overlay/03.png").exists():
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    done = sorted(out.glob("*/*.png"))
    assert 12 <= len(done) < 120
    for path in done:
        Image.open(path).load()
    (out / ".predict.scratch" / ".index.0123456789ab.tmp").write_bytes(b"half a picture")
    runtime = runtime_of(weights)
    runtime.function = lambda array: array[..., 0] % 4
    result = predict_files(runtime, [images], out, skip_existing=True)
    assert len(result.images) == 40
    assert 4 <= len(skipped(result)) < 40
    assert len(files(out)) == 120, "nothing is left of the killed call"


def _hold(out: Path, ready, done) -> None:
    with open_output(out):
        ready.set()
        done.wait(60)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked here")
def test_a_second_writer_is_refused_with_the_name_of_the_first(images: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()
    process = _forked(_hold, images.parent / "out", ready, done)
    assert ready.wait(60)
    with pytest.raises(LockedError, match=f"out is being written by process {process.pid} on "):
        predict(images)
    done.set()
    process.join()
    assert len(predict(images).images) == 4


def test_an_error_or_an_interruption_leaves_neither_lock_nor_scratch(images: Path) -> None:
    runtime = runtime_of(images.parent / "weights")

    def interrupted(array: np.ndarray) -> np.ndarray:
        if array.max() == 2:
            raise KeyboardInterrupt
        return array[..., 0]

    runtime.function = interrupted
    out = images.parent / "out"
    with pytest.raises(KeyboardInterrupt):
        predict_files(runtime, [images], out)
    assert files(out) == [f"{kind}/{number}.png" for kind in ("color", "index", "overlay") for number in (0, 1)]
    assert skipped(predict(images)) == ["0.png", "1.png"]


def test_a_full_disk_ends_the_call_with_earlier_results_as_they_were(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict(images)
    out = images.parent / "out"
    before = {name: (out / name).read_bytes() for name in files(out)}
    save, saved = Image.Image.save, []

    def full(image: Image.Image, file: object, *arguments: object, **options: object) -> None:
        saved.append(image)
        if len(saved) == 5:  # the second picture of the second image
            raise OSError(28, "No space left on device")
        save(image, file, *arguments, **options)

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(WriteError, match="No space left on device") as raised:
        predict_files(runtime_of(images.parent / "weights"), [images], out, alpha=0.9)
    assert "1 of 4 images are done: --skip-existing" in raised.value.hint
    assert len(saved) == 5
    assert {name: (out / name).read_bytes() for name in files(out) if not name.endswith("/0.png")} == {
        name: content for name, content in before.items() if not name.endswith("/0.png")
    }


def test_a_folder_in_the_way_of_one_result_is_reported_for_that_image(images: Path) -> None:
    (images.parent / "out/color/1.png").mkdir(parents=True)
    (images.parent / "out/index").mkdir()
    result = predict(images)
    assert [(failed.image.name, failed.kind) for failed in result.failed] == [("1.png", "output")]
    assert "color/1.png" in result.failed[0].reason
    assert len(result.images) == 3
    assert not (images.parent / "out/index/1.png").exists()


def test_nothing_is_cleared_but_what_calls_before_have_left(tmp_path: Path) -> None:
    scratch = tmp_path / output_folder.SCRATCH
    scratch.mkdir()
    (scratch / ".index.0123456789ab.tmp").write_bytes(b"ours")
    (scratch / "thesis.txt").write_bytes(b"theirs")
    with open_output(tmp_path) as output:
        assert files(scratch) == ["thesis.txt"]
        output.write(Path("a/b.png"), PICTURES, MARK)
    assert files(scratch) == ["thesis.txt"]
    assert read_results([tmp_path / kind / "a/b.png" for kind in PICTURES]).mark == MARK


def test_an_output_folder_that_cannot_be_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for out in (tmp_path / "file", tmp_path / "file/below", tmp_path / ("x" * 300)):
        with pytest.raises(ProtosegError, match="cannot write"), open_output(out):
            pass
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / output_folder.SCRATCH).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="is a link"), open_output(tmp_path / "out"):
        pass
