"""``protoseg bench-train`` from the outside."""

import json

import pytest
import yaml
from click.testing import CliRunner

from protoseg_deploy.cli import cli
from tests.conftest import recipe_tree

QUICK = ("--rounds", "2", "--steps", "1")


def run(*arguments, exit_code=0):
    result = CliRunner().invoke(cli, ["bench-train", *map(str, arguments)])
    assert result.exit_code == exit_code, result.output
    return result


@pytest.fixture
def recipe(scenes, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(recipe_tree(scenes)))
    return path


def test_the_document_compares_methods_and_the_loader(recipe):
    document = json.loads(run(recipe, *QUICK, "--json").stdout)
    assert list(document["methods"]) == ["fixmatch", "prototype"]
    assert document["against"] == "fixmatch"
    assert document["ratios"]["prototype"].keys() == {"step_time", "peak_memory"}
    assert document["loader"]["with_over_without"] > 0
    for found in document["methods"].values():
        assert found["step_over_floor"] > 0
        assert found["peak_memory_mib"] == pytest.approx(found["state_memory_mib"] + found["step_memory_mib"], abs=0.02)


def test_the_card_is_for_people(recipe):
    card = run(recipe, *QUICK, "--method", "supervised").stdout
    assert "floor of supervised" in card
    assert "with the loader" in card
    assert "against" not in card


def test_no_data_is_needed(recipe):
    document = json.loads(run(recipe, *QUICK, "--no-data", "--json", "data.root=/nowhere").stdout)
    assert "loader" not in document
    assert set(document["methods"]) == {"fixmatch", "prototype"}


def test_what_cannot_be_measured(recipe):
    assert "data.root" in run(recipe, *QUICK, "data.root=/nowhere", exit_code=1).stderr
    assert "fixmatsch" in run(recipe, *QUICK, "--method", "fixmatsch", exit_code=2).stderr
