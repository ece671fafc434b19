"""The ``model`` and ``method`` sections: the network, and how unlabelled images are used."""

from typing import Annotated, Literal, Self

from pydantic import Field, Strict, model_validator

from protoseg_deploy.recipe.types import (
    MAY_CHANGE,
    Channels,
    Choice,
    Dilation,
    Name,
    NonNegative,
    PathText,
    Positive,
    Section,
    Share,
)
from protoseg_deploy.registry import DECODERS, METHODS

Features = Literal["head_input", "decoder_concat"]


class Model(Section):
    """The network: timm backbone, decoder, linear head."""

    backbone: Name = "resnet50"
    """Any timm model name."""
    weights: Annotated[PathText, MAY_CHANGE] = "pretrained"
    """``pretrained`` (downloaded by timm), ``none``, or a .safetensors/.pth file with backbone weights."""
    decoder: Annotated[str, Choice(DECODERS.names)] = "deeplabv3plus"
    """``lraspp`` and ``fpn_lite`` for small devices; ``fpn`` for any backbone, plain ViTs too; ``dpt`` for ViTs."""
    output_stride: Literal[8, 16, 32] = 16
    """Stride of the deepest feature map, for backbones that support dilation."""
    decoder_channels: Channels | None = None
    """Width of the decoder; absent: the decoder's own, see docs/methods.md."""
    separable: bool | None = None
    """Depthwise separable convolutions in ``deeplabv3plus`` and ``fpn``; absent: for mobile backbones, those with
    depthwise convolutions and less than 12 million parameters."""
    low_level_channels: Channels = 48
    """``deeplabv3plus``: channels to which the stride-4 features are reduced (256 in the prototype paper)."""
    aspp_dilations: Annotated[tuple[Dilation, ...], Field(min_length=1, max_length=64), Strict(False)] | None = None
    """``deeplabv3plus``: dilation rates; absent: 6, 12, 18 at output stride 16, doubled at 8, halved at 32."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    """Channel dropout before the linear head, and dropout in the ASPP of ``deeplabv3plus``."""


class Prototypes(Section):
    """The prototype branch, which can be added to every method that uses unlabelled images."""

    enabled: bool | None = None
    """Absent: enabled for the method ``prototype`` (which is ``fixmatch`` with this branch), disabled for others."""
    per_class: Annotated[int, Field(ge=1, le=4096)] = 4
    """Number of prototypes per class."""
    features: Features = "head_input"
    """Feature space of the prototypes: the features that the linear head classifies, or, as published, the last
    concatenation of ``deeplabv3plus``, two convolutions earlier. In the other decoders the two are the same."""
    weight: NonNegative = 0.1
    """Weight of the prototype losses (published: 1); 0 disables the branch."""
    confidence_threshold: Share = 0.8
    """Unlabelled pixels below this confidence neither train the prototype head nor update prototypes."""
    temperature: Positive = 0.1
    """Temperature of the softmax over similarities to prototypes; lower is sharper."""
    momentum: Share = 0.99
    """Momentum of the prototype updates."""
    grid: Annotated[int, Field(ge=1, le=4096)] = 32
    """Pixels per image sampled for the branch: one in each cell of a grid of this many cells per side."""
    pseudo_label_share: Share = 0.0
    """Ensemble weight of the prototype head in pseudo-labels; the linear head gets the rest."""
    class_balanced: bool = False
    """Weight sampled pixels so that every class present contributes equally to the losses of the branch."""
    start: Share = 0.1
    """Share of the steps after which k-means initialises the prototypes."""


class Method(Section):
    """How unlabelled images are used."""

    name: Annotated[str, Choice(METHODS.names)] = "prototype"
    """``prototype`` is ``fixmatch`` with the prototype branch; docs/methods.md describes what each method computes."""
    confidence_threshold: Share = 0.95
    """Pseudo-labels below this confidence are ignored (``pseudo_label_filter: confidence``); for ``corrmatch``, the
    initial value of its dynamic threshold."""
    pseudo_label_filter: Literal["confidence", "entropy"] = "confidence"
    """``entropy`` drops the most uncertain pixels instead; their share falls linearly to zero during training."""
    entropy_drop_share: Share = 0.2
    """Share dropped at the start of training by the ``entropy`` filter."""
    soft_labels: bool = False
    """Use the teacher's class probabilities as targets instead of the argmax class."""
    distribution_alignment: bool = False
    """Rescale the teacher's probabilities towards the class frequencies of the labelled images."""
    unlabeled_weight: NonNegative = 1.0
    """Weight of the unlabelled losses of the linear head."""
    unlabeled_start: Share = 0.0
    """Share of the steps trained on labelled images only."""
    unlabeled_ramp: Share = 0.0
    """Share of the steps over which the weight of the unlabelled losses rises linearly to its full value."""
    ema_teacher: bool = True
    """Pseudo-labels come from an exponential moving average (EMA) of the student; ``false``: from the student
    itself."""
    ema_decay: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.99
    """Decay of the EMA; lower in the first steps: min(1 - 1/(n+1), decay)."""
    cutmix_probability: Share = 0.5
    """Probability that a box from another image of the batch is pasted into a strong view."""
    prototypes: Prototypes = Prototypes()
    """The prototype branch."""

    @model_validator(mode="after")
    def _thresholds_are_used(self) -> Self:
        if self.name == "corrmatch" and self.pseudo_label_filter != "confidence":
            raise ValueError("`corrmatch` has its own threshold: `pseudo_label_filter: confidence`")
        if self.name == "corrmatch" and self.soft_labels:
            raise ValueError("`corrmatch` spreads labels, not probabilities: `soft_labels: false`")
        return self

    @property
    def has_prototypes(self) -> bool:
        """Whether the prototype branch is built."""
        wanted = self.name == "prototype" if self.prototypes.enabled is None else self.prototypes.enabled
        return wanted and self.name != "supervised" and self.prototypes.weight > 0
