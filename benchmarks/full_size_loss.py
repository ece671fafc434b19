"""Losses and pseudo-labels at the size of the images: the plain way, recomputation, and the package's own.

A cross-entropy over ``[B,C,H,W]`` logits is bound by memory: a few operations a number, over tensors that are many
times as large as a core's cache. What counts is how often such a tensor is passed over, and how many are alive.

- *plain*: logits of the batch enlarged, `torch.nn.functional.cross_entropy`, weights. Kept for the backward pass is the
  log-softmax; the gradients of log-softmax and of the logits come on top.
- *recomputed*: the same image by image inside `torch.utils.checkpoint`: enlarged and reduced twice.
- *ours*: `FullSizeLogits`: image by image, the gradient taken in the forward pass at the decoder's stride.

Each is a forward and a backward pass, measured alternately in one run. Labels are those of a teacher: class and
confidence, and the mean probability of each class for distribution alignment. The last line is JSON.

    python benchmarks/full_size_loss.py --threads 1
"""

import json
import statistics
import time
from collections.abc import Callable

import click
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from protoseg_deploy.benchmarking.memory import peak_memory_bytes
from protoseg_deploy.cli.arguments import print_table
from protoseg_deploy.methods.full_size import FullSizeLogits
from protoseg_deploy.models import resize_logits

# What the shipped recipes have: images of one part of a batch, classes, crop.
_CASES = {"CamVid": (4, 11, 160), "VOC": (4, 21, 513), "Cityscapes": (2, 19, 769)}
_STRIDE = 4


class Case:
    """Random logits, labels and weights of one part of a batch."""

    def __init__(self, batch: int, classes: int, crop: int, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(0)
        padded = -(-crop // 16) * 16
        coarse = 3 * torch.randn(batch, classes, padded // _STRIDE, padded // _STRIDE, generator=generator)
        self.coarse = coarse.to(device, memory_format=torch.channels_last).requires_grad_()
        self.labels = torch.randint(0, classes, (batch, crop, crop), generator=generator).to(device)
        self.weights = (torch.rand(batch, crop, crop, generator=generator) < 0.7).float().to(device)
        self.sizes = (padded, padded), (crop, crop)

    def plain(self) -> Tensor:
        return self._sum(self.coarse, self.labels, self.weights)

    def recomputed(self) -> Tensor:
        parts = zip(self.coarse.split(1), self.labels.split(1), self.weights.split(1), strict=True)
        return torch.stack([checkpoint(self._sum, *part, use_reentrant=False) for part in parts]).sum()

    def ours(self) -> Tensor:
        return FullSizeLogits(self.coarse, *self.sizes).cross_entropy(self.labels, self.weights)

    def gradient(self, loss: Callable[[], Tensor]) -> Tensor:
        (gradient,) = torch.autograd.grad(loss(), self.coarse)
        return gradient

    @torch.no_grad()
    def plain_labels(self) -> tuple[Tensor, Tensor, Tensor]:
        probabilities = resize_logits(self.coarse, *self.sizes).softmax(dim=1)
        confidence, labels = probabilities.max(dim=1)
        return labels, confidence, (probabilities * self.weights[:, None]).sum(dim=(0, 2, 3))

    def our_labels(self) -> tuple[Tensor, Tensor, Tensor]:
        logits = FullSizeLogits(self.coarse, *self.sizes)
        return *logits.winners(), logits.class_totals(self.weights)

    def _sum(self, coarse: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        return (F.cross_entropy(resize_logits(coarse, *self.sizes), labels, reduction="none") * weights).sum()


def measure(case: Case, rounds: int, device: torch.device) -> dict[str, tuple[float, float]]:
    """Median milliseconds and peak MiB of each way, in turns; results are compared before."""
    losses = {"plain": case.plain, "recomputed": case.recomputed, "ours": case.ours}
    reference = case.gradient(case.plain)
    for loss in losses.values():
        torch.testing.assert_close(case.gradient(loss), reference)
    labels, confidence, totals = case.our_labels()
    plain_labels, plain_confidence, plain_totals = case.plain_labels()
    assert (labels != plain_labels).float().mean() < 1e-5, "classes differ where they are not equally likely"
    torch.testing.assert_close(confidence, plain_confidence)
    torch.testing.assert_close(totals, plain_totals, rtol=0.05, atol=0)  # estimated, as `class_totals` says
    work: dict[str, Callable[[], object]] = {
        name: lambda loss=loss: case.gradient(loss) for name, loss in losses.items()
    }
    work |= {"plain labels": case.plain_labels, "our labels": case.our_labels}
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, call in work.items():
            _wait(device)
            started = time.perf_counter()
            call()
            _wait(device)
            times[name].append(1000 * (time.perf_counter() - started))
    return {
        name: (statistics.median(times[name]), peak_memory_bytes(call, device) / 2**20) for name, call in work.items()
    }


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@click.command()
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=15, show_default=True)
@click.option("--device", default="cpu", show_default=True)
def main(threads: int, rounds: int, device: str) -> None:
    """Compare ways to a loss at full size."""
    torch.set_num_threads(threads)
    place = torch.device(device)
    document = {}
    for name, (batch, classes, crop) in _CASES.items():
        found = measure(Case(batch, classes, crop, place), rounds, place)
        size = batch * classes * crop * crop * 4 / 2**20
        print_table(
            ["", "ms", "peak MiB", "time against plain"],
            [
                (
                    way,
                    f"{ms:.1f}",
                    f"{mib:.1f}",
                    f"{ms / found['plain labels' if 'labels' in way else 'plain'][0]:.2f}x",
                )
                for way, (ms, mib) in found.items()
            ],
            f"{name}: {batch} x {classes} x {crop} x {crop}, {size:.1f} MiB of logits",
        )
        document[name] = {way: {"median_ms": ms, "peak_mib": mib} for way, (ms, mib) in found.items()}
    click.echo(json.dumps(document))


if __name__ == "__main__":
    main()
