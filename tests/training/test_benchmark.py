"""Measuring a training step: what is measured, not how long it takes."""

import time

import pytest
import torch

from protoseg_deploy.data import find_data
from protoseg_deploy.methods import build_method
from protoseg_deploy.training import benchmark
from protoseg_deploy.training.benchmark import measure_training
from protoseg_deploy.training.step_timing import STAGES, StageClock, watched
from tests.conftest import with_values


def recipes(tiny_recipe, *names):
    return {name: with_values(tiny_recipe, method={"name": name}) for name in names}


def test_methods_and_the_loader_are_measured(tiny_recipe):
    sets = find_data(tiny_recipe.data, need_unlabeled=True, need_val=False)
    speed = measure_training(
        recipes(tiny_recipe, "fixmatch", "prototype", "supervised"), build_method, sets, rounds=2, steps=2
    )
    assert list(speed.methods) == ["fixmatch", "prototype", "supervised"]
    for name, found in speed.methods.items():
        assert len(found.step.rounds_ms) == len(found.floor.rounds_ms) == 2
        assert found.stages_ms.keys() <= set(STAGES)
        assert min(found.stages_ms.values()) >= 0
        assert ("teacher forward" in found.stages_ms) == (name != "supervised")
        assert 0 < found.floor_peak_bytes <= found.step_peak_bytes
    supervised, fixmatch, prototype = (speed.methods[name] for name in ("supervised", "fixmatch", "prototype"))
    assert supervised.step_peak_bytes < fixmatch.step_peak_bytes <= prototype.step_peak_bytes
    assert fixmatch.state_bytes < prototype.state_bytes
    assert speed.loader is not None
    assert speed.loader.method == "fixmatch"
    assert len(speed.loader.with_loader.rounds_ms) == len(speed.loader.without.rounds_ms) == 2


def test_a_step_of_the_benchmark_is_a_whole_one(tiny_recipe):
    """All losses of a method take part from the first step, and the student, its average and the bank move."""
    bench = benchmark.Bench(with_values(tiny_recipe, method={"unlabeled_start": 0.5}), build_method)
    outcome = bench.stepper.take(bench.batch, 0)
    assert outcome.taken
    assert outcome.result.losses.keys() == {"labeled", "unlabeled", "prototype_labeled", "prototype_unlabeled"}
    before = [tensor.clone() for tensor in (bench.student.head.weight, bench.method.prototypes())]
    bench.step()
    after = bench.student.head.weight, bench.method.prototypes()
    assert not any(torch.equal(old, new) for old, new in zip(before, after, strict=True))


def test_the_floor_changes_no_parameter_and_reaches_all_of_the_student(tiny_recipe):
    bench = benchmark.Bench(tiny_recipe, build_method)
    before = [parameter.detach().clone() for parameter in bench.student.parameters()]
    bench.floor()
    assert all(torch.equal(old, new) for old, new in zip(before, bench.student.parameters(), strict=True))
    assert bench.student.head.weight.grad is not None
    assert bench.student.backbone.parameters().__next__().grad is not None
    assert all(parameter.grad is None for parameter in bench.ema.network.parameters())


def test_watching_a_step_does_not_change_it_and_leaves_nothing_behind(tiny_recipe):
    plain, observed = (benchmark.Bench(tiny_recipe, build_method) for _ in range(2))
    attributes = [set(vars(part)) for part in parts(observed)]
    torch.manual_seed(1)
    plain.step()
    torch.manual_seed(1)
    with watched(observed.stepper, StageClock(torch.device("cpu"))):
        observed.step()
    assert [set(vars(part)) for part in parts(observed)] == attributes
    for ours, theirs in zip(plain.student.parameters(), observed.student.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def parts(bench):
    return bench.student, bench.ema, bench.ema.network, bench.method, bench.stepper, bench.stepper.scaler


@pytest.mark.parametrize("accumulate", [1, 2])
def test_stages_add_up_to_the_step(tiny_recipe, accumulate):
    parts = {"accumulate": accumulate, "batch_labeled": 4, "batch_unlabeled": 4}
    bench = benchmark.Bench(with_values(tiny_recipe, train=parts), build_method)
    bench.step()
    clock = StageClock(torch.device("cpu"))
    with watched(bench.stepper, clock):
        started = time.perf_counter()
        clock.enter("rest")
        bench.step()
        stages = clock.read()
        elapsed = 1000 * (time.perf_counter() - started)
    assert set(stages) == set(STAGES)
    assert sum(stages.values()) == pytest.approx(elapsed, rel=0.05)
    assert stages["backward"] > stages["rest"]


def test_a_stage_within_another_interrupts_it():
    clock = StageClock(torch.device("cpu"))
    clock.enter("losses")
    clock.around("teacher forward", time.sleep)(0.02)
    assert clock.stage == "losses"
    stages = clock.read()
    assert stages["teacher forward"] >= 20
    assert stages["losses"] < 20
