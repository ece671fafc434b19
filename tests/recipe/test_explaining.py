"""Recipes with the meaning of their keys: every key has a text, and the whole is the recipe still."""

import pytest
import yaml
from click.testing import CliRunner
from pydantic import BaseModel

from protoseg_deploy.cli import cli
from protoseg_deploy.recipe import Ohem, Recipe, explained_recipe, load_recipe, shipped_recipe_names


@pytest.mark.parametrize("name", shipped_recipe_names())
def test_an_explained_recipe_is_the_recipe(name, tmp_path):
    recipe = load_recipe(name)
    text = explained_recipe(recipe)
    (tmp_path / "explained.yaml").write_text(text, encoding="utf-8")
    assert load_recipe(tmp_path / "explained.yaml") == recipe
    assert max(map(len, text.splitlines())) <= 120


def test_every_key_has_a_text():
    def without_text(section, path=()):
        for name, field in section.model_fields.items():
            inner = field.annotation
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield from without_text(inner, (*path, name))
            elif not field.description:
                yield ".".join((*path, name))

    assert [*without_text(Recipe), *without_text(Ohem)] == []


def test_a_comment_stands_before_its_key_and_names_the_choices():
    result = CliRunner().invoke(cli, ["recipe", "show", "demo", "--explain", "train.lr=0.5"])
    assert result.exit_code == 0
    assert yaml.safe_load(result.output)["train"]["lr"] == 0.5
    lines = result.output.splitlines()
    assert lines[lines.index("  lr: 0.5") - 1] == "  # Learning rate of the backbone."
    assert "One of: sgd, adamw." in lines[lines.index("  optimizer: adamw") - 1]
    assert CliRunner().invoke(cli, ["recipe", "show", "demo", "--explain", "--source"]).exit_code == 2
