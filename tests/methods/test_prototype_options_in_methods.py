"""Options of the prototype branch in methods as a whole."""

import pytest
import torch

from protoseg_deploy.methods import build_method
from protoseg_deploy.models import Segmenter
from protoseg_deploy.recipe import class_table
from protoseg_deploy.training.optimization import build_optimizer
from tests.conftest import with_values
from tests.methods.test_methods import setup

START = 2


def with_options(recipe, **options):
    return with_values(recipe, method={"prototypes": options})  # of 8 steps prototypes start at 2


def taken_steps(recipe, steps, views=None):
    student, method, batches = setup(recipe)
    losses = []
    for step in range(steps):
        method.prepare(student, step, views or (lambda _: batches.labeled_views(1)))
        result = method.step(student, student, batches.batch(step).to(torch.device("cpu")), step)
        method.commit(torch.tensor(True))
        losses.append(result.losses)
    return losses, student, method


def test_queues_are_filled_until_prototypes_start(tiny_recipe):
    def views(_):
        raise AssertionError("all classes have been seen: no views are needed")

    _, _, method = taken_steps(with_options(tiny_recipe, initialisation="queues"), START + 1, views)
    assert all(0 < count <= 16 * START for count in method.branch.queues.written.tolist())
    assert method.branch.bank.initialised


def test_queues_that_have_seen_nothing_fall_back_to_views(tiny_recipe):
    losses, _, _ = taken_steps(with_options(tiny_recipe, initialisation="queues", start=0.0), 1)
    assert "prototype_labeled" in losses[0]


@pytest.mark.parametrize("normalised", [True, False])
def test_a_projection_is_trained_with_the_heads(tiny_recipe, normalised):
    recipe = with_options(tiny_recipe, projection_channels=5, normalised=normalised)
    losses, student, method = taken_steps(recipe, START + 1)
    assert method.branch.bank.prototypes.shape == (3, 2, 5)
    assert method.prototypes() is None, "nothing but the projection could tell what they are like"
    assert method.diagnostics()
    parameters = list(method.branch.projection.parameters())
    sum(losses[0].values()).backward()
    assert all(parameter.grad.abs().sum() == 0 for parameter in parameters), "there is a gradient, which is 0"
    assert losses[0]["prototype_labeled"].item() == 0.0
    sum(losses[START].values()).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in parameters)
    groups = build_optimizer(recipe.train, student, method).param_groups
    rates = {
        id(parameter): group["initial_lr" if "initial_lr" in group else "lr"]
        for group in groups
        for parameter in group["params"]
    }
    assert {rates[id(parameter)] for parameter in parameters} == {rates[id(student.head.weight)]}
    twin = build_method(recipe, Segmenter(recipe.model, 3), class_table(recipe.data))
    twin.load_state_dict(method.state_dict())
    assert torch.equal(twin.branch.projection[0].weight, method.branch.projection[0].weight)
