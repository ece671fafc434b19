"""Recipes that nobody would write on purpose: one error each, soon, whatever they hold."""

import json
import os

import pytest
import yaml

from protoseg_deploy.errors import RecipeError, UsageError
from protoseg_deploy.recipe import class_table, dump_recipe, load_recipe, recipe_from_dict
from tests.conftest import recipe_tree


@pytest.fixture
def text(tmp_path):
    return yaml.safe_dump(recipe_tree(tmp_path), sort_keys=False)


def faults_of(tmp_path, content, overrides=()):
    path = tmp_path / "mine.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    str(caught.value).encode()  # can be printed
    return "\n".join(caught.value.faults)


def levels(count, line):
    return "a0: &a0 {x: 1}\n" + "".join(line.format(n=n, before=n - 1) for n in range(1, count))


@pytest.mark.parametrize(
    "content",
    [
        levels(12, "a{n}: &a{n} [" + ", ".join(["*a{before}"] * 9) + "]\n"),
        levels(12, "a{n}: &a{n} {{<<: [" + ", ".join(["*a{before}"] * 9) + "]}}\n"),
        levels(12, "a{n}: &a{n} {{" + ", ".join(f"y{i}: *a{{before}}" for i in range(9)) + "}}\n"),
        "data: &a {x: *a}",
        "a: &a\n  <<: *a\n",
        "[" * 100_000,
        "{a: " * 3_000 + "}" * 3_000,
        "- " * 3_000 + "x",
        "\n".join(f"k{number}: {number}" for number in range(9_000)),
        "#" * 50_000_000,
    ],
    ids=["lists", "merged", "maps", "itself", "merges-itself", "flow", "deep", "dashes", "wide", "comments"],
)
def test_what_is_too_large_or_too_deep_is_one_short_error(tmp_path, content):
    assert len(faults_of(tmp_path, content)) < 8_000


@pytest.mark.parametrize(
    "value",
    [
        "!!int abc",
        "!!bool xx",
        "!!float x",
        "!!null 5",
        "!!timestamp x",
        "!!binary aGk=",
        "!!set {a}",
        "!!python/object/apply:os.getcwd []",
        "!mine 5",
        "9" * 5_000,
        "0x" + "f" * 10_000,
        "2001-99-99",
        '"\\UFFFFFFFF"',
        "\0",
        "\x1b[31m",
        "? [a]\n: 5",
        "{{}: 5}",
        "010",
        "1:30",
    ],
)
def test_a_value_that_is_no_number_is_an_error_of_its_line(tmp_path, text, value):
    faults = faults_of(tmp_path, text.replace("  steps: 8\n", f"  steps: {value}\n"))
    number = next(number for number, line in enumerate(text.splitlines(), 1) if line == "  steps: 8")
    assert f"line {number}" in faults or f"mine.yaml:{number}" in faults


@pytest.mark.parametrize("text_of_it", ["1e-3", "1E-3", "1.0e-3", ".1e-2", "+1e-3", "0.001", "1.0E-3"])
def test_a_number_is_a_number_in_files_and_on_the_command_line(tmp_path, text, text_of_it):
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace("lr: 0.002", f"lr: {text_of_it}"))
    assert load_recipe(path).train.lr == pytest.approx(1e-3)
    assert load_recipe(path, [f"train.lr={text_of_it}"]).train.lr == pytest.approx(1e-3)


def test_a_number_in_quotes_is_a_text(tmp_path, text):
    faults = faults_of(tmp_path, text.replace("lr: 0.002", 'lr: "1e-3"'), ["train.steps='5'"])
    assert "train.lr: input should be a valid number, got '1e-3'" in faults
    assert "command line: train.steps: input should be a valid integer, got '5'" in faults


@pytest.mark.parametrize("name", ["no", "on", "~", "1e3", "0x10", "12", ".5", "null", "1_000"])
def test_a_name_that_yaml_reads_as_something_else_is_to_be_quoted(tmp_path, text, name):
    names = text.replace("- ground", f"- {name}")
    assert f"data.classes.0: YAML reads {name} as " in faults_of(tmp_path, names)
    assert f"'{name}'" in faults_of(tmp_path, text, [f"data.classes=[{name}, a, b]"])
    path = tmp_path / "quoted.yaml"
    path.write_text(text.replace("- ground", f"- '{name}'"))
    recipe = load_recipe(path)
    assert recipe.data.classes == [name, "red", "blue"]
    path.write_text(dump_recipe(recipe))
    assert load_recipe(path) == recipe


@pytest.mark.parametrize("name", ["2024-05-01", "08", "=", "3d", "1.2.3"])
def test_a_name_that_only_looks_like_something_else_is_a_name(tmp_path, text, name):
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace("- ground", f"- {name}"))
    assert load_recipe(path).data.classes[0] == name


def test_keys_are_names_and_numbers(tmp_path, text):
    assert "is true to YAML" in faults_of(tmp_path, text + "on: 1\n")
    assert "is null to YAML" in faults_of(tmp_path, text + "~: 1\n")
    assert "unknown key 5" in faults_of(tmp_path, text + "5: 1\n")
    assert "data.value_map.1 is set twice" in faults_of(
        tmp_path, text.replace("data:", "data:\n  value_map: {1: 2, 0x1: 3}")
    )


def test_merge_keys_and_aliases_do_what_they_do_in_yaml(tmp_path, text):
    path = tmp_path / "mine.yaml"
    shared = "  ohem: &it {threshold: 0.5, min_kept: 7}\n"
    path.write_text(text.replace("train:\n", f"train:\n{shared}"))
    assert load_recipe(path).train.ohem.min_kept == 7
    path.write_text(text.replace("val:\n", "val:\n    <<: {mask_template: '{stem}_a.png', images: x}\n"))
    recipe = load_recipe(path)
    assert (recipe.data.val.mask_template, recipe.data.val.images) == ("{stem}_a.png", "val/images")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_says_how_to_read_a_recipe_and_its_classes(tmp_path, text, encoding):
    path = tmp_path / "mine.yaml"
    path.write_bytes(text.replace("- ground", "- gräund").encode(encoding))
    assert load_recipe(path).data.classes[0] == "gräund"
    (tmp_path / "classes.json").write_bytes('{"names": ["straße", "b"]}'.encode(encoding))
    assert class_table(load_recipe(path, ["data.classes=classes.json"]).data).names == ("straße", "b")


def test_another_encoding_is_named_with_its_line(tmp_path, text):
    content = text.replace("- red", "- röd").encode("latin-1")
    line = next(number for number, line in enumerate(text.splitlines(), 1) if "- red" in line)
    assert f"line {line}: not a text file in UTF-8" in faults_of(tmp_path, content)


def test_what_is_no_regular_file_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    for source in (tmp_path / "pipe.yaml", "/dev/zero"):
        with pytest.raises(UsageError, match="not a regular file"):
            load_recipe(source)


@pytest.mark.parametrize("value", [".inf", "-.inf", ".nan", "1e999", "1e300", "9" * 90, "0", "-1"])
def test_a_learning_rate_is_a_number_that_can_be_computed_with(tmp_path, text, value):
    assert "train.lr" in faults_of(tmp_path, text, [f"train.lr={value}"])


def numbers(model, prefix=""):
    """Every key of a recipe that takes a number, and what it has."""
    for name, value in model:
        if hasattr(value, "model_dump"):
            yield from numbers(value, f"{prefix}{name}.")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield f"{prefix}{name}"


def test_no_key_takes_a_number_that_is_not_finite_or_beyond_any_memory(tmp_path, text):
    tree = recipe_tree(tmp_path)
    tree["train"] |= {"ohem": {}, "max_hours": 1.0, "clip_grad_norm": 1.0, "eval_window": 99, "eval_stride": 9}
    tree["data"] |= {"labeled_count": 3}
    keys = list(numbers(recipe_from_dict(tree, "test")))
    assert len(keys) > 50
    for value in (".inf", ".nan", "1" + "0" * 30):
        for some in (keys[:30], keys[30:]):
            faults = faults_of(tmp_path, text, [f"{key}={value}" for key in some])
            assert [key for key in some if f" {key}: " not in faults] == []


@pytest.mark.parametrize("path", ["~nobody-of-that-name/x", "a" * 300, "x/" * 3000, '"a\\0b"', '"\\ud800"'])
@pytest.mark.parametrize(
    "key",
    ["data.root", "data.labeled.images", "data.labeled.masks", "data.unlabeled.list", "data.classes", "model.weights"],
)
def test_a_path_that_cannot_be_is_an_error_of_its_key(tmp_path, text, key, path):
    assert key in faults_of(tmp_path, text, [f"{key}={path}"])


def test_a_path_of_bytes_that_are_not_utf_8_goes_through_a_run_and_back(tmp_path, text):
    folder = os.fsdecode(b"stra\xdfe")
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    recipe = load_recipe(path, [f"data.root={folder}"])
    path.write_text(dump_recipe(recipe))
    assert load_recipe(path).data.root == folder


@pytest.mark.parametrize(
    "names",
    [
        [""],
        [" "],
        ["a\nb"],
        ["a\x1b[31mb"],
        ["a\u202eb"],
        ["x" * 10_000],
        ["a", "a"],
        [],
        [5],
        [None],
        ["n"] * 10**6,
        "x",
        5,
    ],
    ids=lambda names: str(names)[:12],
)
def test_names_of_classes_are_held_to_the_same_in_a_recipe_and_in_a_file(tmp_path, names):
    tree = recipe_tree(tmp_path)
    (tmp_path / "classes.json").write_text(json.dumps({"names": names}))
    with pytest.raises(UsageError, match=r"data\.classes: .*classes\.json") as caught:
        class_table(recipe_from_dict({**tree, "data": {**tree["data"], "classes": "classes.json"}}, "test").data)
    assert len(str(caught.value)) < 1_000
    if isinstance(names, list):
        with pytest.raises(RecipeError, match=r"data(\.classes)?") as caught:
            recipe_from_dict({**tree, "data": {**tree["data"], "classes": names}}, "test")
        assert len(str(caught.value)) < 5_000


@pytest.mark.parametrize(
    "colors", ["[[0, 0, 256]]", "[[0, 0]]", "[0]", '"red"', "[[1e400, 0, 0]]", "[[1, 2, 3], [1, 2, 3]]"]
)
def test_colours_of_a_file_are_held_to_bytes_and_to_the_classes(tmp_path, colors):
    tree = recipe_tree(tmp_path)
    (tmp_path / "classes.json").write_text(f'{{"names": ["a"], "colors": {colors}}}')
    with pytest.raises(UsageError, match=r"classes\.json"):
        class_table(recipe_from_dict({**tree, "data": {**tree["data"], "classes": "classes.json"}}, "test").data)


def test_many_faults_are_shown_in_part(tmp_path, text):
    faults = faults_of(tmp_path, text + "".join(f"key{number}: 1\n" for number in range(1_000)))
    assert len(faults.splitlines()) < 100
    assert "more" in faults
