"""A program for torchrun: `protoseg train`, in which the second of two processes sends itself a signal once."""

import os
import signal
import sys
from pathlib import Path

import torch

from protoseg_deploy.cli import cli
from protoseg_deploy.training import Trainer


def main(marker, number, step, *arguments):
    take = Trainer.train_step

    def take_or_die(trainer, batch):
        if os.environ["RANK"] == "1" and trainer.step == int(step) and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.Signals[number])
        return take(trainer, batch)

    Trainer.train_step = take_or_die
    cli(arguments)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), *sys.argv[2:])
