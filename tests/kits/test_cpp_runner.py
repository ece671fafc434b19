"""The runner in C++ gives the class maps of the package, and refuses what was changed."""

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from protoseg_deploy.bundles import Bundle
from tests.kits.environment import cpp_runner
from tests.kits.expecting import assert_same_masks, predicted
from tests.kits.making import TABLE, copied, hash_bundle, judge, pattern, with_weights_outside


@pytest.fixture(scope="module")
def call() -> Callable[..., subprocess.CompletedProcess]:
    program = cpp_runner()

    def call(*words: object) -> subprocess.CompletedProcess:
        command = [str(program), *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, cwd=os.sep, timeout=300)

    return call


def done(call, *words: object) -> dict:
    result = call(*words, "--json", "--threads", "1")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def refused(call, *words: object, code: int = 1) -> str:
    result = call(*words)
    assert result.returncode == code, result.stderr
    assert re.search("^Error: ", result.stderr, re.M)
    return result.stderr


@pytest.mark.parametrize("reading", [{}, {"alpha": "ignore"}, {"exif": "ignore"}], ids=str)
def test_every_kind_of_file_is_read_as_the_package_reads_it(call, reading, pictures, tmp_path) -> None:
    bundle = hash_bundle(tmp_path / "bundle", **reading)
    expected = predicted(bundle, [pictures], tmp_path / "package")
    assert len(expected) > 30
    document = done(call, bundle, pictures, "--out", tmp_path / "masks")
    if any(Path(one["mask"]).suffix == ".pgm" for one in document["images"]):
        pytest.skip("built without libpng")
    assert_same_masks(document, expected)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_class_maps_of_a_network_are_those_of_the_package(call, precision, bundles, pictures, tmp_path) -> None:
    expected = predicted(bundles / "any", [pictures / "rgb.ppm", pictures / "grey.pgm"], tmp_path / "out", precision)
    assert len(np.unique(expected["rgb.ppm"])) > 1
    words = [pictures / "rgb.ppm", pictures / "grey.pgm", "--precision", precision, "--out", tmp_path / "masks"]
    document = done(call, bundles / "any", *words)
    assert_same_masks(document, expected)
    with Image.open(document["images"][0]["mask"]) as mask:
        if mask.format == "PNG":
            assert np.array(mask.getpalette()).reshape(-1, 3)[:4].tolist() == [list(color) for color in TABLE.colors]
            assert mask.text["protoseg-runner"] == document["sha256"]


@pytest.mark.parametrize(
    ("size", "tile", "overlap"), [((37, 50), None, None), ((90, 121), 30, 7), ((33, 8), 32, 8), ((20, 21), 64, 3)]
)
@pytest.mark.parametrize("name", ["any", "fixed"])
def test_tiles_are_those_of_the_package(call, name, size, tile, overlap, bundles, tmp_path) -> None:
    Image.fromarray(pattern(*size)).save(tmp_path / "x.ppm")
    tiles = {} if name == "fixed" or tile is None else {"tile": (tile, tile), "overlap": overlap}
    expected = predicted(bundles / name, [tmp_path / "x.ppm"], tmp_path / "package", **tiles, batch=3)
    assert len(np.unique(next(iter(expected.values())))) > 1
    words = ["--tile", tile, "--overlap", overlap] if tiles else []
    document = done(call, bundles / name, tmp_path / "x.ppm", "--out", tmp_path / "masks", *words, "--batch", 3)
    assert_same_masks(document, expected)


def test_digests_and_verdicts_are_respected(call, bundles: Path, tmp_path: Path) -> None:
    passed = judge(copied(bundles / "any", tmp_path / "passed"), "passed", "passed")
    document = done(call, passed, "--precision", "int8")
    assert document["verified"] is True
    manifest = json.loads((passed / "manifest.json").read_text())
    assert document["sha256"] == manifest["files"]["model.int8.onnx"]["sha256"]
    assert done(call, bundles / "any")["verified"] is None
    failed = judge(copied(bundles / "any", tmp_path / "failed"), "failed", "passed")
    for precision in ("fp32", "int8"):
        assert "failed verification: refused" in refused(call, failed, "--precision", precision)
        assert done(call, failed, "--precision", precision, "--allow-unverified")["verified"] is False
    untested = judge(copied(bundles / "any", tmp_path / "untested"), "not run", "passed")
    assert done(call, untested, "--precision", "int8")["verified"] is None

    def about_another_file(manifest: dict) -> None:
        manifest["verification"]["stages"][0]["against_sha256"] = "1" * 64

    assert done(call, copied(passed, tmp_path / "other", about_another_file))["verified"] is None
    content = bytearray((passed / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (passed / "model.onnx").write_bytes(content)
    assert "its SHA-256 differs" in refused(call, passed)
    (passed / "model.onnx").write_bytes(content[:-1])
    assert "bytes instead of" in refused(call, passed)
    (passed / "model.onnx").unlink()
    assert "is missing" in refused(call, passed)
    (passed / "model.onnx").symlink_to(bundles / "any" / "model.onnx")
    assert "link to a file outside" in refused(call, passed)


@pytest.mark.parametrize(
    ("change", "message", "code"),
    [
        (lambda m: m.update(format=3), "another format", 1),
        (lambda m: m.pop("classes"), "is damaged", 1),
        (lambda m: m["input"].update(color="BGR"), "is not uint8 NHWC RGB", 1),
        (lambda m: m["graphs"]["fp32"].update(file="../x", files=["../x"]), "lists no file ../x", 1),
        (lambda m: m["graphs"].pop("fp32"), "has no fp32 graph", 2),
        (lambda m: m["input"]["reading"].update(bands=[1]), "bands = [1]", 1),
    ],
)
def test_manifests_that_cannot_be_followed_are_refused(call, change, message, code, bundles, tmp_path) -> None:
    bundle = copied(bundles / "any", tmp_path / "bundle", change)
    Image.fromarray(pattern(8, 9)).save(tmp_path / "x.ppm")
    assert message in refused(call, bundle, tmp_path / "x.ppm", "--out", tmp_path / "out", code=code)
    assert not (tmp_path / "out").exists()


def test_nothing_but_earlier_masks_is_overwritten(call, bundles: Path, tmp_path: Path) -> None:
    photos, mine = tmp_path / "photos", tmp_path / "mine"
    photos.mkdir()
    mine.mkdir()
    Image.fromarray(pattern(20, 30)).save(photos / "a.ppm")
    (photos / "b.ppm").write_bytes((photos / "a.ppm").read_bytes()[:-1])
    first = call(bundles / "any", photos, "--out", photos / "masks", "--json")
    assert first.returncode == 1
    document = json.loads(first.stdout)
    assert [Path(one["image"]).name for one in document["failed"]] == ["b.ppm"]
    mask = Path(document["images"][0]["mask"])
    (photos / "b.ppm").unlink()
    assert done(call, bundles / "any", photos, "--out", photos / "masks")["images"] == document["images"]
    (mine / mask.name).write_bytes(b"mine")
    assert "not a mask of an earlier call" in refused(call, bundles / "any", photos, "--out", mine, code=2)
    assert (mine / mask.name).read_bytes() == b"mine"
    assert "is the folder of images" in refused(call, bundles / "any", photos, "--out", photos, code=2)
    assert "lies in the bundle" in refused(call, bundles / "any", photos, "--out", bundles / "any" / "x", code=2)


def test_command_lines_that_cannot_be_are_refused(call, bundles: Path, tmp_path: Path) -> None:
    for words, message in [
        ([], "BUNDLE is missing"),
        ([tmp_path], "has no manifest.json"),
        ([bundles / "any", "--bench", "0"], "is not a whole number of at least 1"),
        ([bundles / "any", "--size", "1x"], "is not a whole number"),
        ([bundles / "any", "--nonsense"], "no option --nonsense"),
        ([bundles / "any", "--out"], "needs a value"),
        ([bundles / "any", tmp_path], "belong together"),
        ([bundles / "any", tmp_path / "none", "--out", tmp_path / "x"], "no such file"),
    ]:
        assert message in refused(call, *words, code=2)
    assert call("--help").returncode == 0


def test_weights_in_a_file_of_their_own(call, bundles: Path, tmp_path: Path) -> None:
    bundle = with_weights_outside(bundles / "any", tmp_path / "bundle")
    Image.fromarray(pattern(40, 50)).save(tmp_path / "x.ppm")
    document = done(call, bundle, tmp_path / "x.ppm", "--out", tmp_path / "masks")
    assert_same_masks(document, predicted(bundle, [tmp_path / "x.ppm"], tmp_path / "package"))
    assert document["sha256"] == Bundle.open(bundle).manifest.digest_of("model.onnx")
    with (bundle / "model.onnx.data").open("r+b") as file:
        file.write(b"x")
    assert "model.onnx.data is not the file" in refused(call, bundle)


def test_latency(call, bundles: Path) -> None:
    bench = done(call, bundles / "any", "--bench", 3, "--size", "32x48", "--batch", 2)["bench"]
    assert (bench["calls"], bench["batch"], bench["size"]) == (3, 2, [32, 48])
    assert 0 < bench["median_ms"] <= bench["p99_ms"]
