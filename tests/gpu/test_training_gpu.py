"""Training on CUDA: every precision learns, and a step never makes the host wait."""

import pytest
import torch

from protoseg_deploy.data import find_data
from protoseg_deploy.data.loading import TrainingBatches
from protoseg_deploy.methods import build_method
from protoseg_deploy.models import Segmenter
from protoseg_deploy.recipe import class_table
from protoseg_deploy.training import train
from tests.conftest import with_values

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_every_precision_learns(tiny_recipe, tmp_path, precision):
    recipe = with_values(
        tiny_recipe, train={"device": "cuda", "precision": precision, "steps": 60, "eval_every": 60, "workers": 2}
    )
    summary = train(recipe, tmp_path / "run", build_method, quiet=True)
    assert summary["device"] == "cuda"
    assert summary["last_student_miou_percent"] > 60


@pytest.mark.parametrize("name", ["supervised", "fixmatch", "prototype"])
@pytest.mark.parametrize("label_filter", ["confidence", "entropy"])
def test_a_step_has_no_host_sync(tiny_recipe, name, label_filter):
    recipe = with_values(
        tiny_recipe,
        method={"name": name, "pseudo_label_filter": label_filter, "prototype_start": 0.0},
        train={"ohem": {"threshold": 0.7, "min_kept": 100}, "auxiliary_weight": 0.4},
    )
    device = torch.device("cuda")
    sets = find_data(recipe.data, need_unlabeled=True, need_val=True)
    batches = TrainingBatches(recipe, sets.labeled, sets.unlabeled)
    student = Segmenter(recipe.model, 3).to(device).train()
    teacher = Segmenter(recipe.model, 3).to(device).eval()
    method = build_method(recipe, student, class_table(recipe.data))
    method.prepare(student, 0, lambda: batches.labeled_views(1))
    batch = batches[1].to(device)
    method.step(student, teacher, batch, 1).total().backward()  # libraries set themselves up at the first call
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        method.step(student, teacher, batch, 2).total().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
