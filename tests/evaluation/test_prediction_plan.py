"""Which results would harm a file of the user: refused before anything is written."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from protoseg_deploy.errors import UsageError
from protoseg_deploy.evaluation.prediction import predict_files
from protoseg_deploy.evaluation.prediction_plan import find_inputs, name_outputs
from tests.fake_runtime import FakeRuntime


def write_image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 5, 3), 2, np.uint8)).save(path)
    return path


def everything(folder: Path) -> dict[str, bytes | None]:
    """What lies below a folder: files with their content, links with what they name."""
    return {
        str(path.relative_to(folder)): os.fsencode(path.readlink())
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else None
        for path in folder.rglob("*")
    }


def same_folder(root: Path) -> list[Path]:
    write_image(root / "out/index/a.png")
    return [root / "out/index"]


def file_named_directly(root: Path) -> list[Path]:
    return [write_image(root / "out/overlay/a.png")]


def file_deeper_among_results(root: Path) -> list[Path]:
    return [write_image(root / "out/index/deep/a.png")]


def folder_deeper_among_results(root: Path) -> list[Path]:
    return [write_image(root / "out/color/deep/a.png").parent]


def folder_among_results_by_a_link(root: Path) -> list[Path]:
    write_image(root / "out/index/deep/a.png")
    (root / "in").symlink_to(root / "out/index/deep")
    return [root / "in"]


def file_by_a_link(root: Path) -> list[Path]:
    """The image in the folder is a link to a file that a result would replace."""
    write_image(root / "out/index/a.png")
    (root / "in").mkdir()
    (root / "in/a.png").symlink_to(root / "out/index/a.png")
    return [root / "in"]


def result_that_is_a_link_to_the_image(root: Path) -> list[Path]:
    image = write_image(root / "in/a.png")
    (root / "out/color").mkdir(parents=True)
    (root / "out/color/a.png").symlink_to(image)
    return [root / "in"]


def hard_link(root: Path) -> list[Path]:
    image = write_image(root / "in/a.png")
    (root / "out/overlay").mkdir(parents=True)
    (root / "out/overlay/a.png").hardlink_to(image)
    return [root / "in"]


def list_of_failures(root: Path) -> list[Path]:
    (root / "out").mkdir()
    (root / "out/failures.jsonl").write_text("mine")
    return [root / "out/failures.jsonl"]


def results_elsewhere_by_a_link(root: Path) -> list[Path]:
    (root / "elsewhere").mkdir()
    (root / "out").mkdir()
    (root / "out/index").symlink_to(root / "elsewhere")
    return [write_image(root / "in/a.png")]


def folder_of_results_elsewhere_by_a_link(root: Path) -> list[Path]:
    (root / "elsewhere").mkdir()
    (root / "out/overlay").mkdir(parents=True)
    (root / "out/overlay/sub").symlink_to(root / "elsewhere")
    write_image(root / "in/sub/a.png")
    return [root / "in"]


def other_photograph_in_the_folder_of_images(root: Path) -> list[Path]:
    """``out`` holds the images itself, and beside them a folder of photographs that is called ``index``."""
    write_image(root / "out/a.png")
    write_image(root / "out/index/a.png")
    return [root / "out"]


@pytest.mark.parametrize(
    "make",
    [
        same_folder,
        file_named_directly,
        file_deeper_among_results,
        folder_deeper_among_results,
        folder_among_results_by_a_link,
        file_by_a_link,
        result_that_is_a_link_to_the_image,
        hard_link,
        list_of_failures,
        results_elsewhere_by_a_link,
        folder_of_results_elsewhere_by_a_link,
        other_photograph_in_the_folder_of_images,
    ],
)
@pytest.mark.parametrize("skip_existing", [False, True])
def test_what_would_harm_a_file_is_refused_before_anything_is_written(tmp_path: Path, make, skip_existing) -> None:
    inputs = make(tmp_path)
    before = everything(tmp_path)
    with pytest.raises(UsageError):
        predict_files(FakeRuntime(), inputs, tmp_path / "out", skip_existing=skip_existing)
    assert everything(tmp_path) == before


def test_results_do_not_go_into_the_artefact(tmp_path: Path) -> None:
    import dataclasses

    image = write_image(tmp_path / "in/a.png")
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    runtime = FakeRuntime()
    runtime.info = dataclasses.replace(runtime.info, path=bundle)
    with pytest.raises(UsageError, match="is the artefact"):
        predict_files(runtime, [image], bundle)
    assert not list(bundle.iterdir())
    assert len(predict_files(runtime, [image], bundle / "predicted").images) == 1
    weights = write_image(tmp_path / "out/index/a.png")
    runtime.info = dataclasses.replace(runtime.info, path=tmp_path / "run", files=(weights,))
    with pytest.raises(UsageError, match="would be replaced"):
        predict_files(runtime, [image], tmp_path / "out")


@pytest.mark.parametrize("out", ["out", "in", "in/results"])
def test_predicting_again_replaces_earlier_results(tmp_path: Path, out: str) -> None:
    image = write_image(tmp_path / "in/a.png")
    content = image.read_bytes()
    for classes in (0, 3):
        runtime = FakeRuntime(lambda images, classes=classes: images[..., 0] * 0 + classes)
        assert [done.image for done in predict_files(runtime, [tmp_path / "in"], tmp_path / out).images] == [image]
        assert (np.asarray(Image.open(tmp_path / out / "index/a.png")) == classes).all()
    assert image.read_bytes() == content


def test_results_of_versions_without_marks_are_replaced_too(tmp_path: Path) -> None:
    write_image(tmp_path / "in/a.png")
    for kind in ("index", "color", "overlay"):
        write_image(tmp_path / "in" / kind / "a.png")
    assert len(predict_files(FakeRuntime(), [tmp_path / "in"], tmp_path / "in").images) == 1


def test_a_link_among_results_is_replaced_and_not_written_through(tmp_path: Path) -> None:
    image, photograph = write_image(tmp_path / "in/a.png"), write_image(tmp_path / "photograph.png")
    content = photograph.read_bytes()
    (tmp_path / "out/index").mkdir(parents=True)
    (tmp_path / "out/index/a.png").symlink_to(photograph)
    (tmp_path / "out/failures.jsonl").symlink_to(photograph)
    predict_files(FakeRuntime(), [image, tmp_path / "in/b.png"][:1], tmp_path / "out")
    assert not (tmp_path / "out/index/a.png").is_symlink()
    assert photograph.read_bytes() == content


def test_two_paths_to_one_file_give_two_results(tmp_path: Path) -> None:
    write_image(tmp_path / "in/deep/a.png")
    (tmp_path / "in/linked").symlink_to("deep")
    (tmp_path / "other").symlink_to("in/deep")
    inputs = [tmp_path / "in", tmp_path / "other", tmp_path / "in/deep/a.png"]
    result = predict_files(FakeRuntime(), inputs, tmp_path / "out")
    names = [image.index.relative_to(tmp_path / "out/index").as_posix() for image in result.images]
    assert names == ["deep/a.png", "linked/a.png", "a.png"]


def test_a_name_that_is_a_folder_of_other_images_is_made_distinct(tmp_path: Path) -> None:
    write_image(tmp_path / "in/x.png/a.png")
    write_image(tmp_path / "in/x.bmp")
    result = predict_files(FakeRuntime(), [tmp_path / "in"], tmp_path / "out")
    assert not result.failed
    assert sorted(image.index.relative_to(tmp_path / "out/index").as_posix() for image in result.images) == [
        "x.bmp.png",
        "x.png/a.png",
    ]


@pytest.mark.parametrize("letter", ["x", "ü", "\U0001f600", "\udcff"])
def test_the_longest_names_of_a_file_system_work(tmp_path: Path, letter: str) -> None:
    """Also such that leave no room for the ending of the result, in letters of several bytes."""
    stem = letter * (251 // len(os.fsencode(letter)))
    for ending in (".png", ".bmp", ""):
        image = tmp_path / "in" / f"{stem}{ending}"
        write_image(tmp_path / "short.png")
        image.parent.mkdir(exist_ok=True)
        (tmp_path / "short.png").rename(image)
    inputs = [tmp_path / "in", tmp_path / "in" / stem]
    result = predict_files(FakeRuntime(), inputs, tmp_path / "out")
    assert not result.failed
    names = {image.index.name for image in result.images}
    assert len(names) == 3
    assert all(len(os.fsencode(name)) <= 255 for name in names)
    assert [image.index for image in predict_files(FakeRuntime(), inputs, tmp_path / "out").images] == [
        image.index for image in result.images
    ]


def test_names_that_differ_in_how_an_accent_is_encoded_stay_apart() -> None:
    found = [(Path(name), Path(name)) for name in ("\u00fc.png", "u\u0308.png")]
    assert [name.as_posix() for _, name in name_outputs(found)] == ["\u00fc.png.png", "u\u0308.png-2.png"]


def test_hidden_files_are_no_inputs_unless_they_are_named(tmp_path: Path) -> None:
    for name in ("a.png", "._a.png", ".hidden/b.png"):
        write_image(tmp_path / "in" / name)
    found = find_inputs([tmp_path / "in", tmp_path / "in/._a.png"], tmp_path / "out")
    assert [relative.as_posix() for _, relative in found] == ["a.png", "._a.png"]


def test_a_path_that_no_file_can_have_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file or folder"):
        find_inputs([tmp_path / ("x" * 5000)], tmp_path / "out")
    with pytest.raises(UsageError) as raised:
        find_inputs([tmp_path / str(number) for number in range(1000)], tmp_path / "out")
    assert "… and 980 more" in raised.value.message
