"""``protoseg train``."""

from pathlib import Path

import click

from protoseg_deploy.cli.arguments import PATH, json_option, print_json, print_table, recipe_arguments


@click.command(name="train")
@recipe_arguments
@click.option("--run", "folder", type=PATH, required=True, help="Folder of the run; new, or with --resume its own.")
@click.option("--resume", is_flag=True, help="Continue an interrupted run exactly where it stopped.")
@json_option
def command(recipe: str, overrides: tuple[str, ...], folder: Path, resume: bool, as_json: bool) -> None:
    """Train RECIPE into a run folder.

    RECIPE is a shipped name or a YAML file. The data is checked before the first step. Ctrl-C and SIGTERM save the run;
    it can be resumed after any kind of interruption.

    \b
    protoseg train mine.yaml --run runs/mine
    protoseg train mine.yaml --run runs/mine --resume
    protoseg train camvid-mobilenetv2 --run runs/base method.name=fixmatch train.seed=1
    tensorboard --logdir runs
    """
    from protoseg_deploy.data import check_data
    from protoseg_deploy.methods import build_method
    from protoseg_deploy.recipe import load_recipe
    from protoseg_deploy.training import train

    loaded = load_recipe(recipe, overrides)
    summary = train(
        loaded, folder, build_method, resume=resume, check=lambda resolved, sets: check_data(resolved, sets).warnings
    )
    if as_json:
        print_json(summary)
        return
    rows = [
        ("best", f"{summary['best_miou_percent']:.2f}", summary["best_step"], folder / "best.safetensors"),
        ("last", f"{summary['last_miou_percent']:.2f}", summary["steps"], folder / "last.safetensors"),
    ]
    print_table(["network", "mIoU %", "step", "file"], rows)
    click.echo(f"Next: protoseg export {folder} --bundle bundles/{folder.name}")
