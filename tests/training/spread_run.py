"""Takes the steps of recipes, here or as a program under torchrun, and keeps what came of them.

Batch normalisation over half a batch is another computation, so it is replaced by normalisation of each image.
Everything is computed in double precision. In single precision one process and two differ by so much rounding that now
and then an activation near zero falls on the other side of a ReLU, and its gradient is there or not: how large the
difference then is says nothing of the program.
"""

import sys
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from protoseg_deploy.data import find_data
from protoseg_deploy.distributed import world
from protoseg_deploy.methods import build_method
from protoseg_deploy.recipe import class_table, load_recipe
from protoseg_deploy.training import Run, Trainer, loop, resolved_recipe
from protoseg_deploy.training.averages import StepAverages
from protoseg_deploy.training.processes import process_group

build_network = loop.build_network


def build_without_batch_norm(*arguments, **options):
    network = build_network(*arguments, **options)
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d):  # those of timm hold the activation that follows
                activation = getattr(child, "act", nn.Identity())
                setattr(module, name, nn.Sequential(nn.GroupNorm(1, child.num_features), activation))
    return network


@contextmanager
def comparable():
    """Networks without batch normalisation, in double precision, for a block."""
    kept = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    loop.build_network = build_without_batch_norm
    try:
        yield
    finally:
        loop.build_network = build_network
        torch.set_default_dtype(kept)


def take_steps(recipe, out):
    """What the steps of a recipe give: their losses, and the states of the method and of both networks."""
    sets = find_data(recipe.data, need_unlabeled=True, need_val=True)
    trainer = Trainer(recipe, Run(Path(out)), sets, build_method, quiet=True)
    trainer.student.train()
    losses = []
    for step in range(recipe.train.steps):
        averages = StepAverages(1)
        outcome = trainer.train_step(trainer.batches.batch(step).to(trainer.compute.device))
        trainer.step += 1
        averages.add(outcome.result, outcome.taken)
        losses.append(averages.read()[0])
    parts = {"method": trainer.method, "student": trainer.student, "teacher": trainer.ema.network}
    return {"losses": losses, **{name: part.state_dict() for name, part in parts.items()}}


def take_steps_of_file(path, overrides=()):
    """`take_steps` of the recipe in a file."""
    recipe = load_recipe(path, overrides)
    with comparable():
        return take_steps(resolved_recipe(recipe, class_table(recipe.data)), Path(path).with_suffix(""))


def main(*recipes):
    with process_group(load_recipe(recipes[0]).train):
        for recipe in map(Path, recipes):
            torch.save(take_steps_of_file(recipe), recipe.with_name(f"{recipe.stem}-{world().rank}.pt"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:])
