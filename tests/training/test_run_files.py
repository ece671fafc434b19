"""Files of a run that were damaged, torn or changed by hand, and names that are not UTF-8 in them."""

import json
import os
import shutil
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from protoseg_deploy.cli import cli
from protoseg_deploy.errors import ProtosegError, UsageError
from protoseg_deploy.methods import build_method
from protoseg_deploy.recipe import load_recipe, recipe_from_dict, resumable_keys
from protoseg_deploy.training import Run, train
from protoseg_deploy.training.unreadable import UnreadableImages
from tests.conftest import recipe_tree, with_values, write_scenes

STEPS = 4


@pytest.fixture(scope="module")
def recipe(scenes):
    return with_values(
        recipe_from_dict(recipe_tree(scenes), "test recipe"),
        model={"backbone": "test_resnet"},
        method={"name": "fixmatch"},
        train={"steps": STEPS, "log_every": 1},
    )


@pytest.fixture(scope="module")
def trained(recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    train(recipe, folder, build_method, quiet=True)
    return folder


@pytest.fixture
def run(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    return Run(tmp_path / "run")


def resume(run, *overrides):
    return CliRunner().invoke(cli, ["train", "--run", str(run.folder), "--resume", *overrides])


def unfinish(run):
    """As if killed before the last checkpoint."""
    run.summary_path.unlink()
    run.checkpoints.paths()[-1].unlink()


DAMAGES = [b"", b"5", b"[]", b"{", b"\xff", b'{"steps": "x"}', b"[" * 100_000, b'{"a": "\\ud800"}', b"null", b"\0"]


@pytest.mark.parametrize("content", DAMAGES, ids=lambda content: content[:9])
@pytest.mark.parametrize("name", ["summary.json", "images.json", "metrics.jsonl", "unreadable.jsonl"])
def test_a_damaged_file_is_one_error_that_names_it(run, name, content):
    if name != "summary.json":
        unfinish(run)
    lines = name.endswith("l")
    (run.folder / name).write_bytes(content + b"\n" if lines else content)
    before = {path: path.read_bytes() for path in run.folder.glob("checkpoints/*")}
    result = resume(run)
    if lines and not content:  # an empty line is none
        assert result.exit_code == 0
        return
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert result.stderr.count("Error: ") == 1
    assert f"{name}" in result.stderr
    assert "damaged" in result.stderr
    assert before == {path: path.read_bytes() for path in run.folder.glob("checkpoints/*")}


@pytest.mark.parametrize("torn", [b'{"kind": "torn', b"\xff\xc3", b'{"a"'])
def test_a_last_line_that_was_torn_is_passed_over(run, torn):
    unfinish(run)
    whole = run.metrics()
    for path in (run.metrics_path, run.folder / "unreadable.jsonl"):
        with path.open("ab") as file:
            file.write(torn)
    assert run.metrics() == whole
    assert resume(run).exit_code == 0
    assert run.summary()["steps"] == STEPS
    assert torn not in run.metrics_path.read_bytes()


def test_what_is_no_file_is_not_waited_for(run):
    unfinish(run)
    run.metrics_path.unlink()
    os.mkfifo(run.metrics_path)
    result = resume(run)
    assert result.exit_code == 1
    assert "metrics.jsonl: a named pipe" in result.stderr


def test_figures_that_json_cannot_say_are_null(tmp_path):
    run = Run(tmp_path)
    run.append_metrics({"kind": "train", "step": 1, "loss": float("nan"), "per_class": [float("inf"), 1.0]})
    run.write_summary({"method": "x", "steps": 1, "best_miou_percent": float("nan"), "last_miou_percent": None})
    assert run.metrics() == [{"kind": "train", "step": 1, "loss": None, "per_class": [None, 1.0]}]
    assert json.loads(run.summary_path.read_text(), parse_constant=pytest.fail)["best_miou_percent"] is None


def test_figures_that_earlier_versions_wrote_are_read(run):
    with run.metrics_path.open("a") as file:
        file.write('{"kind": "train", "step": 3, "loss": NaN}\n')
    assert run.metrics()[-1]["step"] == 3


def change(run, *values):
    """By hand: the text of the file, key by key."""
    tree = yaml.safe_load(run.recipe_path.read_text())
    for key, value in values:
        *sections, name = key.split(".")
        section = tree
        for part in sections:
            section = section[part]
        section[name] = value
    run.recipe_path.write_text(yaml.safe_dump(tree))


def test_a_recipe_changed_by_hand_is_noticed_and_its_keys_are_named(run):
    unfinish(run)
    change(run, ("train.lr", 0.5), ("method.ema_decay", 0.5), ("train.log_every", 2))
    before = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}
    result = resume(run)
    assert result.exit_code == 2
    assert "recipe.yaml was changed" in result.stderr
    assert "these keys differ: method.ema_decay, train.lr" in result.stderr
    assert "train.lr: 0.002" in result.stderr, "what it was"
    assert before == {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}
    change(run, ("train.lr", 0.002), ("method.ema_decay", 0.99))
    assert resume(run).exit_code == 0
    assert Run(run.folder).recipe().train.log_every == 2


def test_another_recipe_does_not_hide_that_the_one_of_the_run_was_changed(recipe, run):
    unfinish(run)
    change(run, ("train.lr", 0.5))
    with pytest.raises(UsageError, match=r"recipe\.yaml was changed"):
        train(with_values(recipe, train={"lr": 0.5}), run.folder, build_method, resume=True, quiet=True)


def test_a_length_changed_by_hand_is_noticed_and_one_that_was_extended_is_not(run):
    result = CliRunner().invoke(cli, ["train", "--run", str(run.folder), "--extend-to", str(STEPS + 1)])
    assert result.exit_code == 0
    unfinish(run)
    assert resume(run).exit_code == 0
    change(run, ("train.steps", STEPS + 5))
    assert "train.steps" in resume(run).stderr
    assert resume(run).exit_code == 2


def test_an_extension_killed_between_copy_and_recipe_is_repeated(run):
    old = run.recipe_path.read_bytes()
    again = ["train", "--run", str(run.folder), "--extend-to", str(STEPS + 1)]
    CliRunner().invoke(cli, again)
    run.recipe_path.write_bytes(old)
    assert "train.steps: 5" in resume(run).stderr
    assert CliRunner().invoke(cli, again).exit_code == 0
    assert run.recipe().train.steps == STEPS + 1


def test_a_run_of_an_earlier_version_resumes_as_before(run):
    unfinish(run)
    run.recipe_copy.unlink()
    change(run, ("train.log_every", 2))
    assert resume(run).exit_code == 0
    assert load_recipe(run.recipe_copy) == run.recipe(), "from now on it is noticed"


def test_keys_that_may_change_are_keys_of_a_recipe(recipe):
    tree = recipe.model_dump()
    assert [key for key in resumable_keys() if key.partition(".")[2] not in tree[key.partition(".")[0]]] == []


@pytest.fixture
def odd_names(tmp_path):
    """A data set with a labelled, an unlabelled and a validation image whose names are Latin-1."""
    root = Path(os.fsdecode(os.fsencode(tmp_path) + b"/m\xfcll"))
    write_scenes(root / "labeled", 100, 3)
    write_scenes(root / "unlabeled", 200, 4, masks=False)
    write_scenes(root / "val", 300, 2)
    for path in [*root.rglob("000.png")]:
        path.rename(path.with_name(os.fsdecode(b"stra\xdfe.png")))
    damaged = root / "unlabeled/images" / os.fsdecode(b"besch\xe4digt.png")
    damaged.write_bytes(b"no image")
    return root


def test_names_that_are_not_utf_8_train_resume_and_are_recorded(recipe, odd_names):
    recipe = with_values(recipe, data={"max_unreadable_share": 1.0, "labeled_count": 3})
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"root": str(odd_names)})})
    run = Run(odd_names.parent / os.fsdecode(b"lauf-\xe4"))
    train(recipe, run.folder, build_method, quiet=True)
    assert run.recipe().data.root == str(odd_names)
    unfinish(run)
    assert resume(run).exit_code == 0
    recorded = [json.loads(line) for line in (run.folder / "unreadable.jsonl").read_text("utf-8").splitlines()]
    assert [record["image"].endswith("besch\\xe4digt.png") for record in recorded] == [True], "once"
    assert b"stra\xdfe.png" in run.labeled_list.read_bytes()
    listed = with_values(recipe, data={"labeled": {"list": "list.txt"}, "root": "."})
    shutil.copy(run.labeled_list, odd_names / "list.txt")
    listed = listed.model_copy(update={"data": listed.data.model_copy(update={"root": str(odd_names)})})
    train(listed, odd_names.parent / "listed", build_method, quiet=True)
    assert json.loads((odd_names.parent / "listed/images.json").read_text())["labelled"]["count"] == 3


def test_an_unreadable_image_of_an_odd_name_is_counted_once_over_resumptions(tmp_path):
    line = os.fsdecode(b"/data/besch\xe4digt.png\tno image")
    for _ in range(2):
        images = UnreadableImages(tmp_path, 1.0)
        images.see([line], 1)
        images.record(100)
    assert len((tmp_path / "unreadable.jsonl").read_text().splitlines()) == 1


def test_an_unfinished_run_has_no_summary(run):
    unfinish(run)
    with pytest.raises(ProtosegError, match="not a finished run"):
        run.summary()
