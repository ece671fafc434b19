"""The decoder for plain ViTs against a plain reference, in every size, and in a training step of UniMatch V2."""

import math

import numpy as np
import pytest
import torch

from protoseg_deploy.data import find_data
from protoseg_deploy.data.loading import TrainingBatches
from protoseg_deploy.methods import build_method
from protoseg_deploy.models import Segmenter
from protoseg_deploy.models.backbones import Backbone
from protoseg_deploy.models.dpt import DPT
from protoseg_deploy.recipe import Model, class_table
from tests.conftest import with_values


def decoder_of(backbone, width=8, **more):
    torch.manual_seed(0)
    spec = Model(backbone=backbone, weights="none", decoder="dpt", decoder_channels=width, **more)
    return DPT(Backbone(backbone, spec.output_stride), spec)


def convolution(values, layer):
    """``[C,h,w]`` tap by tap, zeros outside, at the stride of the layer."""
    weight, step, border = layer.weight.detach().numpy(), layer.stride[0], layer.padding[0]
    padded = np.pad(values, ((0, 0), (border, border), (border, border)))
    taps = weight.shape[-1]
    height, width = ((side - taps) // step + 1 for side in padded.shape[1:])
    out = np.zeros((weight.shape[0], height, width))
    for row in range(taps):
        for column in range(taps):
            seen = padded[:, row : row + step * height : step, column : column + step * width : step]
            out += np.einsum("oc,chw->ohw", weight[:, :, row, column], seen)
    return out if layer.bias is None else out + layer.bias.detach().numpy()[:, None, None]


def enlarged_pixels(values, layer):
    """A transposed convolution whose stride is its size: each pixel becomes a block of its own."""
    weight, times = layer.weight.detach().numpy(), layer.stride[0]
    blocks = np.einsum("chw,cors->ohrws", values, weight)
    channels, height, _, width, _ = blocks.shape
    bias = layer.bias.detach().numpy()[:, None, None]
    return blocks.reshape(channels, height * times, width * times) + bias


def between(old, new):
    """``[new,old]`` weights of linear interpolation between pixel centres."""
    weights = np.zeros((new, old))
    for place in range(new):
        centre = min(max((place + 0.5) * old / new - 0.5, 0.0), old - 1.0)
        left = min(math.floor(centre), old - 1)
        weights[place, left] += 1 - (centre - left)
        weights[place, min(left + 1, old - 1)] += centre - left
    return weights


def resized(values, height, width):
    return between(values.shape[1], height) @ values @ between(values.shape[2], width).T


def residual(values, unit):
    first, second = unit.change[1], unit.change[3]
    return values + convolution(np.maximum(convolution(np.maximum(values, 0), first), 0), second)


def reference(decoder, maps):
    """The decoder of the paper: it resizes first and projects after that."""
    projected = [convolution(level, block[0]) for level, block in zip(maps, decoder.reassemble, strict=True)]
    levels = [
        enlarged_pixels(projected[0], decoder.reassemble[0][1]),
        enlarged_pixels(projected[1], decoder.reassemble[1][1]),
        projected[2],
        convolution(projected[3], decoder.reassemble[3][1]),
    ]
    levels = [convolution(level, narrow) for level, narrow in zip(levels, decoder.narrow, strict=True)]
    sizes = [level.shape[1:] for level in levels]
    sizes = [(2 * sizes[0][0], 2 * sizes[0][1]), *sizes]
    refine = [decoder.deepest, *(fusion.refine for fusion in decoder.fusions)]
    fused = None
    for number, (unit, project) in zip((3, 2, 1, 0), refine, strict=True):
        level = levels[number]
        if fused is not None:
            level = residual(level, decoder.fusions[2 - number].enter) + fused
        fused = convolution(resized(residual(level, unit), *sizes[number]), project)
    return np.maximum(convolution(fused, decoder.output[0]), 0)


def test_the_decoder_is_that_of_the_paper():
    decoder = decoder_of("test_vit").double()
    maps = torch.randn(4, 2, 64, 5, 3, dtype=torch.float64)
    with torch.no_grad():
        embedding, features = decoder(list(maps))
    assert torch.equal(embedding, features)
    for image in range(2):
        expected = reference(decoder, maps[:, image].numpy())
        assert expected.std() > 1e-3
        np.testing.assert_allclose(features[image].numpy(), expected, atol=1e-12)


def test_level_widths_and_size_are_the_published_ones_for_a_vit_base():
    """10.9 million decoder parameters are published; 0.295 of them are a residual unit that is never called."""
    spec = Model(backbone="vit_base_patch14_dinov2", decoder="dpt", decoder_channels=128)
    with torch.device("meta"):
        decoder = DPT(Backbone(spec.backbone), spec)
    assert [narrow.in_channels for narrow in decoder.narrow] == [96, 192, 384, 768]
    head, unused = 128 * 21 + 21, 2 * (9 * 128 * 128 + 128)
    parameters = sum(parameter.numel() for parameter in decoder.parameters()) + head + unused
    assert parameters == pytest.approx(10.9e6, abs=0.05e6)


@pytest.mark.parametrize(
    ("backbone", "output_stride"),
    [("vit_tiny_patch16_224", 32), ("vit_small_patch14_dinov2", 32), ("resnet10t", 32), ("resnet10t", 8)],
)
def test_features_have_twice_the_resolution_of_the_finest_level_whatever_the_size(backbone, output_stride):
    spec = Model(backbone=backbone, weights="none", decoder="dpt", decoder_channels=8, output_stride=output_stride)
    network = Segmenter(spec, 3).eval()
    for height, width in ((70, 45), (64, 96), (17, 23)):
        with torch.inference_mode():
            output = network.forward_features(torch.rand(1, 3, height, width) * 255)
        finest = 4 if network.backbone.is_plain_vit else 1
        assert output.logits.shape[-2:] == tuple(2 * finest * side for side in output.pyramid[0].shape[-2:])
        assert output.full_size_logits().shape == (1, 3, height, width)


@pytest.mark.parametrize("backbone", ["test_vit", "resnet10t"])
def test_every_parameter_learns_from_one_image(backbone):
    """What never got a gradient would stall training on several processes."""
    decoder = decoder_of(backbone).train()
    strides = (16,) * 4 if backbone == "test_vit" else (4, 8, 16, 32)
    channels = [layer[0].in_channels for layer in decoder.reassemble or ()] or [64, 128, 256, 512]
    pyramid = [torch.randn(1, width, 96 // side, 64 // side) for width, side in zip(channels, strides, strict=True)]
    decoder(pyramid)[1].square().mean().backward()
    for name, parameter in decoder.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def test_unimatch_v2_trains_a_vit_with_it(tiny_recipe):
    recipe = with_values(
        tiny_recipe,
        method={"name": "unimatch_v2"},
        model={"backbone": "test_vit", "decoder": "dpt", "dropout": 0.0},
    )
    torch.manual_seed(0)
    student, teacher = (Segmenter(recipe.model, 3) for _ in range(2))
    method = build_method(recipe, student, class_table(recipe.data))
    sets = find_data(recipe.data, need_unlabeled=True, need_val=False)
    batches = TrainingBatches(recipe, sets.labeled, sets.unlabeled, strong_views=method.strong_views)
    losses = method.step(student.train(), teacher, batches.batch(0).to(torch.device("cpu")), 0).losses
    assert set(losses) == {"labeled", "unlabeled"}
    assert all(math.isfinite(loss.item()) and loss.item() > 0 for loss in losses.values())
    losses["unlabeled"].backward()
    for name, parameter in student.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name
