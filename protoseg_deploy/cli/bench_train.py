"""``protoseg bench-train``: how fast a recipe trains on this machine."""

from typing import TYPE_CHECKING, Any

import click

from protoseg_deploy.cli.arguments import comma_list, json_option, note, print_json, print_table, recipe_arguments
from protoseg_deploy.cli.verb import Verb

if TYPE_CHECKING:
    from protoseg_deploy.benchmarking.turns import Times
    from protoseg_deploy.training.benchmark import TrainingSpeed

_MIB = 2**20
_STEADY_PERCENT = 15.0


@click.command(name="bench-train", cls=Verb, short_help="Measure the cost of a training step.")
@recipe_arguments
@click.option(
    "--method",
    "methods",
    multiple=True,
    metavar="NAME[,NAME...]",
    help="Methods to compare.  [default: fixmatch and the recipe's own]",
)
@click.option("--rounds", type=click.IntRange(min=2), default=7, show_default=True, help="Measurement rounds.")
@click.option("--steps", type=click.IntRange(min=1), default=5, show_default=True, help="Consecutive steps per round.")
@click.option("--no-data", is_flag=True, help="Skip the data loader; no images are needed.")
@json_option
def command(
    recipe: str,
    overrides: tuple[str, ...],
    methods: tuple[str, ...],
    rounds: int,
    steps: int,
    no_data: bool,
    as_json: bool,
) -> None:
    """Measure what a training step of RECIPE costs on this machine, without training anything.

    The `floor` is the networks alone: a forward pass of the teacher, a forward and a backward pass of the student. The
    `step` is the complete step of a method, with losses at full size, pseudo-labels, prototypes, optimiser and EMA; its
    batch is already on the device. With the data loader, the same step gets its batches from the recipe's data. All are
    measured alternately, and ratios are medians of the ratios within rounds, so that they are valid on a noisy machine.

    Memory is the persistent state of a method (networks, statistics, optimiser) plus the peak of a step on top of it:
    allocator statistics on a GPU, live tensors on a CPU.

    \b
    protoseg bench-train camvid-mobilenetv2 data.root=camvid
    protoseg bench-train camvid-mobilenetv2 --no-data --json | jq .methods.prototype.step_over_floor
    protoseg bench-train mine.yaml --method supervised,fixmatch,prototype train.compile=true
    """
    from protoseg_deploy.data import find_data, with_measured_range
    from protoseg_deploy.methods import build_method
    from protoseg_deploy.recipe import load_recipe
    from protoseg_deploy.training.benchmark import measure_training

    given = load_recipe(recipe, overrides)
    own = given.method.name
    names = comma_list(methods) if methods else dict.fromkeys(["fixmatch", own] if own != "supervised" else [own])
    recipes = {name: load_recipe(recipe, (*overrides, f"method.name={name}")) for name in names}
    sets = None
    if not no_data:
        sets = find_data(given.data, need_unlabeled=given.data.unlabeled.is_set, need_val=False)
        recipes = {name: with_measured_range(each, sets) for name, each in recipes.items()}
    speed = measure_training(recipes, build_method, sets, rounds=rounds, steps=steps)
    for name, found in speed.methods.items():
        if max(found.step.spread_percent, found.floor.spread_percent) > _STEADY_PERCENT:
            note(f"{name}: rounds differ by {found.step.spread_percent:.0f} %; is the machine busy? See --rounds.")
    if speed.loader is not None and speed.loader.note:
        note(speed.loader.note)
    if as_json:
        print_json(_document(speed))
    else:
        _print(speed)


def _document(speed: "TrainingSpeed") -> dict[str, Any]:
    document: dict[str, Any] = {
        "methods": {
            name: {
                "floor": _times(found.floor),
                "step": _times(found.step),
                "step_over_floor": round(found.step.over(found.floor), 4),
                "stages_ms": {stage: round(value, 3) for stage, value in found.stages_ms.items()},
                "peak_memory_mib": round(found.peak_bytes / _MIB, 2),
                "state_memory_mib": round(found.state_bytes / _MIB, 2),
                "step_memory_mib": round(found.step_peak_bytes / _MIB, 2),
                "floor_memory_mib": round(found.floor_peak_bytes / _MIB, 2),
            }
            for name, found in speed.methods.items()
        },
        "against": next(iter(speed.methods)),
        "ratios": _ratios(speed),
    }
    if speed.loader is not None:
        document["loader"] = {
            "method": speed.loader.method,
            "with_loader": _times(speed.loader.with_loader),
            "without": _times(speed.loader.without),
            "with_over_without": round(speed.loader.with_loader.over(speed.loader.without), 4),
            "wait_ms": round(speed.loader.wait_ms, 3),
            "workers": speed.loader.workers,
        }
    document |= {"device": str(speed.compute.device), "precision": speed.compute.precision}
    return {**document, "machine": speed.machine.to_dict()}


def _ratios(speed: "TrainingSpeed") -> dict[str, dict[str, float]]:
    """Each method against the first, in time and in memory."""
    first, *others = speed.methods.values()
    return {
        name: {
            "step_time": round(found.step.over(first.step), 4),
            "peak_memory": round(found.peak_bytes / first.peak_bytes, 4),
        }
        for name, found in zip(list(speed.methods)[1:], others, strict=True)
    }


def _times(times: "Times") -> dict[str, float]:
    return {"median_ms": round(times.median_ms, 3), "spread_percent": round(times.spread_percent, 2)}


def _print(speed: "TrainingSpeed") -> None:
    rows: list[tuple[str, ...]] = []
    for name, found in speed.methods.items():
        rows += [
            (
                f"floor of {name}",
                *_cells(found.floor),
                "",
                f"{(found.state_bytes + found.floor_peak_bytes) / _MIB:.1f}",
            ),
            (name, *_cells(found.step), f"{found.step.over(found.floor):.3f}x", f"{found.peak_bytes / _MIB:.1f}"),
        ]
    print_table(["step", "ms", "spread", "over floor", "peak MiB"], rows, speed.compute.notes[0])
    for name, ratio in _ratios(speed).items():
        first = next(iter(speed.methods))
        click.echo(f"{name} against {first}: {ratio['step_time']:.3f}x time, {ratio['peak_memory']:.3f}x memory")
    stages = dict.fromkeys(stage for found in speed.methods.values() for stage in found.stages_ms)
    print_table(
        ["stage, ms", *speed.methods],
        [(stage, *(f"{found.stages_ms.get(stage, 0):.1f}" for found in speed.methods.values())) for stage in stages],
    )
    if speed.loader is not None:
        loader = speed.loader
        click.echo(
            f"{loader.method} with the loader ({loader.workers} processes): {loader.with_loader.median_ms:.1f} ms, "
            f"{loader.with_loader.over(loader.without):.3f}x of the same without; waits {loader.wait_ms:.1f} ms/step"
        )
    click.echo(f"{speed.machine.gpu or speed.machine.cpu}, load {speed.machine.load_average_1min}")


def _cells(times: "Times") -> tuple[str, str]:
    return f"{times.median_ms:.1f}", f"{times.spread_percent:.1f} %"
