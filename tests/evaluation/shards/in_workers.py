"""What tests do to worker processes: given as their `setup`; and a program that predicts slowly, to be killed."""

import os
import signal
import sys
import time
from pathlib import Path

from protoseg_deploy.data.images import decode_image
from protoseg_deploy.evaluation.shards import worker
from protoseg_deploy.evaluation.shards.predicting import Workforce, predict_sharded
from protoseg_deploy.evaluation.shards.spec import RuntimeChoice
from tests.runtimes.small_graphs import make_graph, metadata, write

SECONDS_AN_IMAGE = 0.01


def crash_at_two() -> None:
    """A decoder that takes its process with it: at one image always, at another one once, as a file remembers."""

    def decode(content, name, *options):
        crashed = Path(name).parents[2] / "crashed"
        if name.endswith("0004.png"):
            os.kill(os.getpid(), signal.SIGSEGV)
        if name.endswith("0007.png") and not crashed.exists():
            crashed.touch()
            os._exit(3)
        return decode_image(content, name, *options)

    worker.decode_image = decode


def crash() -> None:
    """A worker that never gets to its first image."""
    os._exit(3)


def replace_graph() -> None:
    """Whatever is opened, it is another artefact than the one that was there."""

    def opened(choice: RuntimeChoice, threads: int | None = None):
        path = Path(choice.path)
        path.write_bytes(write(path.with_name("replaced.onnx"), make_graph(said=metadata(program="x"))).read_bytes())
        return plainly(choice, threads)

    plainly, RuntimeChoice.open = RuntimeChoice.open, opened


def slow_down() -> None:
    def decode(content, name, *options):
        time.sleep(SECONDS_AN_IMAGE)
        return decode_image(content, name, *options)

    worker.decode_image = decode


def main(graph: str, images: str, out: str, workers: str) -> None:
    choice = RuntimeChoice(graph, device="cpu")
    info = choice.open(threads=1).info
    try:
        workforce = Workforce(workers=int(workers), setup=slow_down)
        predict_sharded(choice, info, [images], out, shards=16, workforce=workforce)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main(*sys.argv[1:])
