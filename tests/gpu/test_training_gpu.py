"""Training on CUDA: every precision learns, and a step never makes the host wait."""

import pytest
import torch

from protoseg_deploy.data import find_data
from protoseg_deploy.methods import build_method
from protoseg_deploy.training import Run, Trainer, train
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


FILTERS = [
    {"distribution_alignment": True},
    {"pseudo_label_filter": "entropy", "distribution_alignment": True},
]
STEPS = [(name, filtered) for name in ("supervised", "fixmatch", "unimatch", "prototype") for filtered in FILTERS]


@pytest.mark.parametrize(("name", "filtered"), [*STEPS, ("corrmatch", {})])
def test_a_step_has_no_host_sync(tiny_recipe, tmp_path, name, filtered):
    recipe = with_values(
        tiny_recipe,
        method={
            "name": name,
            "prototypes": {"start": 0.0, "class_balanced": True},
            **filtered,
        },
        train={
            "device": "cuda",
            "precision": "bf16",
            "ohem": {"threshold": 0.7, "min_kept": 100},
            "auxiliary_weight": 0.4,
            "logit_adjustment": 0.5,
            "clip_grad_norm": 1.0,
        },
    )
    sets = find_data(recipe.data, need_unlabeled=True, need_val=True)
    trainer = Trainer(recipe, Run(tmp_path / "run"), sets, build_method, quiet=True)
    device = trainer.compute.device
    batches = [trainer.batches.batch(step).to(device).with_strong_views() for step in range(3)]
    trainer.student.train()
    for batch in batches[:2]:  # libraries set themselves up in the first steps, and prototypes are placed
        trainer.train_step(batch)
        trainer.step += 1
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        outcome = trainer.train_step(batches[2])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert outcome.result.total().isfinite()
    assert outcome.taken
