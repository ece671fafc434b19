"""Every key is explained, and docs/recipe.md says what the program says."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from protoseg_deploy.cli import cli
from protoseg_deploy.errors import RecipeError
from protoseg_deploy.recipe import explained_keys, recipe_from_dict, reference, resumable_keys
from tests.conftest import recipe_tree

ROOT = Path(__file__).resolve().parents[2]


def explain(*arguments: str, exit_code: int = 0) -> str:
    result = CliRunner().invoke(cli, ["recipe", "explain", *arguments])
    assert result.exit_code == exit_code, result.output
    return result.output


def leaves(tree: object, prefix: str = "") -> set[str]:
    if not isinstance(tree, dict) or not tree:
        return {prefix}
    return {leaf for key, value in tree.items() for leaf in leaves(value, f"{prefix}.{key}" if prefix else key)}


def test_every_key_of_a_recipe_has_a_meaning_and_its_values() -> None:
    keys = {key.key: key for key in explained_keys()}
    tree = recipe_tree(ROOT) | {"train": {"ohem": {}}}
    resolved = recipe_from_dict(tree, "test").model_dump(mode="json")
    assert leaves(resolved) <= keys.keys()
    for key in keys.values():
        assert len(key.meaning) > 10, key
        assert key.values, key
        assert "typing" not in key.values, key


@pytest.mark.parametrize(
    ("key", "values", "default"),
    [
        ("train.lr", "number above 0 to 1000", "0.001"),
        ("model.output_stride", "8, 16, 32", "16"),
        ("train.workers", "integer from 0 to 1024 or auto", "auto"),
        ("train.scale", "[number from 0.01 to 100, number from 0.01 to 100]", "[0.5, 2.0]"),
        ("data.colors", "list of RGB colour", "absent"),
        ("data.classes", "list of text or text", "none, required"),
        ("method.ema_decay", "number from 0 below 1", "0.99"),
    ],
)
def test_values_and_defaults_are_those_of_the_models(key: str, values: str, default: str) -> None:
    (found,) = (one for one in explained_keys() if one.key == key)
    assert (found.values, found.default) == (values, default)


def test_units_and_marks() -> None:
    keys = {key.key: key for key in explained_keys()}
    assert keys["train.timeout_s"].unit == "seconds"
    assert keys["train.extended_from"].written_by == "protoseg train --extend-to"
    assert {"data.root", "train.workers", "model.weights"} < resumable_keys()
    assert not {"train.lr", "train.steps", "data.classes"} & resumable_keys()


def test_the_page_is_current() -> None:
    assert (ROOT / "docs/recipe.md").read_text(encoding="utf-8") == reference() == explain("--markdown")


def test_a_key_a_section_and_everything() -> None:
    one = explain("train.logit_adjustment")
    assert one.startswith("train.logit_adjustment  number from 0; default: 0.0\n")
    assert explain("logit_adjustment") == one
    section = explain("method.prototypes")
    assert section.count("method.prototypes.") == 11
    assert one in explain()
    assert explain("train.workers").splitlines()[0].endswith("may change on --resume")


def test_a_misspelt_key_is_named_with_the_right_one() -> None:
    assert "no key train.lrr – did you mean 'train.lr'?" in explain("train.lrr", exit_code=2)
    assert "--markdown prints all keys" in explain("train", "--markdown", exit_code=2)


def test_keys_of_earlier_versions_are_read_where_they_did_nothing() -> None:
    tree = recipe_tree(ROOT)
    recipe = recipe_from_dict(tree, "test")
    tree["method"]["adaptive_thresholds"] = False
    assert recipe_from_dict(tree, "test") == recipe
    tree["method"] |= {"adaptive_thresholds": True, "confidence_treshold": 0.5}
    with pytest.raises(RecipeError) as caught:
        recipe_from_dict(tree, "test")
    assert "method.adaptive_thresholds was removed" in str(caught.value)
    assert "method.confidence_treshold" in str(caught.value), "all errors at once"
    assert tree["method"]["adaptive_thresholds"] is True, "the caller's mapping is left alone"
