"""Which runs a sweep consists of; what it refuses before anything is trained."""

from itertools import product

import pytest
import yaml

from protoseg_deploy.errors import RecipeError, UsageError
from protoseg_deploy.training import Run
from protoseg_deploy.training.sweep import Variant, plan_runs, slot_environment
from tests.conftest import recipe_tree


@pytest.fixture
def source(scenes, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(recipe_tree(scenes)))
    return path


def test_a_method_has_the_prototype_branch_only_if_its_name_says_so(source, tmp_path):
    names = ["supervised", "fixmatch", "fixmatch+prototypes", "unimatch_v2+prototypes", "prototype"]
    variants = [Variant.of_method(name) for name in names]
    for enabled in ("true", "false", "null"):
        planned = plan_runs(source, [f"method.prototypes.enabled={enabled}"], variants, [0], tmp_path / "runs")
        branches = {run.variant: run.recipe.method.has_prototypes for run in planned}
        assert branches == dict(zip(names, [False, False, True, True, True], strict=True))
    assert {run.recipe.method.name for run in planned} == {"supervised", "fixmatch", "unimatch_v2", "prototype"}


@pytest.mark.parametrize("name", ["fixmach", "fixmatch+prototype", "supervised+prototypes", ""])
def test_an_unknown_method(name):
    with pytest.raises(UsageError, match="no method named") as caught:
        Variant.of_method(name)
    assert "unimatch" in caught.value.hint
    assert not name.startswith("fixm") or "did you mean 'fixmatch" in caught.value.message


def test_a_variant_is_a_name_and_overrides():
    variant = Variant.parse("wide-2: model.decoder_channels=128  train.scale='[0.5, 1.0]' data.root=C:x")
    assert variant == Variant("wide-2", ("model.decoder_channels=128", "train.scale=[0.5, 1.0]", "data.root=C:x"))
    assert Variant.parse("as-it-is:") == Variant("as-it-is", ())


@pytest.mark.parametrize("text", ["wide", ": a=1", "../up: a=1", ".hidden: a=1", "two words: a=1", "open: a='1"])
def test_what_is_no_variant(text):
    with pytest.raises(UsageError, match="is not a variant"):
        Variant.parse(text)


def test_every_seed_is_one_run_of_each_variant_and_sets_both_seeds(source, tmp_path):
    variants = [Variant.of_method("supervised"), Variant.parse("wide: model.decoder_channels=24")]
    planned = plan_runs(source, ["train.steps=5", "model.decoder_channels=8"], variants, [0, 7], tmp_path / "runs")
    assert [(run.seed, run.variant) for run in planned] == list(product([0, 7], ["supervised", "wide"]))
    for run in planned:
        assert run.run.folder == tmp_path / "runs" / run.variant / f"seed-{run.seed}"
        assert run.recipe.data.labeled_seed == run.recipe.train.seed == run.seed
        assert run.recipe.train.steps == 5
        assert run.recipe.model.decoder_channels == {"supervised": 8, "wide": 24}[run.variant]


def test_what_a_sweep_refuses(source, tmp_path):
    supervised = Variant.of_method("supervised")
    with pytest.raises(UsageError, match="two variants are named 'supervised'"):
        plan_runs(source, [], [supervised, supervised], [0], tmp_path)
    with pytest.raises(UsageError, match=r"train\.seed=4: seeds are given with --seeds"):
        plan_runs(source, ["train.seed=4"], [supervised], [0], tmp_path)
    with pytest.raises(UsageError, match=r"data\.labeled_seed"):
        plan_runs(source, [], [Variant.parse("x: data.labeled_seed=1")], [0], tmp_path)
    with pytest.raises(RecipeError, match=r"unknown key model\.decoder_chanels"):
        plan_runs(source, [], [Variant.parse("x: model.decoder_chanels=8")], [0], tmp_path)


def test_runs_of_another_recipe_and_extended_ones_are_refused(source, tmp_path):
    variants = [Variant.of_method("supervised")]
    (planned,) = plan_runs(source, [], variants, [0], tmp_path / "runs")
    planned.run.keep_recipe(planned.recipe)
    assert plan_runs(source, ["train.log_every=3", "train.eval_batch=2"], variants, [0], tmp_path / "runs")
    with pytest.raises(UsageError, match=r"keys differ: train\.lr, train\.steps\n"):
        plan_runs(source, ["train.lr=0.5", "train.steps=9"], variants, [0], tmp_path / "runs")
    longer = planned.recipe.train.model_copy(update={"steps": 16, "extended_from": 8})
    Run(planned.run.folder).keep_recipe(planned.recipe.model_copy(update={"train": longer}))
    with pytest.raises(UsageError, match=r"train\.extended_from, train\.steps"):
        plan_runs(source, [], variants, [0], tmp_path / "runs")


def test_runs_side_by_side_share_cores_and_take_gpus_in_turn(monkeypatch):
    monkeypatch.setattr("torch.get_num_threads", lambda: 6)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    shared = [slot_environment(slot, jobs=4) for slot in range(4)]
    assert [values["CUDA_VISIBLE_DEVICES"] for values in shared] == ["2", "5", "2", "5"]
    assert {values["OMP_NUM_THREADS"] for values in shared} == {"1"}
    assert slot_environment(0, jobs=2)["OMP_NUM_THREADS"] == "3"
    assert slot_environment(0, jobs=1)["CUDA_VISIBLE_DEVICES"] == "2,5", "a run alone may use what there is"
