"""Every format gives the same masks, is recognised by itself, and its result is what a recipe reads."""

from pathlib import Path

import numpy as np
import pytest

from protoseg_deploy.choices import ANNOTATION_FORMATS
from protoseg_deploy.data import examine_data, find_data
from protoseg_deploy.recipe import recipe_from_dict
from tests.annotations.converted import names_of, problems_of, read_mask, run_convert
from tests.annotations.examples import HAND_WRITTEN, coco, cvat, expected, labelme, write_image, write_json
from tests.conftest import recipe_tree


def test_every_format_has_an_example() -> None:
    assert set(HAND_WRITTEN) == set(ANNOTATION_FORMATS)


@pytest.mark.parametrize("named", [False, True], ids=["detected", "named"])
@pytest.mark.parametrize("format_name", HAND_WRITTEN)
def test_the_picture_comes_out_alike(tmp_path: Path, format_name: str, named: bool) -> None:
    write, facts = HAND_WRITTEN[format_name]
    source, out = write(tmp_path / "in"), tmp_path / "out"
    run_convert(source, out, *(["--format", format_name] if named else []))
    names = names_of(out)
    mask = read_mask(out / "masks" / facts["mask"])
    np.testing.assert_array_equal(mask, expected(names, hole=facts.get("hole", False), rest=facts.get("rest", 0)))
    assert len(problems_of(out, "skipped")) == facts.get("skipped", 0)
    assert not problems_of(out, "changed")
    assert [path.relative_to(out / "masks").as_posix() for path in (out / "masks").rglob("*.png")] == [facts["mask"]]


@pytest.mark.parametrize("format_name", HAND_WRITTEN)
def test_a_recipe_reads_what_was_written(tmp_path: Path, format_name: str) -> None:
    write, _ = HAND_WRITTEN[format_name]
    out = tmp_path / "out"
    result = run_convert(write(tmp_path / "in"), out)
    assert f'root: "{out}"' in result.stdout
    tree = recipe_tree(out)
    tree["data"] = {"root": str(out), "labeled": {"list": "labeled.txt"}, "classes": "classes.json"}
    tree["method"] = {"name": "supervised"}
    recipe = recipe_from_dict(tree, "test recipe")
    sets = find_data(recipe.data, need_unlabeled=False, need_val=False)
    assert len(sets.labeled) == 1
    report = examine_data(recipe, sets)
    assert not report.faults
    assert list(report.classes.names) == names_of(out)


def test_colours_of_a_source_are_kept(tmp_path: Path) -> None:
    run_convert(cvat(tmp_path / "in"), tmp_path / "out")
    assert '"colors"' in (tmp_path / "out/classes.json").read_text()
    assert "192" in (tmp_path / "out/classes.json").read_text()


def test_what_is_no_annotation_is_told_with_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/notes.md").write_text("nothing")
    result = run_convert(tmp_path / "in", tmp_path / "out", exit_code=2)
    for name in ANNOTATION_FORMATS:
        assert f"{name}: " in result.stderr
    assert "1 .md" in result.stderr
    assert not (tmp_path / "out").exists()


def test_what_could_be_two_formats_is_told_with_both(tmp_path: Path) -> None:
    coco(tmp_path / "in")
    labelme(tmp_path / "in")
    result = run_convert(tmp_path / "in", tmp_path / "out", exit_code=2)
    assert f"coco: {tmp_path / 'in/instances.json'}" in result.stderr
    assert f"labelme: {tmp_path / 'in'}" in result.stderr
    run_convert(tmp_path / "in", tmp_path / "out", "--format", "coco", "--images", tmp_path / "in/images")


def test_two_files_of_one_format_are_told(tmp_path: Path) -> None:
    coco(tmp_path / "in")
    (tmp_path / "in/again.json").write_bytes((tmp_path / "in/instances.json").read_bytes())
    result = run_convert(tmp_path / "in", tmp_path / "out", exit_code=2)
    assert "again.json" in result.stderr
    assert "instances.json" in result.stderr


def test_archives_are_to_be_unpacked(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(b"PK")
    assert "Unpack it" in run_convert(tmp_path / "x.zip", tmp_path / "out", exit_code=2).stderr


def test_masks_in_the_source_are_no_annotations(tmp_path: Path) -> None:
    source = labelme(tmp_path / "in")
    for _ in range(2):
        run_convert(source, source / "converted")
    assert len(list((source / "converted/masks").rglob("*.png"))) == 1


def test_images_elsewhere_and_names_of_other_machines(tmp_path: Path) -> None:
    write_image(tmp_path / "photos/sub/a.jpg")
    source = write_json(tmp_path / "in/a.json", {})
    coco(tmp_path / "other")
    text = (tmp_path / "other/instances.json").read_text()
    source.write_text(text.replace("sub/a.jpg", "C:\\\\data\\\\..\\\\sub\\\\a.jpg"))
    run_convert(source, tmp_path / "out", "--images", tmp_path / "photos")
    assert (tmp_path / "out/masks/sub/a.png").is_file()
