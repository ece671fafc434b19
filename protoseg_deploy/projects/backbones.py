"""Which backbone to begin with: the one whose weights are given, or the first whose weights are at hand."""

import os
from dataclasses import dataclass
from pathlib import Path

import timm

from protoseg_deploy.errors import UsageError
from protoseg_deploy.models.backbones import Backbone, registered_name
from protoseg_deploy.models.pretrained import pretrained_source
from protoseg_deploy.models.weights import load_backbone_weights

ON_GPU = ("resnet50", "convnext_tiny", "resnet18", "mobilenetv2_100")
ON_CPU = ("mobilenetv2_100", "mobilenetv3_large_100", "resnet18")


@dataclass(frozen=True)
class Start:
    """A backbone and its weights."""

    backbone: str
    weights: str
    """As ``model.weights`` says it."""
    reason: str
    warning: str = ""


def choose_backbone(weights: Path | None, backbone: str | None, on_gpu: bool) -> Start:
    """Choose a backbone.

    Args:
        weights: a file of weights; its name says of which timm model, unless `backbone` does.
        backbone: asked for.
        on_gpu: larger ones are affordable.

    Raises:
        UsageError: the file is missing, fits no model that its name says, or not the one asked for.
    """
    if weights is not None:
        name = backbone or _named(weights)
        load_backbone_weights(Backbone(name), weights)
        return Start(name, os.path.normpath(weights.absolute()), f"of the weights in {weights.name}")
    candidates = (registered_name(backbone),) if backbone else ON_GPU if on_gpu else ON_CPU
    fault = ""
    for name in candidates:
        try:
            pretrained_source(name)
        except UsageError as error:
            fault = fault or error.message
        else:
            reason = "asked for" if backbone else f"light enough for {'a GPU' if on_gpu else 'a CPU'}, weights at hand"
            return Start(backbone or name, "pretrained", reason)
    name = backbone or candidates[0]
    warning = (
        "no pretrained weights can be had: training starts from random ones and needs many more labelled images and "
        "steps. Give --weights FILE (.safetensors or .pth of a timm model), or connect to the network"
    )
    return Start(name, "none", "no pretrained weights can be had", warning=f"{warning} ({fault})")


def _named(weights: Path) -> str:
    """The timm model with the longest name that the name of a file begins with.

    Raises:
        UsageError: there is none.
    """
    stem = weights.stem.lower().replace("-", "_")
    fitting = [name for name in timm.list_models() if stem == name or stem.startswith((f"{name}_", f"{name}."))]
    if not fitting:
        raise UsageError(
            f"--weights {weights}: the name does not begin with a timm model",
            "Say which one with --backbone NAME, for example --backbone mobilenetv2_100.",
        )
    return max(fitting, key=len)
