"""How well the networks of a comparison segment the images that they learned from without labels.

Only where masks of the whole labelled pool exist: a run used `data.labeled_count` of them, and its last network is
judged by the rest. A pool shows more than a small validation set does, and runs differ less by chance there; but the
networks have seen these images, so it says what self-training does, not how well a network will do elsewhere.

    benchmarks/evidence.sh camvid-23 CAMVID WEIGHTS RUNS
    python benchmarks/unlabelled_images.py RUNS
"""

import statistics
from pathlib import Path

import click
import torch

from protoseg_deploy.cli.arguments import PATH, print_table
from protoseg_deploy.data.folders import find_data
from protoseg_deploy.errors import ProtosegError
from protoseg_deploy.evaluation.evaluate import Evaluation, evaluate
from protoseg_deploy.recipe import load_run_recipe, mask_reading
from protoseg_deploy.runtimes.opening import open_runtime


def judge(run: Path) -> Evaluation:
    data = load_run_recipe(run / "recipe.yaml").data
    labeled = find_data(data, need_unlabeled=False, need_val=False, drawn=run / "labeled.txt").labeled
    everything = data.model_copy(update={"labeled_count": None, "labeled_share": None})
    pool = find_data(everything, need_unlabeled=False, need_val=False).labeled
    rest = [sample for sample in pool if sample not in labeled]
    network = open_runtime(run / "last.safetensors", device="auto")
    return evaluate(network, rest, masks=mask_reading(data))


@click.command(help=__doc__)
@click.argument("folder", type=PATH)
@click.option("--threads", default=2, show_default=True)
def main(folder: Path, threads: int) -> None:
    torch.set_num_threads(threads)
    rows, images = [], 0
    for variant in sorted({path.parent.parent for path in folder.glob("*/seed-*/summary.json")}):
        runs = sorted(path.parent for path in variant.glob("seed-*/summary.json"))
        try:
            results = [judge(run) for run in runs]
        except ProtosegError as error:
            raise click.ClickException(str(error)) from None
        means = [result.miou_percent for result in results]
        spread = f" ± {statistics.stdev(means):.2f}" if len(means) > 1 else ""
        by_seed = ", ".join(f"{run.name[5:]}: {mean:.2f}" for run, mean in zip(runs, means, strict=True))
        rows.append((variant.name, by_seed, f"{statistics.mean(means):.2f}{spread}"))
        images = results[0].images
    if not rows:
        raise click.ClickException(f"{folder}: no finished run, VARIANT/seed-N with a summary.json")
    print_table(["", "by seed", "mIoU %"], rows, title=f"{images} images without labels")


if __name__ == "__main__":
    main()
