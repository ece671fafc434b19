"""``protoseg compare``."""

from pathlib import Path

import click

from protoseg_deploy.cli.arguments import PATH, comma_list, json_option, note, print_json, print_table, recipe_arguments
from protoseg_deploy.cli.verb import Verb
from protoseg_deploy.errors import ProtosegError

_MOST_SEEDS = 1000


def _seeds(_context: click.Context, _option: click.Parameter, texts: tuple[str, ...]) -> tuple[int, ...]:
    """Callback: ``3`` is 0, 1, 2; ``0,3,5`` is a list, and ``5,`` a list of one; several lists are one."""
    text = ",".join(texts)
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words or not all(word.isdecimal() and len(word) < 20 for word in words):
        raise click.BadParameter(f"{text!r}: give how many (3 is 0, 1, 2) or a list (0,3,5)")
    if len(texts) > 1 and not all("," in part for part in texts):
        raise click.BadParameter(f"{' and '.join(map(repr, texts))}: give how many once, or lists (0,3 or 5,)")
    numbers = tuple(map(int, words))
    if "," not in text:
        if numbers[0] > _MOST_SEEDS:
            raise click.BadParameter(f"{text!r}: at most {_MOST_SEEDS} seeds")
        numbers = tuple(range(numbers[0]))
    if not numbers or len(set(numbers)) != len(numbers):
        raise click.BadParameter(f"{text!r}: at least one seed, and each once")
    return numbers


@click.command(name="compare", cls=Verb, short_help="Compare methods or variants on the same data and seeds.")
@recipe_arguments
@click.option(
    "--methods",
    multiple=True,
    metavar="NAME[,NAME…]",
    help="Methods; NAME+prototypes adds the prototype branch.",
)
@click.option(
    "--variant",
    "variants",
    multiple=True,
    metavar="'NAME: KEY=VALUE …'",
    help="A variant with its own overrides, under a name of your choice; may be repeated.",
)
@click.option(
    "--seeds",
    callback=_seeds,
    multiple=True,
    default=("3",),
    show_default=True,
    metavar="N|LIST",
    help="Number of seeds, or a list of seeds: 0,3,5.",
)
@click.option("--run", "folder", type=PATH, required=True, help="Folder for all runs and the results.")
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Parallel runs.")
@json_option
def command(
    recipe: str,
    overrides: tuple[str, ...],
    methods: tuple[str, ...],
    variants: tuple[str, ...],
    seeds: tuple[int, ...],
    folder: Path,
    jobs: int,
    as_json: bool,
) -> None:
    """Train several methods, or other variants of RECIPE, with the same seeds and compare them.

    Every variant is trained once per seed, with the same labelled subset (data.labeled_seed) and the same random
    numbers (train.seed). All others are compared with the first variant, seed by seed. Both the best and the last
    evaluation are shown: the best one is selected on the images on which it is measured, so it is optimistic.

    Runs are ordinary run folders, DIR/VARIANT/seed-N, each trained in its own process. Repeating the command reads
    finished runs, resumes interrupted ones and trains the rest, so variants and seeds can be added later. Results are
    in DIR: comparison.json, comparison.md, miou.png.

    \b
    protoseg compare mine.yaml --methods supervised,fixmatch,fixmatch+prototypes --run runs/methods
    protoseg compare mine.yaml train.steps=2000 --methods supervised,unimatch --seeds 0,3,5 --run runs/short
    protoseg compare mine.yaml --methods fixmatch --run runs/sweep \\
        --variant 'wide: method.name=fixmatch model.decoder_channels=128' \\
        --variant 'sure: method.name=fixmatch method.confidence_threshold=0.98'
    protoseg compare mine.yaml --methods supervised,prototype --run runs/methods --jobs 2

    Memory is the peak of a run: allocator statistics on a GPU, the whole process on a CPU. With --jobs, runs share the
    cores, and several GPUs are assigned in turn; times are then not comparable with those of a single run.
    """
    from protoseg_deploy.reporting.comparison import compare_runs
    from protoseg_deploy.training.sweep import Variant, plan_runs, train_missing

    listed = [Variant.of_method(name) for name in comma_list(methods)]
    listed += [Variant.parse(text) for text in variants]
    if not listed:
        raise click.UsageError("Nothing to compare: give --methods, --variant, or both.")
    planned = plan_runs(recipe, overrides, listed, seeds, folder)
    outcome = train_missing(planned, folder, jobs=jobs, say=note)
    comparison = compare_runs(planned, outcome.failed)
    written = comparison.write(folder)
    if as_json:
        print_json(comparison.document())
    else:
        for table in comparison.tables():
            print_table(table.columns, table.rows, table.title)
        click.echo(f"Written: {', '.join(map(str, written))}")
    for line in comparison.unfinished():
        note(line)
    if outcome.signal:
        stopped = ProtosegError("stopped; everything is saved", "The same command resumes where it stopped.")
        stopped.exit_code = 128 + outcome.signal
        raise stopped
    if outcome.failed:
        raise ProtosegError(
            f"{len(outcome.failed)} of {len(planned)} runs failed: {', '.join(outcome.failed)}",
            "See the errors above, or in seed-N.log. The same command tries them again.",
        )
