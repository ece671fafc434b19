"""mIoU of networks in training, on the validation images at the masks' own size."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from protoseg_deploy.data import Sample
from protoseg_deploy.data.sources import UInt8Array
from protoseg_deploy.distributed import World, sum_over_processes
from protoseg_deploy.errors import ProtosegError
from protoseg_deploy.evaluation.metrics import ConfusionMatrix
from protoseg_deploy.evaluation.reading import read_batches
from protoseg_deploy.models import DeployedSegmenter, Segmenter, WindowedSegmenter, Windows
from protoseg_deploy.recipe import Data, Train, image_reading, mask_reading

_ALONE = World(0, 1)


@torch.inference_mode()
def validate(
    networks: Mapping[str, Segmenter],
    samples: Sequence[Sample],
    data: Data,
    train_spec: Train,
    world: World = _ALONE,
) -> dict[str, ConfusionMatrix]:
    """Every network on every sample; each image is read once, by one of the processes.

    The networks compute what they will compute when deployed: the recipe's input scale, float32 whatever the precision
    of the training, argmax at full size; on whole images, ``train.eval_batch`` of the same size at a time, or in the
    windows of ``train.eval_window``. They come back in the mode they were in.

    Uint8 images and masks are all that crosses from the host to the device, and nothing comes back before the end:
    logits live and die on the device, and pixels are counted there. While it computes, the next images are decoded.

    Args:
        networks: by name, all on one device.
        samples: images with masks, the same in all processes.
        data: value map, ignore index, input scale.
        train_spec: batch and windows.
        world: this process among those that share the samples, which are all that call this.

    Returns:
        By name, the same in all processes.

    Raises:
        DataError: samples of this process cannot be used; every error with its file.
        ProtosegError: another process has failed.
    """
    device = next(iter(networks.values())).head.weight.device
    matrices = {name: ConfusionMatrix(network.num_classes, data.ignore_index) for name, network in networks.items()}
    failure: Exception | None = None
    try:
        _count(networks, matrices, samples[world.rank :: world.size], data, train_spec, device)
    except Exception as error:
        if world.size == 1:
            raise
        failure = error
    if world.size > 1:
        _raise_together(failure, device)
        for matrix in matrices.values():
            matrix.merge_processes(device)
    return matrices


def _count(
    networks: Mapping[str, Segmenter],
    matrices: Mapping[str, ConfusionMatrix],
    samples: Sequence[Sample],
    data: Data,
    spec: Train,
    device: torch.device,
) -> None:
    """What one process does of `validate`: bring its samples into the matrices."""
    windows = Windows.of_recipe(spec)
    modes = {name: network.training for name, network in networks.items()}
    deployed = {name: _deployed(network.eval(), data.input_scale, windows) for name, network in networks.items()}
    batches = read_batches(
        samples,
        classes=next(iter(networks.values())).num_classes,
        images=image_reading(data),
        masks=mask_reading(data),
        batch=1 if windows else spec.eval_batch,
    )
    try:
        for images, masks, _ in batches:
            placed, truth = _place(images, device), _place(masks, device)
            for name, module in deployed.items():
                matrices[name].update(module(placed)[0], truth)
    finally:
        for name, network in networks.items():
            network.train(modes[name])


def _deployed(network: Segmenter, input_scale: float, windows: Windows | None) -> DeployedSegmenter | WindowedSegmenter:
    if windows is None:
        return DeployedSegmenter(network, input_scale)
    return WindowedSegmenter(network, input_scale, windows)


def _place(array: UInt8Array, device: torch.device) -> Tensor:
    """On the device; the host continues while a GPU fetches it."""
    tensor = torch.from_numpy(array)
    if device.type != "cuda":
        return tensor.to(device)
    # Only from pinned memory; its allocator keeps the block until the copy is done.
    return tensor.pin_memory().to(device, non_blocking=True)


def _raise_together(failure: Exception | None, device: torch.device) -> None:
    """Fail in every process where one has failed: the others would wait for its counts forever."""
    failures = int(sum_over_processes(torch.tensor(int(failure is not None), device=device)))
    if failure is not None:
        raise failure
    if failures:
        processes = "another process" if failures == 1 else f"{failures} other processes"
        raise ProtosegError(f"validation has failed in {processes}", "The reason is what it says itself.")
