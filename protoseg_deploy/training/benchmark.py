"""How fast a recipe trains on this machine, and what a step costs beyond its networks.

The *floor* is what no method can do without: one forward pass of the teacher over the weak views, one forward and one
backward pass of the student over labelled images and strong views, with the sum of the logits for a loss. It has no
losses at the size of the images, no pseudo-labels, no optimiser. The *step* is everything `TrainStep` does, on a batch
of random pixels that lies on the device: it says what losses, bank, optimiser and moving average add. *With the loader*
the same steps work on the recipe's data: it says whether the device has to wait for images.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass

import torch
from torch import Tensor

from protoseg_deploy.benchmarking.machine import Machine, describe_machine
from protoseg_deploy.benchmarking.memory import peak_memory_bytes
from protoseg_deploy.benchmarking.turns import Times, measure_in_turns, medians, milliseconds, wait_for
from protoseg_deploy.data import DataSets
from protoseg_deploy.data.batch import Batch
from protoseg_deploy.data.loading import TrainingBatches
from protoseg_deploy.data.workers import TrainingLoader
from protoseg_deploy.methods import Method
from protoseg_deploy.models import NetworkSpec, Segmenter, build_segmenter
from protoseg_deploy.recipe import ClassTable, Recipe, class_table
from protoseg_deploy.training.devices import Compute
from protoseg_deploy.training.step import StepOutcome, TrainStep
from protoseg_deploy.training.step_timing import StageClock, watched

MethodBuilder = Callable[[Recipe, Segmenter, ClassTable], Method]

_MOST_WARM_BATCHES = 200

_LABEL_BLOCK = 16
"""Random labels have the same class in squares of this side."""


@dataclass(frozen=True)
class MethodSpeed:
    """One method of a comparison."""

    floor: Times
    step: Times
    stages_ms: dict[str, float]
    """Medians; see `STAGES`."""
    state_bytes: int
    """Networks, heads, statistics, state of the optimiser."""
    floor_peak_bytes: int
    step_peak_bytes: int
    """The most that a step needs beside its state: activations, gradients, losses."""

    @property
    def peak_bytes(self) -> int:
        return self.state_bytes + self.step_peak_bytes


@dataclass(frozen=True)
class LoaderSpeed:
    """Steps that get their batches from the loader, and the same steps without it, in turns."""

    method: str
    with_loader: Times
    without: Times
    wait_ms: float
    """Median time a step waits for its batch, the copy to the device included."""
    workers: int
    note: str
    """Why there are fewer data-loader workers, or fewer batches in advance, than wanted; empty: there are not."""


@dataclass(frozen=True)
class TrainingSpeed:
    """What `measure_training` finds."""

    methods: dict[str, MethodSpeed]
    loader: LoaderSpeed | None
    compute: Compute
    machine: Machine


def measure_training(
    recipes: Mapping[str, Recipe], build_method: MethodBuilder, sets: DataSets | None, *, rounds: int, steps: int
) -> TrainingSpeed:
    """Measure methods in turns, in one process.

    Networks start from random weights and every phase of a method is on from the first step: neither changes what a
    step costs.

    Args:
        recipes: by name of the method; they differ in nothing else.
        build_method: normally `methods.build_method`.
        sets: the data, for the first method with its loader; left out when None.
        rounds: of measuring everything in turn, after one that does not count.
        steps: in a row, in each round.
    """
    machine = describe_machine()
    benches = {name: Bench(recipe, build_method) for name, recipe in recipes.items()}
    first = next(iter(benches.values()))
    device = first.compute.device
    fetching = None if sets is None else _loader(first, sets)
    work: dict[str, Callable[[], object]] = {}
    for name, bench in benches.items():
        work |= {f"floor of {name}": bench.floor, f"step of {name}": bench.step}
    times = measure_in_turns(work, rounds, steps, device)
    loader = None if fetching is None else _measure_loader(first, fetching, rounds, steps)
    methods = {
        name: MethodSpeed(
            times[f"floor of {name}"],
            times[f"step of {name}"],
            bench.stages(rounds),
            bench.state_bytes(),
            bench.peak_bytes(bench.floor),
            bench.peak_bytes(bench.step),
        )
        for name, bench in benches.items()
    }
    return TrainingSpeed(methods, loader, first.compute, machine)


class Bench:
    """One method with a batch of random pixels on the device."""

    def __init__(self, recipe: Recipe, build_method: MethodBuilder) -> None:
        placed = recipe.method.prototypes.model_copy(update={"start": 0.0})
        always = {"unlabeled_start": 0.0, "unlabeled_ramp": 0.0, "prototypes": placed}
        self.recipe = recipe.model_copy(update={"method": recipe.method.model_copy(update=always)})
        self.compute = Compute.choose(recipe.train)
        self.classes = class_table(recipe.data)
        torch.manual_seed(recipe.train.seed)
        spec = NetworkSpec(recipe.model, self.classes, recipe.data.input_scale, recipe.data.ignore_index)
        self.student = self.compute.place(build_segmenter(spec))
        self.method = build_method(self.recipe, self.student, self.classes)
        self.stepper = TrainStep(recipe, self.compute, self.student, self.method)
        self.ema = self.stepper.ema
        self.student.train()
        self.batch = self._random_batch().to(self.compute.device).with_strong_views()
        self.method.prepare(self.student, 0, self._random_views)
        self.steps = 0

    def step(self, batch: Batch | None = None) -> StepOutcome:
        """All of a step, on the random batch unless another is given."""
        self.steps += 1
        return self.stepper.take(self.batch if batch is None else batch, self.steps - 1)

    def floor(self) -> None:
        """Forward and backward passes alone."""
        batch, teacher = self.batch, self.ema.network if self.ema else self.student
        self.stepper.optimizer.zero_grad(set_to_none=True)
        with self.compute.autocast():
            images = batch.images
            if self.method.uses_unlabeled:
                with torch.no_grad():
                    self._forward(teacher.eval(), batch.weak)
                images = torch.cat([images, batch.strong.flatten(0, 1)])
            loss = self._forward(self.student.train(), images).sum()
        loss.backward()  # type: ignore[no-untyped-call]

    def stages(self, steps: int) -> dict[str, float]:
        """Median milliseconds."""
        clock = StageClock(self.compute.device)
        found = []
        with watched(self.stepper, clock):
            for _ in range(steps):
                clock.enter("rest")
                self.step()
                found.append(clock.read())
        return medians(found)

    def peak_bytes(self, work: Callable[[], object]) -> int:
        self.stepper.optimizer.zero_grad(set_to_none=True)
        return peak_memory_bytes(work, self.compute.device)

    def state_bytes(self) -> int:
        modules = [self.student, self.method, *([self.ema.network] if self.ema else [])]
        tensors = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
        for state in self.stepper.optimizer.state.values():
            tensors += [value for value in state.values() if isinstance(value, Tensor)]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def _forward(self, network: Segmenter, images: Tensor) -> Tensor:
        logits: Tensor = self.stepper.compiled.get(network, network.forward_features)(images).logits
        return logits

    def _random_batch(self) -> Batch:
        spec, generator = self.recipe.train, torch.Generator().manual_seed(self.recipe.train.seed)
        labeled, unlabeled = spec.batch_labeled, spec.batch_unlabeled if self.method.uses_unlabeled else 0
        views = self.method.strong_views if unlabeled else 0
        size = (3, spec.crop, spec.crop)

        def pixels(*shape: int) -> Tensor:
            return torch.randint(0, 256, (*shape, *size), dtype=torch.uint8, generator=generator)

        return Batch(
            pixels(labeled),
            self._random_labels(labeled, generator),
            pixels(unlabeled),
            torch.ones(unlabeled, spec.crop, spec.crop, dtype=torch.bool),
            torch.zeros(views, unlabeled, 0),
            pixels(views, unlabeled),
        )

    def _random_labels(self, images: int, generator: torch.Generator) -> Tensor:
        crop = self.recipe.train.crop
        blocks = -(-crop // _LABEL_BLOCK)
        labels = torch.randint(0, len(self.classes), (images, blocks, blocks), generator=generator)
        for axis in (1, 2):
            labels = labels.repeat_interleave(_LABEL_BLOCK, axis)
        return labels[:, :crop, :crop].contiguous()

    def _random_views(self, class_index: int | None) -> Iterator[tuple[Tensor, Tensor]]:
        """As many views as the batch has, with all classes in them."""
        crop = self.recipe.train.crop
        labels = (torch.arange(crop * crop) % len(self.classes)).view(1, crop, crop)
        for image in self.batch.images.cpu():
            yield image[None], labels


def _loader(bench: Bench, sets: DataSets) -> TrainingLoader:
    """Of endless batches."""
    spec, compute = bench.recipe.train, bench.compute
    batches = TrainingBatches(
        bench.recipe.model_copy(update={"train": spec.model_copy(update={"steps": 2**31})}),
        sets.labeled,
        sets.unlabeled if bench.method.uses_unlabeled else (),
        strong_views=bench.method.strong_views,
        augment_in_loader=compute.device.type == "cpu",
    )
    plan = compute.plan_workers(spec, batches.batch_bytes())
    return TrainingLoader(batches, 0, plan, pin_memory=compute.device.type == "cuda", timeout_s=spec.timeout_s)


def _measure_loader(bench: Bench, loader: TrainingLoader, rounds: int, steps: int) -> LoaderSpeed:
    """Blocks of steps with and without the loader, in turns.

    While it is not asked, a loader fetches ahead. What it can have fetched is used up before a block's time is taken.
    All images of a small pool have been loaded before: that is how most of a run goes.
    """
    device, batches, plan = bench.compute.device, loader.batches, loader.plan
    ahead = plan.workers * plan.prefetch + 1
    waits: list[dict[str, float]] = []
    with_loader, without = [], []
    pool = len(batches.unlabeled) or len(batches.labeled)
    once_around = min(_MOST_WARM_BATCHES, -(-pool // bench.recipe.train.batch_unlabeled))
    with closing(iter(loader)) as arriving:
        for _ in itertools.islice(arriving, once_around):
            pass  # what of the pool fits into memory is decoded from then on
        for number in range(rounds + 1):
            without_ms = milliseconds(lambda: [bench.step() for _ in range(steps)], device) / steps
            for batch in itertools.islice(arriving, ahead):
                bench.step(batch.to(device).with_strong_views())
            wait_for(device)
            started = time.perf_counter()
            for _ in range(steps):
                asked = time.perf_counter()
                batch = next(arriving).to(device).with_strong_views()
                waits.append({"wait": 1000 * (time.perf_counter() - asked)})
                bench.step(batch)
            wait_for(device)
            if number:
                with_loader.append(1000 * (time.perf_counter() - started) / steps)
                without.append(without_ms)
    wait_ms = medians(waits)["wait"]
    return LoaderSpeed(
        bench.method.name, Times(tuple(with_loader)), Times(tuple(without)), wait_ms, plan.workers, plan.note
    )
