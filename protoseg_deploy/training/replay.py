"""Analysing a step whose loss was NaN or infinite: which layer, which images, which gradients."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from protoseg_deploy.data.batch import Batch
from protoseg_deploy.errors import UsageError
from protoseg_deploy.files import open_regular
from protoseg_deploy.methods import build_method
from protoseg_deploy.models import NetworkSpec, Segmenter
from protoseg_deploy.models import build_segmenter as build_network
from protoseg_deploy.recipe import class_table
from protoseg_deploy.training.checkpoints import DAMAGE
from protoseg_deploy.training.devices import Compute
from protoseg_deploy.training.ema import EmaTeacher
from protoseg_deploy.training.processes import restore_random_state
from protoseg_deploy.training.run import Run

_NAMES_BEFORE = {"disturbances": "augmentations"}
"""Of tensors in files that earlier versions wrote."""


@dataclass(frozen=True)
class ReplayReport:
    """What a repeated step shows."""

    step: int
    losses: dict[str, float]
    """Every term, weighted."""
    first_layer: str | None
    """The first layer whose output is not finite although its input is; None where there is none."""
    largest_input: float
    """Largest absolute value that goes into it, or into any layer where there is none."""
    parameters: tuple[str, ...]
    """Parameters with gradients that are not finite."""
    images: tuple[str, ...]
    """Images whose logits are not finite when the network sees them alone."""
    files: tuple[str, ...]
    """All images of the step."""


def replay(file: Path) -> ReplayReport:
    """Repeat a skipped step with the networks, images and random numbers it had.

    Args:
        file: written into the run folder when training stopped; the run's recipe lies beside it.

    Raises:
        UsageError: not such a file, no recipe beside it, or a step of a distillation, whose teacher is not in it.
    """
    document = _read(file)
    run = Run(file.absolute().parent)
    if not run.exists():
        raise UsageError(f"{file}: no recipe beside it", "Leave the file in the folder of its run.")
    recipe = run.recipe()
    if document["method"] != recipe.method.name:
        raise UsageError(
            f"{file}: a step of `{document['method']}` cannot be repeated here: its teacher is another run",
            "The file holds the images and networks of the step: torch.load(FILE, weights_only=True).",
        )
    compute = Compute.choose(recipe.train.model_copy(update={"device": "auto"}))  # wherever there is one now
    classes = class_table(recipe.data)
    student = compute.place(
        build_network(NetworkSpec(recipe.model, classes, recipe.data.input_scale, recipe.data.ignore_index))
    )
    method = build_method(recipe, student, classes)
    teacher = EmaTeacher(student, recipe.method.ema_decay).network
    student.load_state_dict(document["student"])
    method.load_state_dict(document["method_state"])
    teacher.load_state_dict(document["teacher"] or document["student"])
    files = tuple(document["files"])
    tensors = {_NAMES_BEFORE.get(name, name): value for name, value in document["batch"].items()}
    batch = Batch(**tensors, first_slots=tuple(document["first_slots"]), files=files).to(compute.device)
    batch = batch.with_strong_views()
    alone = _broken_alone(student, batch)
    watch = _Watch(student.train(), method.train())
    restore_random_state([document["random_state"]], compute.device)
    losses: dict[str, float] = {}
    parts = batch.parts(recipe.train.accumulate)
    for part in parts:
        with compute.autocast():
            result = method.step(student, teacher if document["teacher"] else student, part, document["step"])
        (result.total() / len(parts)).backward()  # type: ignore[no-untyped-call]
        for name, value in result.losses.items():
            losses[name] = losses.get(name, 0.0) + float(value.detach()) / len(parts)
    watch.end()
    named = [*student.named_parameters(), *method.named_parameters()]
    return ReplayReport(
        step=document["step"],
        losses=losses,
        first_layer=watch.first,
        largest_input=watch.largest,
        parameters=tuple(name for name, value in named if value.grad is not None and not value.grad.isfinite().all()),
        images=tuple(files[index] for index in alone),
        files=files,
    )


def _read(file: Path) -> dict[str, Any]:
    try:
        with open_regular(file) as content:
            document = torch.load(content, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UsageError(f"{file}: no such file") from None
    except DAMAGE:
        raise UsageError(f"{file}: not a skipped step of a run, or damaged") from None
    if not isinstance(document, dict) or not {"batch", "student", "random_state", "method"} <= document.keys():
        raise UsageError(f"{file}: not a skipped step of a run", "They are called skipped-step-….pt.")
    return document


@torch.no_grad()
def _broken_alone(student: Segmenter, batch: Batch) -> list[int]:
    student.eval()
    images = torch.cat([batch.images, batch.weak])
    return [index for index, image in enumerate(images) if not student(image[None]).isfinite().all()]


class _Watch:
    """Finds the first layer that makes something that is not finite out of what is."""

    def __init__(self, *networks: nn.Module) -> None:
        self.first: str | None = None
        self.largest = 0.0
        self._handles = [
            module.register_forward_hook(self._look(name))
            for network in networks
            for name, module in network.named_modules()
            if not list(module.children())
        ]

    def end(self) -> None:
        for handle in self._handles:
            handle.remove()

    def _look(self, name: str) -> Any:
        def look(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            shown = [value for value in inputs if isinstance(value, Tensor) and value.is_floating_point()]
            if self.first is not None or not isinstance(output, Tensor) or not shown:
                return
            if not all(value.isfinite().all() for value in shown):
                return
            largest = max(float(value.detach().abs().max()) for value in shown)
            if not output.isfinite().all():
                self.first, self.largest = f"{name} ({type(module).__name__})", largest
            elif self.first is None:
                self.largest = max(self.largest, largest)

        return look
