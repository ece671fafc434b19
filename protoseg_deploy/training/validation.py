"""mIoU of networks in training, on whole validation images at the masks' own size."""

from collections.abc import Mapping, Sequence

import torch

from protoseg_deploy.data import Sample, read_image, read_mask
from protoseg_deploy.errors import DataError
from protoseg_deploy.evaluation.metrics import ConfusionMatrix
from protoseg_deploy.models import DeployedSegmenter, Segmenter
from protoseg_deploy.recipe import Data


@torch.inference_mode()
def validate(networks: Mapping[str, Segmenter], samples: Sequence[Sample], data: Data) -> dict[str, ConfusionMatrix]:
    """Every network on every sample; each image is read once.

    The networks compute what they will compute when deployed: whole images, the recipe's input scale, float32 whatever
    the precision of the training, argmax at full size. They come back in the mode they were in.
    """
    matrices = {name: ConfusionMatrix(network.num_classes, data.ignore_index) for name, network in networks.items()}
    modes = {name: network.training for name, network in networks.items()}
    deployed = {name: DeployedSegmenter(network.eval(), data.input_scale) for name, network in networks.items()}
    device = next(iter(networks.values())).head.weight.device
    for sample in samples:
        assert sample.mask is not None
        images = torch.from_numpy(read_image(sample.image))[None].to(device)
        truth = torch.from_numpy(read_mask(sample.mask, data.value_map))[None].to(device)
        if images.shape[1:3] != truth.shape[1:]:
            raise DataError(f"{sample.mask}: its size differs from that of {sample.image}")
        for name, module in deployed.items():
            matrices[name].update(module(images)[0], truth)
    for name, network in networks.items():
        network.train(modes[name])
    return matrices
