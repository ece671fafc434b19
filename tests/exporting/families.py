"""Exported graphs of the backbone families, each made once a session, for every test that wants one.

The networks are random but not degenerate: their normalisations are measured and their heads scaled on sample images,
so that classes vary over an image and every branch counts.
"""

import functools
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from protoseg_deploy.bundles.metadata import Classes, GraphMetadata
from protoseg_deploy.choices import Precision
from protoseg_deploy.exporting.low_precision.casting import cast_graph
from protoseg_deploy.exporting.tracing.onnx_export import GraphOptions, export_onnx, normalisation, save_graph
from protoseg_deploy.models import NetworkSpec, Segmenter, build_segmenter
from protoseg_deploy.recipe import ClassTable, Model
from tests.made_once import made_once

CLASSES = ClassTable(("a", "b", "c", "d", "e"), ((0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)))


@dataclass(frozen=True)
class Family:
    """A backbone that stands for its family, and a decoder; every decoder occurs with several families."""

    backbone: str
    decoder: str
    size: tuple[int, int] | None = None
    """Height and width the graph is bound to; None: any."""

    def __str__(self) -> str:
        return f"{self.backbone}-{self.decoder}"


FAMILIES = (
    Family("resnet10t", "deeplabv3plus"),
    Family("resnet10t", "lraspp"),
    Family("mobilenetv3_small_050", "fpn_lite"),
    Family("test_efficientnet", "deeplabv3plus"),
    Family("test_convnext", "fpn_lite"),
    Family("swin_tiny_patch4_window7_224", "fpn", (70, 90)),
    Family("fastvit_t8", "deeplabv3plus"),
    Family("regnety_002", "lraspp"),
    Family("vit_small_patch14_dinov2", "fpn"),
    Family("vit_small_patch14_dinov2", "dpt"),
    Family("test_convnext", "dpt"),
)

EVERY = os.environ.get("PROTOSEG_ALL_ENGINES") == "1"
"""Whether tests that take long try all families (`make test-all-engines`) or a spread of them."""
SPREAD = tuple(
    family
    for family in FAMILIES
    if str(family)
    in {
        "resnet10t-lraspp",
        "mobilenetv3_small_050-fpn_lite",
        "test_efficientnet-deeplabv3plus",
        "fastvit_t8-deeplabv3plus",
        "vit_small_patch14_dinov2-dpt",
        "test_convnext-dpt",
    }
)

folder = Path()
"""Where the graphs lie; set at the start of a session, the same for all processes that run tests."""


@functools.cache
def network(family: Family) -> tuple[Segmenter, NetworkSpec]:
    """The network of a family; the same weights at every call."""
    torch.manual_seed(0)
    spec = NetworkSpec(
        Model(backbone=family.backbone, weights="none", decoder=family.decoder, decoder_channels=16), CLASSES
    )
    segmenter = build_segmenter(spec)
    _shorten(segmenter)
    liven(segmenter)
    return segmenter.eval(), spec


def exported(family: Family, precision: Precision = "fp32") -> Path:
    """The graph of a family with the output ``logits``; fp32, fp16 or bf16."""
    return _exported(family, precision)


@functools.cache
def _exported(family: Family, precision: Precision) -> Path:
    name = f"{family}.{precision}.onnx"
    return made_once(folder / name, lambda path: _make(family, precision, path))


def _make(family: Family, precision: Precision, path: Path) -> None:
    segmenter, spec = network(family)
    options = GraphOptions(family.size, logits=True)
    described = metadata(segmenter, spec, options, precision)
    if precision == "fp32":
        export_onnx(segmenter, spec, described, path, options)
        return
    assert precision != "int8"
    model, _ = cast_graph(onnx.load(exported(family)), precision)
    onnx.helper.set_model_props(model, described.to_properties())
    save_graph(model, path)


def metadata(
    segmenter: Segmenter, spec: NetworkSpec, options: GraphOptions, precision: Precision = "fp32"
) -> GraphMetadata:
    mean, std = normalisation(segmenter)
    return GraphMetadata(
        program="test",
        classes=Classes.of(spec.classes),
        ignore_index=255,
        mean=mean,
        std=std,
        input_scale=spec.input_scale,
        fixed_size=options.size,
        precision=precision,
        parameters=1,
        backbone=spec.model.backbone,
        decoder=spec.model.decoder,
        provenance={"run": "x"},
        network_sha256="0",
    )


def pictures(batch: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """``[B,H,W,3]`` uint8: blotches and noise."""
    random = torch.Generator().manual_seed(seed)
    coarse = torch.rand(batch, 3, height // 16 + 2, width // 16 + 2, generator=random) * 255
    smooth = nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")
    noisy = smooth + torch.randn(batch, 3, height, width, generator=random) * 20
    return noisy.clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous().numpy()


def _shorten(segmenter: Segmenter) -> None:
    """Fewer blocks of the same kind: two a stage of a swin, one for each of a ViT's four outputs."""
    net = segmenter.backbone.net
    for name, stage in net.named_children():
        if name.startswith("layers_"):
            stage.blocks = stage.blocks[:2]
    if segmenter.backbone.is_plain_vit:
        for place in range(len(net.model.blocks)):
            if place not in net.out_indices:
                net.model.blocks[place] = nn.Identity()


@torch.no_grad()
def liven(segmenter: Segmenter) -> None:
    """Statistics of normalisations, scales of layers and the head, as if it had been trained."""
    for name, parameter in segmenter.named_parameters():
        if name.endswith("gamma") and float(parameter.max()) < 1e-2:
            nn.init.uniform_(parameter, 0.3, 0.7)  # starts at 1e-5, where a lost branch would not show
        elif name.endswith("pos_embed"):
            nn.init.normal_(parameter)  # starts near zero, where wrong resampling would not show
    for module in segmenter.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # average over what it sees, whatever it starts at
            nn.init.uniform_(module.weight, 0.7, 1.3)
            nn.init.normal_(module.bias, std=0.2)
    images = torch.from_numpy(pictures(4, 96, 96, seed=1)).permute(0, 3, 1, 2)
    segmenter.train()(images)
    for module in segmenter.modules():
        if isinstance(module, nn.BatchNorm2d):
            # Pooled to one pixel, images hardly differ; dividing by that would blow up every rounding.
            module.running_var.clamp_(min=0.05)
    logits: Tensor = segmenter.eval()(images)
    mean, spread = logits.mean((0, 2, 3)), logits.std((0, 2, 3))
    segmenter.head.weight /= spread.view(-1, 1, 1, 1)
    segmenter.head.bias.copy_((segmenter.head.bias - mean) / spread)
