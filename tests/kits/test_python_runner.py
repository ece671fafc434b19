"""The runner in Python gives the class maps of the package, without the package, and refuses what was changed."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from protoseg_deploy.bundles import Bundle
from protoseg_deploy.evaluation.prediction_plan import KINDS
from tests.data.image_files import write_png
from tests.kits.environment import bare_python
from tests.kits.expecting import assert_same_masks, predicted
from tests.kits.making import (
    PYTHON_RUNNER,
    TABLE,
    copied,
    hash_bundle,
    judge,
    pattern,
    with_weights_outside,
    write_other_pictures,
)

ABSENT = ("torch", "torchvision", "protoseg_deploy", "onnx", "scipy", "pydantic", "click", "ml_dtypes", "timm")
# A program: the runner, in an interpreter that cannot import what is named first, separated by commas.
BLOCKED = f"""
import runpy, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in names:
            raise ModuleNotFoundError("No module named " + repr(name), name=name)
names, sys.argv = set(sys.argv[1].split(",")), [{str(PYTHON_RUNNER)!r}, *sys.argv[2:]]
sys.meta_path.insert(0, Absent())
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def call(*words: object, python: str = sys.executable, absent: tuple[str, ...] = ABSENT) -> subprocess.CompletedProcess:
    """The runner as a program of its own, from a folder without the package."""
    command = [python, "-B", "-I", "-c", BLOCKED, ",".join(absent), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, cwd=os.sep, timeout=300)


def done(*words: object, **options: object) -> dict:
    """Its JSON document; it must not fail."""
    result = call(*words, "--json", "--threads", "1", **options)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def refused(*words: object, code: int = 1, **options: object) -> str:
    """What it says on standard error; it must fail, without a traceback, before it writes anything."""
    result = call(*words, **options)
    assert result.returncode == code, result.stderr
    assert re.search("^Error: |: error: ", result.stderr, re.M)
    assert "Traceback" not in result.stderr
    return result.stderr


def test_it_is_written_for_python_3_9() -> None:
    ast.parse(PYTHON_RUNNER.read_text(), feature_version=(3, 9))
    names = {
        (node.module if isinstance(node, ast.ImportFrom) else alias.name).partition(".")[0]
        for node in ast.walk(ast.parse(PYTHON_RUNNER.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert names - set(sys.stdlib_module_names) == {"numpy", "onnxruntime", "PIL"}


def test_every_kind_of_file_is_read_as_the_package_reads_it(hashing: Path, pictures: Path, tmp_path: Path) -> None:
    others = tmp_path / "others"
    write_other_pictures(others)
    expected = predicted(hashing, [pictures, others], tmp_path / "package")
    assert len({class_map.tobytes() for class_map in expected.values()}) > 30, "the pictures do not differ"
    document = done(hashing, pictures, others, "--out", tmp_path / "masks")
    assert_same_masks(document, expected)
    assert document["verified"] is None


@pytest.mark.parametrize("key", ["alpha", "exif"])
def test_what_the_manifest_says_of_reading_is_done(key: str, pictures: Path, tmp_path: Path) -> None:
    bundle = hash_bundle(tmp_path / "bundle", **{key: "ignore"})
    expected = predicted(bundle, [pictures], tmp_path / "package")
    plain = predicted(hash_bundle(tmp_path / "plain"), [pictures], tmp_path / "other")
    assert any(not np.array_equal(plain[name], expected[name]) for name in plain), "the key changes nothing"
    assert_same_masks(done(bundle, pictures, "--out", tmp_path / "masks"), expected)


@pytest.mark.parametrize("reading", [{"bands": [1]}, {"value_range": [0.0, 100.0]}])
def test_a_reading_that_is_not_implemented_is_refused(reading: dict, tmp_path: Path) -> None:
    bundle = hash_bundle(tmp_path / "bundle", **reading)
    image = pattern(8, 9)
    Image.fromarray(image).save(tmp_path / "x.png")
    assert next(iter(reading)) in refused(bundle, tmp_path / "x.png", "--out", tmp_path / "masks")
    assert not (tmp_path / "masks").exists()
    np.save(tmp_path / "x.npy", image)  # whoever passes arrays has read them
    document = done(bundle, tmp_path / "x.npy", "--out", tmp_path / "masks")
    assert_same_masks(document, {"x.npy": (image.astype(int) @ [3, 5, 7] % 256).astype(np.uint8)})


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_class_maps_of_a_network_are_those_of_the_package(precision, bundles, pictures, tmp_path) -> None:
    expected = predicted(bundles / "any", [pictures], tmp_path / "package", precision)
    assert len(np.unique(np.concatenate([one.ravel() for one in expected.values()]))) > 1
    document = done(bundles / "any", pictures, "--out", tmp_path / "masks", "--precision", precision)
    assert_same_masks(document, expected)
    with Image.open(document["images"][0]["mask"]) as mask:
        assert mask.mode == "P"
        assert np.array(mask.getpalette()).reshape(-1, 3)[:4].tolist() == [list(color) for color in TABLE.colors]
        assert document["sha256"] in mask.text["protoseg-runner"]


@pytest.mark.parametrize(
    ("size", "tile", "overlap"), [((37, 50), None, None), ((90, 121), 30, 7), ((33, 8), 32, 8), ((20, 21), 64, 3)]
)
@pytest.mark.parametrize("name", ["any", "fixed"])
def test_tiles_are_those_of_the_package(name, size, tile, overlap, bundles, tmp_path) -> None:
    Image.fromarray(pattern(*size)).save(tmp_path / "x.png")
    tiles = {} if name == "fixed" or tile is None else {"tile": (tile, tile), "overlap": overlap}
    expected = predicted(bundles / name, [tmp_path / "x.png"], tmp_path / "package", **tiles, batch=3)
    assert len(np.unique(next(iter(expected.values())))) > 1
    words = ["--tile", tile, "--overlap", overlap] if tiles else []
    document = done(bundles / name, tmp_path / "x.png", "--out", tmp_path / "masks", *words, "--batch", 3)
    assert_same_masks(document, expected)


def test_arrays_need_no_pillow(bundles: Path, tmp_path: Path) -> None:
    Image.fromarray(pattern(30, 44)).save(tmp_path / "x.png")
    np.save(tmp_path / "x.npy", pattern(30, 44))
    absent = (*ABSENT, "PIL")
    document = done(bundles / "any", tmp_path / "x.npy", "--out", tmp_path / "masks", absent=absent)
    expected = predicted(bundles / "any", [tmp_path / "x.png"], tmp_path / "package")
    assert_same_masks(document, {"x.npy": expected["x.png"]})
    assert "Pillow is needed" in refused(bundles / "any", tmp_path / "x.png", "--out", tmp_path / "m", absent=absent)


def test_an_environment_of_its_own(bundles: Path, pictures: Path, tmp_path: Path) -> None:
    """NumPy, ONNX Runtime and Pillow are all that is installed."""
    python = bare_python()
    listed = subprocess.run([python, "-I", "-c", "import torch"], capture_output=True, text=True)
    assert "No module named 'torch'" in listed.stderr
    for precision in ("fp32", "int8"):
        expected = predicted(bundles / "any", [pictures], tmp_path / precision, precision)
        words = [bundles / "any", pictures, "--out", tmp_path / f"masks-{precision}", "--precision", precision]
        assert_same_masks(done(*words, python=python, absent=("none",)), expected)


def test_as_a_module(bundles: Path, tmp_path: Path) -> None:
    images = np.stack([pattern(24, 32, seed) for seed in range(3)])
    np.save(tmp_path / "images.npy", images)
    program = (
        f"import sys; sys.path.insert(0, {str(PYTHON_RUNNER.parent)!r})\n"
        "import numpy as np\nfrom protoseg_runner import RunnerError, Segmenter\n"
        f"segmenter = Segmenter({str(bundles / 'any')!r}, threads=1)\n"
        f"np.save({str(tmp_path / 'found.npy')!r}, segmenter.predict(np.load({str(tmp_path / 'images.npy')!r})))\n"
        "for wrong in (np.zeros((2, 2, 3), np.uint8), np.zeros((1, 2, 2, 3)), np.zeros((1, 0, 2, 3), np.uint8)):\n"
        "    try:\n        segmenter.predict(wrong)\n    except RunnerError as error:\n        print(error)\n"
    )
    result = subprocess.run([sys.executable, "-B", "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("images are uint8 RGB [B,H,W,3]") == 3
    from protoseg_deploy.runtimes import OnnxRuntime

    expected = OnnxRuntime(bundles / "any", device="cpu", threads=1).predict(images)
    np.testing.assert_array_equal(np.load(tmp_path / "found.npy"), expected)


def test_changed_files_are_refused(bundles: Path, tmp_path: Path) -> None:
    def spoilt(name: str, spoil) -> Path:
        bundle = copied(bundles / "any", tmp_path / name)
        spoil(bundle / "model.onnx")
        return bundle

    def flip(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)

    assert "its SHA-256 differs" in refused(spoilt("flipped", flip))
    assert "bytes instead of" in refused(spoilt("cut", lambda path: path.write_bytes(path.read_bytes()[:-1])))
    assert "is missing" in refused(spoilt("missing", Path.unlink))

    def outside(path: Path) -> None:
        path.rename(tmp_path / "elsewhere.onnx")
        path.symlink_to(tmp_path / "elsewhere.onnx")

    assert "link to a file outside" in refused(spoilt("linked", outside))
    done(spoilt("whole", lambda path: None))  # what is compared with was right
    int8_only = spoilt("other", flip)  # a file that is not used is not read
    done(int8_only, "--precision", "int8")


@pytest.mark.parametrize(
    ("change", "message", "code"),
    [
        (lambda m: m.update(format=3), "format 3", 1),
        (lambda m: m.pop("classes"), "is damaged", 1),
        (lambda m: m["input"].update(color="BGR"), "is damaged", 1),
        (lambda m: m["classes"].update(colors=[[1, 2]]), "is damaged", 1),
        (lambda m: m["graphs"]["fp32"].update(file="../x", files=["../x"]), "lists no file '../x'", 1),
        (lambda m: m["graphs"].pop("fp32"), "has no fp32 graph", 2),
        (lambda m: m["input"]["reading"].update(gamma=2), "gamma = 2", 1),
    ],
)
def test_manifests_that_cannot_be_followed_are_refused(change, message, code, bundles, tmp_path) -> None:
    bundle = copied(bundles / "any", tmp_path / "bundle", change)
    Image.fromarray(pattern(8, 9)).save(tmp_path / "x.png")
    assert message in refused(bundle, tmp_path / "x.png", "--out", tmp_path / "out", code=code)
    assert not (tmp_path / "out").exists()


def test_folders_that_are_no_bundles_and_command_lines_that_cannot_be(bundles: Path, tmp_path: Path) -> None:
    assert "has no manifest.json" in refused(tmp_path, code=2)
    (tmp_path / "manifest.json").write_text("{")
    assert "cannot be read" in refused(tmp_path)
    any_size = bundles / "any"
    assert "is not a bundle" in refused(any_size / "model.onnx" / "x", code=2)
    assert "no such file" in refused(any_size, tmp_path / "none", "--out", tmp_path / "out", code=2)
    assert "belong together" in refused(any_size, tmp_path, code=2)
    assert "has no fp16 graph" in refused(any_size, "--precision", "fp16", code=2)
    assert "starts at 1" in refused(any_size, "--bench", "0", code=2)
    assert "no size" in refused(any_size, "--size", "1x2x3", code=2)


def test_verdicts_are_respected(bundles: Path, tmp_path: Path) -> None:
    passed = judge(copied(bundles / "any", tmp_path / "passed"), "passed", "passed")
    assert done(passed, "--precision", "int8")["verified"] is True
    unjudged = call(bundles / "any")
    assert (unjudged.returncode, "is not verified" in unjudged.stderr) == (0, True)
    assert call(passed).stderr == ""

    failed = judge(copied(bundles / "any", tmp_path / "failed"), "failed", "passed")
    for precision in ("fp32", "int8"):  # int8 was made from a graph that failed
        assert "failed verification: refused" in refused(failed, "--precision", precision)
        allowed = call(failed, "--precision", precision, "--allow-unverified", "--json")
        assert json.loads(allowed.stdout)["verified"] is False
        assert "failed verification" in allowed.stderr

    def about_another_file(manifest: dict) -> None:
        manifest["verification"]["stages"][0]["artefact_sha256"] = "1" * 64

    assert done(copied(passed, tmp_path / "other", about_another_file))["verified"] is None
    untested = judge(copied(bundles / "any", tmp_path / "untested"), "not run", "passed")
    assert done(untested, "--precision", "int8")["verified"] is None


def test_low_precision_on_a_cpu_is_refused(bundles: Path, tmp_path: Path) -> None:
    """The package emulates its rounding; ONNX Runtime alone does not."""

    def rename(manifest: dict) -> None:
        manifest["graphs"]["fp16"] = manifest["graphs"].pop("fp32")

    bundle = copied(bundles / "any", tmp_path / "bundle", rename)
    assert "fp16: ONNX Runtime computes it on a CPU" in refused(bundle, "--precision", "fp16")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_provider_that_cannot_be_had_is_an_error(provider: str, bundles: Path) -> None:
    result = call(bundles / "any", "--provider", provider, "--json")
    assert result.returncode in (1, 2)
    assert "ExecutionProvider" in result.stderr.rpartition("Error: ")[2]
    assert result.stdout == ""


def test_nothing_but_earlier_masks_is_overwritten(bundles: Path, tmp_path: Path) -> None:
    any_size, photos = bundles / "any", tmp_path / "photos"
    photos.mkdir()
    Image.fromarray(pattern(20, 30)).save(photos / "a.png")
    content = (photos / "a.png").read_bytes()
    assert "--out is the folder of images" in refused(any_size, photos, "--out", photos, code=2)
    assert "not a mask of an earlier call" in refused(any_size, photos / "a.png", "--out", photos, code=2)
    assert (photos / "a.png").read_bytes() == content
    masks = photos / "masks"
    first = done(any_size, photos, "--out", masks)
    again = done(any_size, photos, "--out", masks)  # masks of the first call are no images
    assert first["images"] == again["images"]
    assert [path.name for path in masks.iterdir()] == ["a.png"]
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "a.png").write_bytes(content)
    refused(any_size, photos / "a.png", "--out", mine, code=2)
    mask = masks / "a.png"  # a mask of an earlier call, as an input
    assert "not a mask of an earlier call" in refused(any_size, mask, "--out", masks, code=2)
    assert "lies in the bundle" in refused(any_size, photos / "a.png", "--out", any_size / "x", code=2)


def test_one_bad_image_does_not_stop_the_others(bundles: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    (photos / "deep").mkdir(parents=True)
    Image.fromarray(pattern(20, 30)).save(photos / "deep/a.png")
    Image.fromarray(pattern(20, 30)).save(photos / "deep/a.jpg")
    Image.fromarray(pattern(20, 30)).save(photos / "b.tif")
    (photos / "c.jpg").write_bytes((photos / "deep/a.jpg").read_bytes()[:700])
    np.save(photos / "d.npy", np.zeros((3, 4), np.uint8))
    write_png(photos / "e.png", (2**15, 2**15, 8, 0), b"")  # a header that claims a gigapixel
    (photos / "notes.txt").write_text("no image")
    (photos / "f.png").symlink_to(photos / "gone.png")
    result = call(bundles / "any", photos, "--out", tmp_path / "masks", "--json")
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    document = json.loads(result.stdout)
    assert sorted(Path(one["image"]).name for one in document["failed"]) == [
        "b.tif",
        "c.jpg",
        "d.npy",
        "e.png",
        "f.png",
    ]
    written = sorted(path.relative_to(tmp_path / "masks").as_posix() for path in (tmp_path / "masks").rglob("*.*"))
    assert written == ["deep/a.jpg.png", "deep/a.png.png"]
    assert not set(KINDS) & {path.name for path in (tmp_path / "masks").iterdir()}
    assert all(sum(one["class_pixels"].values()) == 600 for one in document["images"])


def test_weights_in_a_file_of_their_own(bundles: Path, tmp_path: Path) -> None:
    bundle = with_weights_outside(bundles / "any", tmp_path / "bundle")
    Image.fromarray(pattern(40, 50)).save(tmp_path / "x.ppm")
    document = done(bundle, tmp_path / "x.ppm", "--out", tmp_path / "masks")
    assert_same_masks(document, predicted(bundle, [tmp_path / "x.ppm"], tmp_path / "package"))
    assert document["sha256"] == Bundle.open(bundle).manifest.digest_of("model.onnx")
    with (bundle / "model.onnx.data").open("r+b") as file:
        file.write(b"x")
    assert "model.onnx.data is not the file" in refused(bundle)


def test_latency(bundles: Path) -> None:
    bench = done(bundles / "any", "--bench", 3, "--size", "32x48", "--batch", 2)["bench"]
    assert (bench["calls"], bench["batch"], bench["size"]) == (3, 2, [32, 48])
    assert 0 < bench["median_ms"] <= bench["p99_ms"]
    text = call(bundles / "fixed", "--bench", 2).stdout
    assert re.search(r"1x40x56, 2 calls: median \d+\.\d\d ms, p99 \d+\.\d\d ms", text)
