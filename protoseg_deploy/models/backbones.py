"""Any timm model as a feature pyramid, whatever its family."""

from typing import Any

import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.pool2d_same import AvgPool2dSame, MaxPool2dSame
from timm.models._features import FeatureGetterNet
from torch import Tensor, nn

from protoseg_deploy.errors import UsageError
from protoseg_deploy.models.pretrained import cannot_fetch, pretrained_source
from protoseg_deploy.recipe.loading import did_you_mean

_MOBILE_PARAMETERS = 12_000_000
_PLAIN_VITS = {"beit", "deit", "eva", "naflexvit", "vision_transformer", "vision_transformer_hybrid", "xcit"}
"""Modules of timm whose networks are plain ViTs: a stem, then blocks of one stride."""
_MULTIPLES = {"davit": 1, "mobilevit": 2}
"""Modules of timm whose networks pad or resize what they are given, stage by stage, which cannot be traced for images
of any size, or makes longer formulas with every stage; and the multiples of their stride at which they do not."""


class Backbone(nn.Module):
    """A timm model that returns its feature maps, shallow to deep, as NCHW.

    Convolutional and hierarchical models give their stages of stride 4 and deeper. Plain ViTs give four of their
    blocks, all at the stride of the patches and through the network's last normalisation, without which blocks differ
    in scale. Most families take any image size; some want sides that are multiples of their patches, or lose border
    pixels otherwise; in others the padding of every layer would depend on the size, as with TensorFlow's SAME padding.
    `size_multiple` says which multiple to pad to (1: any size).

    Args:
        name: timm model name.
        output_stride: 8, 16 or 32; families that cannot be dilated keep their own stride.
        pretrained: fetch timm's weights.

    Raises:
        UsageError: timm knows no such model, or it has no feature maps.
    """

    def __init__(self, name: str, output_stride: int = 32, pretrained: bool = False) -> None:
        super().__init__()
        self.name = name
        known = registered_name(name)
        self._known, options = known, _accepted_options(known, output_stride)
        self.net = _create(known, options) if not pretrained else _create_pretrained(known, options)
        info = self.net.feature_info
        self.channels: list[int] = list(info.channels())
        self.strides: list[int] = list(info.reduction())
        config: Any = timm.get_pretrained_cfg(known)
        self.mean: tuple[float, float, float] = tuple(config.mean) if config else IMAGENET_DEFAULT_MEAN
        self.std: tuple[float, float, float] = tuple(config.std) if config else IMAGENET_DEFAULT_STD
        self.is_plain_vit = len(set(self.strides)) == 1
        self.is_mobile = _is_mobile(self.net)
        self._channels_last_output = _is_channels_last(self.net)
        self.size_multiple = self._least_multiple(options)

    def _least_multiple(self, options: dict[str, Any]) -> int:
        """What `size_multiple` says: where windows have to fill the maps, the side of the images of the pretraining."""
        any_size = self._map_sizes(97, 131, options) == self._full_cover(97, 131) and not _pads_by_size(self.net)
        times = _MULTIPLES.get(timm_module(self._known), 0 if any_size else 1)
        if not times:
            return 1
        fault = ""
        config: Any = timm.get_pretrained_cfg(self._known)
        multiples: list[int] = [times * max(self.strides), *([config.input_size[1]] if config else [])]
        for multiple in multiples:
            height, width = 3 * multiple, 4 * multiple
            sizes = self._map_sizes(height, width, options)
            if sizes == self._full_cover(height, width):
                return multiple
            shown = ", ".join(f"{rows}x{columns}" for rows, columns in sizes)
            fault = fault or (
                f"the maps of {self.name} are not those of a pyramid: of an image of {height}x{width} pixels they have "
                f"{shown}, where its strides are {self.strides}"
                if sizes
                else f"{self.name} takes images of one size only"
            )
        raise UsageError(f"model.backbone: {fault}", "Choose a backbone that takes any size: docs/backbones.md.")

    def forward(self, image: Tensor) -> list[Tensor]:
        """Feature maps of a normalised image ``[B,3,H,W]``, sides multiples of `size_multiple`."""
        features: list[Tensor] = self.net(image)
        if self._channels_last_output:
            features = [feature.permute(0, 3, 1, 2).contiguous() for feature in features]
        return features

    def _map_sizes(self, height: int, width: int, options: dict[str, Any]) -> list[tuple[int, int]]:
        """Sizes of the maps of an image, found without computing them; empty if the network refuses such an image, or
        its maps have not the channels that timm says.
        """
        try:
            with torch.device("meta"), torch.no_grad():
                net: Any = timm.create_model(self._known, pretrained=False, features_only=True, **options).eval()
                maps: list[Tensor] = net(torch.empty(1, 3, height, width))
        except Exception:  # of any kind: code of a thousand models that are asked for something unusual
            return []
        if self._channels_last_output:
            maps = [feature.permute(0, 3, 1, 2) for feature in maps]
        if any(feature.dim() != 4 for feature in maps) or [feature.shape[1] for feature in maps] != self.channels:
            return []
        return [(feature.shape[2], feature.shape[3]) for feature in maps]

    def _full_cover(self, height: int, width: int) -> list[tuple[int, int]]:
        """Sizes of maps that lose no border pixel."""
        return [(-(-height // stride), -(-width // stride)) for stride in self.strides]


def registered_name(name: str) -> str:
    """The name under which timm registers a model; prefixes that its documentation uses are taken off.

    Raises:
        UsageError: it has no such model, or no such weights of it.
    """
    source, _, rest = name.rpartition(":")
    bare = rest.removeprefix("timm/") if source in {"", "hf-hub", "hf_hub", "timm"} else name
    base, _, tag = bare.partition(".")
    if not timm.is_model(base):
        raise UsageError(
            f"model.backbone: timm has no model {name!r}{did_you_mean(base, timm.list_models())}",
            "`python -c \"import timm; print(timm.list_models('*resnet*'))\"` lists names. "
            "Weights of others than timm's are given as a file: model.weights.",
        )
    tags = [listed.partition(".")[2] for listed in timm.list_models(f"{base}.*", pretrained=True)]
    if tag and tag not in tags:
        known = f"tags are {', '.join(tags)}" if tags else "it has none"
        raise UsageError(
            f"model.backbone: timm has no weights {tag!r} of {base!r}{did_you_mean(tag, tags)}",
            f"Leave the tag out, or choose one: {known}.",
        )
    return bare if tag else base


def _accepted_options(name: str, output_stride: int) -> dict[str, Any]:
    """What to ask timm for: the most that this family accepts, found without computing anything."""
    reason = ""
    for options in _creation_options(name.partition(".")[0], output_stride):
        try:
            with torch.device("meta"):
                _create(name, options)
        except Exception as error:  # see `Backbone._map_sizes`
            reason = (str(error).splitlines() or [type(error).__name__])[0]
        else:
            return options
    raise UsageError(
        f"model.backbone: timm cannot build {name!r} as a feature pyramid: {reason}", "Choose another backbone."
    )


def _create(name: str, options: dict[str, Any], **weights: Any) -> Any:
    if not is_plain_vit(name.partition(".")[0]):
        return timm.create_model(name, features_only=True, **options, **weights)
    # timm's `features_only` would leave out the last normalisation.
    size = {key: value for key, value in options.items() if key != "out_indices"}
    vit = timm.create_model(name, num_classes=0, **size, **weights)
    return FeatureGetterNet(vit, options["out_indices"], norm=True)


def _create_pretrained(name: str, options: dict[str, Any]) -> Any:
    source = pretrained_source(name)
    try:
        return _create(name, options, pretrained=True, **source)
    except Exception as error:  # without weights it can be created: what fails is to fetch, read or fit them
        raise cannot_fetch(name, (str(error).splitlines() or [type(error).__name__])[0]) from None


def _creation_options(name: str, output_stride: int) -> list[dict[str, Any]]:
    """What to ask timm for, best first: families differ in what they accept."""
    if is_plain_vit(name):
        with torch.device("meta"):
            probe: Any = timm.create_model(name, pretrained=False, num_classes=0)
        depth = len(probe.blocks)
        taps = [depth * quarter // 4 - 1 for quarter in (1, 2, 3, 4)]
        return [{"out_indices": taps, "dynamic_img_size": True}, {"out_indices": taps}]
    pyramid = {"out_indices": _pyramid_indices(name)}
    return [{**pyramid, "output_stride": output_stride}, {**pyramid, "strict_img_size": False}, pyramid]


def _pyramid_indices(name: str) -> tuple[int, ...]:
    """The last four levels: models with a stride-2 level have five."""
    try:
        with torch.device("meta"):
            probe: Any = timm.create_model(name, pretrained=False, features_only=True)
    except Exception as error:  # see `Backbone._map_sizes`
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"model.backbone: timm gives no feature maps of {name!r}: {reason}", "Choose another backbone."
        ) from None
    return tuple(range(len(probe.feature_info.channels())))[-4:]


def is_plain_vit(name: str) -> bool:
    """Whether the maps of a network, by timm's name, all have one stride."""
    return timm_module(name) in _PLAIN_VITS


def timm_module(name: str) -> str:
    """The module of timm that has a network: its family."""
    return str(timm.model_entrypoint(name.partition(".")[0]).__module__).rpartition(".")[2]


def _pads_by_size(net: nn.Module) -> bool:
    """Whether layers pad by SAME, as TensorFlow does: at strides above 1 by an amount that depends on the size."""
    same = (Conv2dSame, AvgPool2dSame, MaxPool2dSame)
    layers: list[Any] = [one for one in net.modules() if isinstance(one, same) or getattr(one, "same_pad", False)]
    return any(max(layer.stride) > 1 for layer in layers)


def _is_mobile(net: nn.Module) -> bool:
    """Whether a network is made for small devices: its spatial convolutions are mostly depthwise, and it is small."""
    spatial = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d) and max(layer.kernel_size) > 1]
    depthwise = [layer for layer in spatial if layer.groups == layer.in_channels > 1]
    small = sum(parameter.numel() for parameter in net.parameters()) < _MOBILE_PARAMETERS
    return small and 2 * len(depthwise) > len(spatial)


def _is_channels_last(net: Any) -> bool:
    """Whether the maps of a network are ``[B,H,W,C]``, as timm says."""
    return bool(getattr(net, "output_fmt", "NCHW") == "NHWC")
