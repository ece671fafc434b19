"""A program: takes the steps of a recipe, alone or under torchrun, and writes what came of them.

Batch normalisation over half a batch is another computation, so it is replaced by normalisation of each image.
Everything is computed in double precision. In single precision one process and two differ by so much rounding that now
and then an activation near zero falls on the other side of a ReLU, and its gradient is there or not: how large the
difference then is says nothing of the program.
"""

import sys
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


def main(recipe_path, out, *overrides):
    loop.build_network = build_without_batch_norm
    recipe = load_recipe(recipe_path, overrides)
    recipe = resolved_recipe(recipe, class_table(recipe.data))
    with process_group(recipe.train):
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
        states = {name: part.state_dict() for name, part in parts.items()}
        torch.save({"losses": losses, **states}, f"{out}-{world().rank}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    main(*sys.argv[1:])
