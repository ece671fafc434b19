"""What tests do to worker processes: given as their `setup`; and a program that predicts slowly, to be killed."""

import os
import signal
import sys
import time
from pathlib import Path

from protoseg_deploy.data.images import decode_image
from protoseg_deploy.evaluation.shards import predicting, worker
from protoseg_deploy.evaluation.shards.predicting import Workforce, predict_sharded
from protoseg_deploy.evaluation.shards.spec import RuntimeChoice

SECONDS_AN_IMAGE = 0.01


def crash_at_some() -> None:
    """A decoder that takes its process with it, at two images and in two ways."""

    def decode(content, name, *options):
        if name.endswith("0004.png"):
            os.kill(os.getpid(), signal.SIGSEGV)
        if name.endswith("0007.png"):
            os._exit(3)
        return decode_image(content, name, *options)

    worker.decode_image = decode


def crash_once() -> None:
    """A decoder that crashes at one image, and never again: a file beside it remembers."""

    def decode(content, name, *options):
        crashed = Path(name).parents[2] / "crashed"
        if name.endswith("0004.png") and not crashed.exists():
            crashed.touch()
            os._exit(3)
        return decode_image(content, name, *options)

    worker.decode_image = decode


def crash() -> None:
    """A worker that never gets to its first image."""
    os._exit(3)


def slow_down() -> None:
    def decode(content, name, *options):
        time.sleep(SECONDS_AN_IMAGE)
        return decode_image(content, name, *options)

    worker.decode_image = decode


def main(graph: str, images: str, out: str) -> None:
    choice = RuntimeChoice(graph, device="cpu")
    info = choice.open(threads=1).info
    assert predicting.count_cores() > 0
    try:
        predict_sharded(choice, info, [images], out, shards=16, workforce=Workforce(workers=2, setup=slow_down))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main(*sys.argv[1:])
