"""A program: the verbs of `protoseg` one after the other, in one process: every_verb.py RECIPE FOLDER."""

import importlib.util
import sys
from pathlib import Path

from protoseg_deploy.cli import cli


def main(recipe: str, folder: Path) -> None:
    run, student, bundle = folder / "run", folder / "student", folder / "bundle"
    images = folder / "images"
    openvino = ["--backend", "openvino"] if importlib.util.find_spec("openvino") else []
    trackers = ["train.trackers=[tensorboard,csv,mlflow]"] if importlib.util.find_spec("mlflow") else []
    verbs = [
        ["check", recipe],
        ["train", recipe, "--run", run, *trackers],
        ["distill", run, "--run", student, "model.decoder_channels=8"],
        ["evaluate", student, "--recipe", recipe],
        ["export", student, "--bundle", bundle],
        ["verify", bundle, "--images", images, *openvino],
        ["predict", bundle, images, "--out", folder / "out", *openvino],
        [
            "predict",
            bundle,
            "--images",
            images,
            "--out",
            folder / "shards",
            "--shards",
            "2",
            "--workers",
            "0",
            "--pack",
        ],
        ["report", run, student, bundle, "--out", folder / "report.html"],
        ["bench", bundle, "--size", "64", "--runs", "1"],
        ["bench-train", recipe, "--rounds", "2", "--steps", "1"],
        ["compare", recipe, "--methods", "supervised", "--seeds", "1", "--run", folder / "compared"],
        ["doctor"],
    ]
    if importlib.util.find_spec("tensorrt_rtx"):
        engine = ["--engine", "tensorrt-rtx", "--target-sm", "8.6", "--profile", "1x64x64", "--precision", "fp32"]
        verbs.append(["build", bundle, *engine])
    for verb in verbs:
        print("protoseg", *verb, flush=True)
        cli([str(word) for word in verb], standalone_mode=False)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
