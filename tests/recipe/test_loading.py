"""Recipes: what is accepted, and how faults are reported."""

import pytest
import yaml

from protoseg_deploy.errors import RecipeError, UsageError
from protoseg_deploy.recipe import (
    class_table,
    differing_keys,
    dump_recipe,
    load_recipe,
    recipe_from_dict,
    shipped_folder,
    shipped_recipe_names,
)
from tests.conftest import recipe_tree


@pytest.fixture
def recipe_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(recipe_tree(tmp_path), sort_keys=False))
    return path


def faults_of(source, overrides=()):
    with pytest.raises(RecipeError) as caught:
        load_recipe(source, overrides)
    return "\n".join(caught.value.faults)


def test_overrides_win_and_are_read_as_yaml(recipe_file):
    recipe = load_recipe(
        recipe_file, ["train.steps=7", "train.lr=1e-3", "data.classes=[a, b]", "model.weights=none", "train.flip=false"]
    )
    assert recipe.train.steps == 7
    assert recipe.train.lr == pytest.approx(0.001)
    assert recipe.data.classes == ["a", "b"]
    assert recipe.model.weights == "none"
    assert recipe.train.flip is False


def test_a_dumped_recipe_loads_to_the_same(recipe_file, tmp_path):
    recipe = load_recipe(recipe_file, ["data.value_map={2: 1, 7: 255}", "train.ohem={threshold: 0.5}"])
    (tmp_path / "dumped.yaml").write_text(dump_recipe(recipe))
    assert load_recipe(tmp_path / "dumped.yaml") == recipe


def test_all_faults_are_reported_at_once_each_with_line_key_and_remedy(tmp_path):
    tree = recipe_tree(tmp_path)
    tree["train"]["stepz"] = 3
    tree["method"]["name"] = "prototipe"
    tree["model"]["output_stride"] = 12
    tree["train"]["scale"] = [2, 1]
    tree["data"]["labeled"]["image"] = "x"
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    faults = faults_of(path, ["train.crop=wide"])
    lines = path.read_text().splitlines()
    line = next(number for number, text in enumerate(lines, 1) if "stepz" in text)
    assert f"bad.yaml:{line}: unknown key train.stepz – did you mean 'steps'?" in faults
    assert "method.name: 'prototipe' is not one of 'supervised', " in faults
    assert "or 'prototype' – did you mean 'prototype'?" in faults
    assert "model.output_stride: 12 is not one of 8, 16 or 32" in faults
    assert "train.scale: a range is [smallest, largest], got [2.0, 1.0]" in faults
    assert "unknown key data.labeled.image – did you mean 'images'?" in faults
    assert "command line: train.crop: " in faults
    assert len(faults.splitlines()) == 6


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["data.unlabeled.images=null"], "needs `data.unlabeled.images`"),
        (["data.labeled.masks=null"], "`images` is given without `masks`"),
        (["data.classes=[a, a]"], "the same name twice"),
        (["data.colors=[[1, 2, 3]]"], "1 `colors` for 3 `classes`: give one for each"),
        (["data.labeled_count=3", "data.labeled_share=0.5"], "not both"),
        (["data.labeled.mask_template=mask.png"], "must contain {stem}"),
        (["data.colors=[[0, 0, 300], [0, 0, 0], [0, 0, 0]]"], "data.colors.0.2"),
        (["train.batch_labeled=0"], "train.batch_labeled"),
        (["train.steps=yes"], "train.steps"),
        (["train.lr=fast"], "train.lr"),
        (["train.seed=99999999999999999999999"], "train.seed"),
        (["train.seed=-1"], "train.seed"),
        (["model.aspp_dilations=[0]"], "model.aspp_dilations"),
        (["model.aspp_dilations=[]"], "model.aspp_dilations"),
        (["nonsense.key=1"], "unknown key nonsense"),
    ],
)
def test_what_does_not_fit_together_is_said(recipe_file, overrides, expected):
    assert expected in faults_of(recipe_file, overrides)


def test_a_key_that_is_set_twice_is_a_fault(recipe_file):
    recipe_file.write_text(recipe_file.read_text().replace("train:\n", "train:\n  steps: 1\n"))
    assert "train.steps is set twice" in faults_of(recipe_file)


@pytest.mark.parametrize("text", ["a: [1\n", "- just\n- a list\n", "", "\x00"])
def test_a_file_that_is_no_recipe_is_named(tmp_path, text):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(RecipeError, match=r"bad\.yaml"):
        load_recipe(tmp_path / "bad.yaml")


def test_a_missing_file_an_unknown_name_and_a_folder_are_usage_errors(tmp_path):
    with pytest.raises(UsageError, match="no such recipe file"):
        load_recipe(tmp_path / "none.yaml")
    with pytest.raises(UsageError, match="did you mean 'camvid-mobilenetv2'"):
        load_recipe("camvid-mobilenet")
    with pytest.raises(UsageError, match="is a folder"):
        load_recipe(tmp_path)


def test_a_folder_does_not_hide_a_shipped_recipe_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    assert load_recipe("demo").data.classes == "classes.json"


@pytest.mark.parametrize("override", ["train.steps", "=3", ""])
def test_something_that_is_no_override_is_refused(recipe_file, override):
    with pytest.raises(UsageError, match="is not an override"):
        load_recipe(recipe_file, [override])


def test_differing_keys_are_dotted_names(recipe_file):
    one, other = load_recipe(recipe_file), load_recipe(recipe_file, ["train.lr=9", "data.value_map={1: 2}"])
    assert set(differing_keys(one, other)) >= {"train.lr", "data.value_map.1"}
    assert differing_keys(one, one) == []


def test_recipes_do_not_change_after_loading(recipe_file):
    with pytest.raises(Exception, match="frozen"):
        load_recipe(recipe_file).train.steps = 3


def test_shipped_recipes_are_the_promised_ones_with_a_description():
    names = shipped_recipe_names()
    promised = {"demo", "camvid-mobilenetv2", "voc-resnet101-pcr", "cityscapes-resnet101-pcr", "inhouse-template"}
    assert promised <= set(names)
    for name in names:
        assert (shipped_folder("recipes") / f"{name}.yaml").read_text().startswith("# "), name


def test_classes_come_from_a_list_or_a_file(tmp_path):
    tree = recipe_tree(tmp_path)
    (tmp_path / "classes.json").write_text('{"names": ["a", "b"], "colors": [[1, 2, 3], [4, 5, 6]], "source": "x"}')
    tree["data"]["classes"] = "classes.json"
    table = class_table(recipe_from_dict(tree, "test").data)
    assert table.names == ("a", "b")
    assert table.colors == ((1, 2, 3), (4, 5, 6))


def test_one_class_means_foreground_against_background(tmp_path):
    tree = recipe_tree(tmp_path)
    tree["data"]["classes"] = ["nucleus"]
    table = class_table(recipe_from_dict(tree, "test").data)
    assert table.names == ("background", "nucleus")
    assert table.binary


@pytest.mark.parametrize("content", ["not json", '{"classes": []}', '{"names": []}', '{"names": ["a", "a"]}', None])
def test_a_bad_classes_file_is_named(tmp_path, content):
    tree = recipe_tree(tmp_path)
    tree["data"]["classes"] = "classes.json"
    if content is not None:
        (tmp_path / "classes.json").write_text(content)
    with pytest.raises(UsageError, match=r"classes\.json"):
        class_table(recipe_from_dict(tree, "test").data)


def test_generated_colours_are_distinct(tmp_path):
    tree = recipe_tree(tmp_path)
    tree["data"]["classes"] = [f"class {number}" for number in range(40)]
    colors = class_table(recipe_from_dict(tree, "test").data).colors
    assert len(set(colors)) == 40
