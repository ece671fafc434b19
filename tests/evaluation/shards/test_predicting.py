"""What a sharded prediction leaves in its folder, and how it goes on."""

import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from onnx import TensorProto, helper
from PIL import Image

from protoseg_deploy.errors import ProtosegError, UsageError
from protoseg_deploy.evaluation.shards import begun
from protoseg_deploy.evaluation.shards.predicting import Workforce
from tests.evaluation.shards.conftest import Predict, everything, expected, write_images
from tests.runtimes.small_graphs import make_graph, metadata, tensor, write


def rows(out: Path) -> list[dict]:
    return [row for file in sorted((out / "results").iterdir()) for row in pq.read_table(file).to_pylist()]


def test_every_image_has_a_palette_mask_and_a_row(predict: Predict, images: Path, graph: Path, tmp_path: Path) -> None:
    result = predict(images, tmp_path / "out", shards=5)
    assert (result.images, result.failed, result.plan.shards, result.resumed) == (12, 0, 5, 0)
    files = sorted((tmp_path / "out/results").iterdir())
    assert [file.name for file in files] == [f"shard-{number:05}.parquet" for number in range(5)]
    assert sorted(pq.read_metadata(file).num_rows for file in files) == [2, 2, 2, 3, 3]
    found = rows(tmp_path / "out")
    assert [row["image"] for row in found] == [str(path) for path in sorted(images.rglob("*.png"))]
    colors = metadata().classes.colors
    for row in found:
        truth = expected(Path(row["image"]))
        mask = Image.open(tmp_path / "out" / row["mask"])
        assert row["mask"] == f"index/{Path(row['image']).relative_to(images).as_posix()}"
        assert mask.mode == "P"
        np.testing.assert_array_equal(np.asarray(mask), truth)
        np.testing.assert_array_equal(np.asarray(mask.convert("RGB")), np.array(colors, np.uint8)[truth])
        assert (row["height"], row["width"]) == truth.shape
        assert row["class_pixels"] == np.bincount(truth.ravel(), minlength=3).tolist()
        assert (row["status"], row["kind"], row["reason"]) == ("ok", None, None)
    assert result.class_pixels == np.sum([row["class_pixels"] for row in found], axis=0).tolist()
    assert {row["artefact_sha256"] for row in found} == {found[0]["artefact_sha256"]}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "index",
        "plan.json",
        "plan.parquet",
        "results",
    ]


def test_fifteen_bad_images_of_two_thousand_are_rows_with_reasons(predict: Predict, tmp_path: Path) -> None:
    write_images(tmp_path / "in", 2000, side=4)
    paths = sorted((tmp_path / "in").rglob("*.png"))
    bad = paths[::140]
    for number, path in enumerate(bad):
        path.write_bytes(path.read_bytes()[: 40 + number] if number % 2 else b"no image")
    result = predict(tmp_path / "in", tmp_path / "out", shards=7)
    assert (len(bad), result.images, result.failed) == (15, 1985, 15)
    assert len([*(tmp_path / "out/index").rglob("*.png")]) == 1985
    found = rows(tmp_path / "out")
    assert len(found) == 2000
    failed = [row for row in found if row["status"] == "failed"]
    assert [row["image"] for row in failed] == [str(path) for path in bad]
    for row in failed:
        assert row["kind"] == "unreadable"
        assert row["reason"].startswith(f"{row['image']}: ")
        assert row["mask"] is row["height"] is row["class_pixels"] is None
    assert result.failures == [row["reason"] for row in failed]


class Stopped(Exception):
    pass


def stop_at(images: int):
    def progress(done: int, total: int) -> None:
        if done == images:
            raise Stopped

    return progress


@pytest.mark.parametrize("pack", [False, True])
def test_a_stopped_prediction_goes_on_and_ends_byte_equal(
    predict: Predict, images: Path, tmp_path: Path, pack: bool
) -> None:
    predict(images, tmp_path / "whole", shards=6, pack=pack)
    with pytest.raises(Stopped):
        predict(images, tmp_path / "out", shards=6, pack=pack, progress=stop_at(7))
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/results").iterdir()}
    assert len(done) == 3
    seen: list[tuple[int, int]] = []
    result = predict(images, tmp_path / "out", shards=6, pack=pack, progress=lambda *numbers: seen.append(numbers))
    assert (result.resumed, result.images) == (3, 12)
    assert seen[-1] == (6, 6)
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert everything(tmp_path / "out") == everything(tmp_path / "whole")


def test_a_finished_prediction_is_only_counted_again(predict: Predict, images: Path, tmp_path: Path) -> None:
    (images / "0/0003.png").write_bytes(b"no image")
    first = predict(images, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if path.is_file()}
    again = predict(images, tmp_path / "out")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if path.is_file()} == before
    assert again.resumed == again.plan.shards
    assert (again.images, again.failed, again.failures, again.class_pixels) == (
        *(first.images, first.failed, first.failures, first.class_pixels),
    )


def test_another_artefact_other_images_or_options_are_refused(
    predict: Predict, images: Path, other_graph: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    predict(images, out, shards=4)
    before = everything(out)
    for said, options in (
        ("artefact: ", {"runtime": other_graph}),
        ("number of shards: 4 then, 3 now", {"shards": 3}),
        ("--pack: no then, yes now", {"shards": 4, "pack": True}),
        ("--tile: none then, (4, 4) now", {"shards": 4, "tile": (4, 4)}),
    ):
        with pytest.raises(UsageError, match="begun with other values") as caught:
            predict(images, out, **{"shards": 4, **options})
        assert said in caught.value.message
    (images / "0/0000.png").rename(images / "0/moved.png")
    with pytest.raises(UsageError, match="images: "):
        predict(images, out, shards=4)
    (images / "0/moved.png").unlink()
    with pytest.raises(UsageError, match="number of images: 12 then, 11 now"):
        predict(images, out, shards=4)
    assert everything(out) == before


def test_an_image_with_other_content_is_the_same_image(predict: Predict, images: Path, tmp_path: Path) -> None:
    """Its row says which content was predicted; images are not read again to find out."""
    predict(images, tmp_path / "out")
    write_images(images, 1, side=20)
    assert predict(images, tmp_path / "out").resumed == predict(images, tmp_path / "out").plan.shards


def test_a_folder_that_holds_something_else_is_left_alone(predict: Predict, images: Path, tmp_path: Path) -> None:
    for out in (images, images / "0", tmp_path):
        before = everything(tmp_path)
        with pytest.raises(UsageError, match="is not empty"):
            predict(images, out)
        assert everything(tmp_path) == before


def test_results_below_the_images_are_no_images(predict: Predict, images: Path, tmp_path: Path) -> None:
    out = images / "predicted"
    assert predict(images, out).images == 12
    assert predict(images, out).resumed == predict(images, out).plan.shards


def test_a_killed_begin_is_begun_again(predict: Predict, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / ".predict.scratch").mkdir(parents=True)
    (out / ".predict.scratch/.0000.png.0123456789ab.tmp").write_bytes(b"torn")
    (out / "plan.parquet").write_bytes(b"torn")
    predict(images, out)
    predict(images, tmp_path / "whole")
    assert everything(out) == everything(tmp_path / "whole")


@pytest.mark.parametrize("content", [None, b"", b"torn", b"PAR1" * 9])
def test_a_plan_that_is_gone_or_damaged_is_written_again(
    predict: Predict, images: Path, tmp_path: Path, content: bytes | None
) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    predict(images, whole)
    shutil.copytree(whole, out)
    (out / "results/shard-00000.parquet").unlink()
    (out / "plan.parquet").unlink()
    if content is not None:
        (out / "plan.parquet").write_bytes(content)
    predict(images, out)
    assert everything(out) == everything(whole)


def test_a_plan_that_a_machine_reads_otherwise_is_named(
    predict: Predict, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(begun, "write_table", lambda store, plan: store.write("plan.parquet", b"torn"))
    with pytest.raises(UsageError, match=r"plan\.parquet cannot be read here") as caught:
        predict(images, tmp_path / "out")
    assert "repeat the command" in caught.value.hint


def test_the_file_of_another_prediction_is_not_counted(predict: Predict, images: Path, tmp_path: Path) -> None:
    predict(images / "0", tmp_path / "other", shards=2)
    predict(images, tmp_path / "out", shards=2)
    target = tmp_path / "out/results/shard-00001.parquet"
    target.write_bytes((tmp_path / "other/results/shard-00001.parquet").read_bytes())
    with pytest.raises(ProtosegError, match="another prediction"):
        predict(images, tmp_path / "out", shards=2)
    target.write_bytes(target.read_bytes()[:-9])
    with pytest.raises(ProtosegError, match="parquet is damaged"):
        predict(images, tmp_path / "out", shards=2)


def test_packed_masks_are_those_of_the_folder(predict: Predict, images: Path, tmp_path: Path) -> None:
    write_images(images / "v1.0", 1)
    (images / "v1.0/0/0000.png").rename(images / "v1.0/0/a.b.png")
    predict(images, tmp_path / "plain", shards=3)
    predict(images, tmp_path / "packed", shards=3, pack=True)
    assert not (tmp_path / "packed/index").exists()
    for plain, packed in zip(rows(tmp_path / "plain"), rows(tmp_path / "packed"), strict=True):
        with tarfile.open(tmp_path / "packed" / packed["mask"]) as archive:
            member = archive.getmember(packed["member"])
            content = archive.extractfile(packed["member"]).read()
        assert content == (tmp_path / "plain" / plain["mask"]).read_bytes()
        assert (member.mtime, member.uid, member.gid, member.uname, member.gname) == (0, 0, 0, "", "")
        assert packed["member"].rpartition("/")[2].count(".") == 1, "WebDataset: a sample is named up to the first dot"
    names = [row["member"] for row in rows(tmp_path / "packed")]
    assert "v1.0/0/a_b.png" in names
    assert len(set(names)) == 13
    for number in range(3):
        with tarfile.open(tmp_path / f"packed/masks/shard-{number:05}.tar") as archive:
            assert archive.getnames() == [
                row["member"] for row in rows(tmp_path / "packed") if f"{number:05}" in row["mask"]
            ]


def test_more_than_256_classes_are_16_bit(images: Path, predict: Predict, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gather", ["images", "red"], ["reds"], axis=3),
        helper.make_node("Cast", ["reds"], ["wide"], to=TensorProto.INT32),
        helper.make_node("Add", ["wide", "offset"], ["class_map"]),
    ]
    many = make_graph(
        nodes,
        outputs=(tensor("class_map", TensorProto.INT32, ("n", "h", "w")),),
        weights={"offset": np.array(300, np.int32)},
        said=metadata(600),
    )
    predict(images, tmp_path / "out", runtime=write(tmp_path / "many.onnx", many))
    for image in images.rglob("*.png"):
        mask = Image.open(tmp_path / "out/index" / image.relative_to(images))
        assert mask.mode == "I;16"
        np.testing.assert_array_equal(np.asarray(mask), np.asarray(Image.open(image))[..., 0].astype(int) + 300)


def test_tiles_give_the_same_masks(predict: Predict, images: Path, tmp_path: Path) -> None:
    predict(images, tmp_path / "whole")
    predict(images, tmp_path / "tiles", tile=(4, 5), overlap=1, batch=2)
    assert everything(tmp_path / "tiles/index") == everything(tmp_path / "whole/index")


def test_a_mask_that_cannot_have_its_name_is_a_failed_row(predict: Predict, images: Path, tmp_path: Path) -> None:
    (tmp_path / "long").mkdir()
    with pytest.raises(Stopped):
        predict(images, tmp_path / "out", shards=12, progress=stop_at(1))
    (tmp_path / "out/index/0/0005.png").mkdir()
    result = predict(images, tmp_path / "out", shards=12)
    assert (result.images, result.failed) == (11, 1)
    (failed,) = [row for row in rows(tmp_path / "out") if row["status"] == "failed"]
    assert failed["kind"] == "output"
    assert "0005.png" in failed["reason"]


def test_two_cannot_write_one_folder(predict: Predict, images: Path, tmp_path: Path) -> None:
    def inner(done: int, total: int) -> None:
        with pytest.raises(UsageError, match="is being written"):
            predict(images, tmp_path / "out")

    predict(images, tmp_path / "out", progress=inner)


@pytest.mark.skipif(os.name == "nt", reason="names on Windows are text")
def test_names_that_are_no_text_survive(predict: Predict, images: Path, tmp_path: Path) -> None:
    odd = os.fsdecode(b"\xff\xfe.png")
    (images / "0/0000.png").rename(images / odd)
    assert predict(images, tmp_path / "out").images == 12
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out/index" / odd)), expected(images / odd))
    assert f"{images}/\\xff\\xfe.png" in [row["image"] for row in rows(tmp_path / "out")]


def test_workforces_that_cannot_be_are_refused(predict: Predict, images: Path, tmp_path: Path) -> None:
    for workforce, said in (
        (Workforce(engine="ray", workers=0), "--workers 0"),
        (Workforce(address="auto"), "--address"),
    ):
        with pytest.raises(UsageError, match=said):
            predict(images, tmp_path / "out", workforce=workforce)
