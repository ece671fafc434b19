"""What a run consists of: strict, frozen models of every key a recipe may hold.

Every field is followed by its own docstring; ``protoseg recipe show`` prints a complete, resolved recipe.
"""

import math
import re
from fractions import Fraction
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Strict,
    Tag,
    field_validator,
    model_validator,
)

from protoseg_deploy.files import path_fault
from protoseg_deploy.text import printable, shown


def _plain(text: str) -> str:
    """Names end up in tables, JSON, pictures and ONNX metadata."""
    if not text.strip():
        raise ValueError("an empty name")
    if len(text) > 200:
        raise ValueError(f"a name of {len(text):,} characters")
    if printable(text) != text or "\n" in text or "\t" in text:
        raise ValueError(f"{text!r} holds characters that cannot be shown")
    return text


def _path(text: str) -> str:
    if fault := path_fault(text):
        raise ValueError(fault)
    return text


# Bounds far beyond any use: what lies outside is a slip, or does not fit into memory, float32 or int64.
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(ge=1e-12, le=1e9)]
NonNegative = Annotated[float, Field(ge=0.0, le=1e9)]
Count = Annotated[int, Field(ge=1, le=10**12)]
MOST_STEPS = 99_999_999
"""Of a run; names of checkpoints have eight digits."""
Steps = Annotated[int, Field(ge=1, le=MOST_STEPS)]
Images = Annotated[int, Field(ge=1, le=65_536)]
"""In a batch."""
Side = Annotated[int, Field(ge=16, le=65_536)]
"""Of a square, in pixels."""
Resize = Annotated[float, Field(ge=0.01, le=100.0)]
Dilation = Annotated[int, Field(ge=1, le=4096)]
Channels = Annotated[int, Field(ge=8, le=65_536)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Byte = Annotated[int, Field(ge=0, le=255)]
Color = Annotated[tuple[Byte, Byte, Byte], Strict(False)]  # YAML has lists only
Name = Annotated[str, AfterValidator(_plain)]
PathText = Annotated[str, AfterValidator(_path)]
ClassNames = Annotated[list[Name], Field(min_length=1, max_length=10_000)]
Band = Annotated[int, Field(ge=1, le=65_535)]
AlphaPolicy = Literal["auto", "apply", "ignore"]
ExifPolicy = Literal["apply", "ignore"]
ValueRange = Annotated[tuple[float, float], Strict(False)]
_PERCENTILES = re.compile(r"percentile_(\d+(?:\.\d+)?)_(\d+(?:\.\d+)?)")


def percentiles_of(text: str) -> tuple[float, float]:
    """The two percentiles of ``percentile_2_98``.

    Raises:
        ValueError: it is not of that form, or they are no increasing numbers from 0 to 100.
    """
    match = _PERCENTILES.fullmatch(text)
    low, high = (float(match[1]), float(match[2])) if match else (0.0, 0.0)
    if not low < high <= 100:
        raise ValueError(f"a range is [LOW, HIGH] or percentiles such as percentile_2_98, got {text!r}")
    return low, high


def scale_ratio(input_scale: float) -> Fraction:
    """``data.input_scale`` as a ratio: a side becomes ``side * numerator // denominator``, at least 1.

    Training and the exported graph both compute sides this way, with integers alone.
    """
    return Fraction(input_scale).limit_denominator(10_000)


Features = Literal["head_input", "decoder_concat"]


class Section(BaseModel):
    """Base of every part of a recipe: unknown keys are errors, values are of their type and never change."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )


class ImageFolder(Section):
    """Images without masks."""

    images: PathText | None = None
    """Folder of images, searched recursively. Relative paths start at ``data.root``."""
    list: PathText | None = None
    """Text file with one image per line, in place of (or relative to) ``images``."""

    @property
    def is_set(self) -> bool:
        return self.images is not None or self.list is not None


class LabeledFolder(ImageFolder):
    """Images with index masks."""

    masks: PathText | None = None
    """Folder of single-channel index masks."""
    mask_template: PathText = "{stem}.png"
    """Where a mask lies below ``masks``, e.g. ``{stem}_mask.png`` or ``{parent}/{stem}.png``."""

    @model_validator(mode="after")
    def _masks_come_with_images(self) -> Self:
        if self.images is not None and self.masks is None and self.list is None:
            raise ValueError("`images` is given without `masks`")
        if "{stem}" not in self.mask_template:
            raise ValueError("`mask_template` must contain {stem}")
        return self


class Data(Section):
    """Where images and masks lie and what the masks mean."""

    root: PathText = "."
    """Folder at which the other data paths start; relative to the working directory."""
    labeled: LabeledFolder = LabeledFolder()
    unlabeled: ImageFolder = ImageFolder()
    val: LabeledFolder = LabeledFolder()
    classes: Annotated[
        Annotated[ClassNames, Tag("names")] | Annotated[PathText, Field(min_length=1), Tag("file")],
        Discriminator(lambda value: "names" if isinstance(value, list) else "file"),
    ]
    """Class names in index order, or a JSON file with ``names`` and optionally ``colors``."""
    colors: list[Color] | None = None
    """One RGB colour per class; a distinct palette is generated when absent."""
    ignore_index: Annotated[int, Field(ge=0, le=255)] = 255
    """Mask value that is neither trained nor evaluated."""
    value_map: dict[Annotated[Byte, Strict(False)], Byte] = {}  # keys are strings in JSON
    """Mask values to replace before anything else sees them, e.g. ``{11: 255}`` or ``{2: 1}``."""
    ignore_colors: list[Color] = []
    """Of masks that show the ``colors`` of classes: further colours, which are ignored."""
    palette_masks: Literal["indices", "colors"] | None = None
    """What counts of masks with a palette: ``colors``, for programs that number colours anew in every file, or
    ``indices``. Absent: indices, and palettes that contradict each other are an error of ``check``."""
    bands: Annotated[tuple[Band, ...], Strict(False)] | None = None
    """Which bands of an image file are red, green and blue, counted from 1, e.g. ``[4, 3, 2]``; or one band, as grey.
    Absent: the colours the file declares."""
    alpha: AlphaPolicy = "auto"
    """Transparency: ``apply`` puts images on black, ``ignore`` takes colours as stored; ``auto`` applies it but
    in TIFFs, where a fourth band is often near infrared or marks valid pixels."""
    value_range: ValueRange | str | None = None
    """Values that become black and white, for 12 bits in 16 or float: ``[LOW, HIGH]``, or percentiles of all images of
    the recipe, measured once at the start of a run: ``percentile_2_98``. Absent: 0 to 255, or to 65535."""
    value_range_from: str | None = None
    """Written by ``protoseg train``: the percentiles that ``value_range`` was measured as."""
    exif: ExifPolicy = "apply"
    """``apply`` turns images and masks as their EXIF orientation says; ``ignore`` takes them as stored, for masks that
    were drawn on the stored pixels."""
    labeled_count: Count | None = None
    """Use this many of the labelled images, drawn by ``labeled_seed``; all when absent."""
    labeled_share: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    """Like ``labeled_count``, as a share of the labelled images."""
    labeled_seed: Seed = 0
    """Seed of the labelled subset."""
    labeled_draw: Literal["covering", "random"] = "covering"
    """``covering`` draws a subset that shows every class if one of its size does; ``random`` looks at no mask."""
    missing_classes: Literal["error", "ignore"] | None = None
    """What a class without a labelled pixel is. Absent: an error where the prototype branch is on, which needs every
    class, and a warning elsewhere. With ``ignore`` the prototype head knows the class only from pseudo-labels."""
    input_scale: Annotated[float, Field(ge=0.001, le=4.0)] = 1.0
    """The network sees images at this scale; class maps come back at the original size."""
    max_unreadable_share: Share = 0.01
    """Unlabelled images that cannot be read are replaced by others and reported; training stops where they are a larger
    share than this."""
    cache_mib: Annotated[int, Field(ge=0, le=2**30)] = 512
    """MiB of decoded images that each loader process, and the training process itself, keeps at most, so as to read
    them once; 0: none. Images are not to change on the disk during training."""

    @field_validator("bands")
    @classmethod
    def _one_or_three_bands(cls, bands: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if bands is not None and len(bands) not in (1, 3):
            raise ValueError(f"give one band or three, counted from 1, got {list(bands)}")
        return bands

    @field_validator("value_range", mode="before")
    @classmethod
    def _one_kind_of_range(cls, value: Any) -> Any:
        if value is None or isinstance(value, str) or (isinstance(value, list | tuple) and len(value) == 2):
            return value
        raise ValueError(f"a range is [LOW, HIGH] or percentiles such as percentile_2_98, got {shown(value)}")

    @field_validator("value_range")
    @classmethod
    def _values_are_a_range(cls, value: tuple[float, float] | str | None) -> tuple[float, float] | str | None:
        if isinstance(value, str):
            percentiles_of(value)
        elif value is not None and not (all(map(math.isfinite, value)) and value[0] < value[1]):
            raise ValueError(f"a range is [LOW, HIGH], two finite numbers, the smaller one first; got {list(value)}")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.labeled_count is not None and self.labeled_share is not None:
            raise ValueError("give `labeled_count` or `labeled_share`, not both")
        if isinstance(self.classes, list):
            if len(set(self.classes)) != len(self.classes):
                raise ValueError("`classes` holds the same name twice")
            if self.colors is not None and len(self.colors) != len(self.classes):
                raise ValueError(f"{len(self.colors)} `colors` for {len(self.classes)} `classes`")
        return self


class Model(Section):
    """The network: timm backbone, decoder, linear head."""

    backbone: Name = "resnet50"
    """Any timm model name."""
    weights: PathText = "pretrained"
    """``pretrained`` (timm's own), ``none``, or a .safetensors/.pth file with backbone weights."""
    decoder: Literal["deeplabv3plus", "lraspp", "fpn", "dpt"] = "deeplabv3plus"
    output_stride: Literal[8, 16, 32] = 16
    """Stride of the deepest feature map, for backbones that can be dilated."""
    decoder_channels: Channels = 256
    """Width of the decoder."""
    low_level_channels: Channels = 48
    """``deeplabv3plus``: channels kept of the stride-4 features (the prototype paper keeps 256)."""
    aspp_dilations: Annotated[tuple[Dilation, ...], Field(min_length=1, max_length=64), Strict(False)] | None = None
    """``deeplabv3plus``: dilation rates; absent: 6, 12, 18 at output stride 16, doubled at 8, halved at 32."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    """Dropout of channels before the linear head, and after the pooling of ``deeplabv3plus``."""


class Prototypes(Section):
    """The prototype branch, which can be put on every method that learns from unlabelled images."""

    enabled: bool | None = None
    """Absent: with the method ``prototype`` (which is ``fixmatch`` with this branch), not with others."""
    per_class: Annotated[int, Field(ge=1, le=4096)] = 4
    """How many appearances a class may have."""
    features: Features = "head_input"
    """Where prototypes live: the features that the linear head classifies, or, as published, the last concatenation of
    ``deeplabv3plus``, two convolutions before. In the other decoders the two are the same."""
    weight: NonNegative = 0.1
    """Weight of the prototype losses (published: 1); 0 switches the branch off."""
    confidence_threshold: Share = 0.8
    """Unlabelled pixels below this confidence neither train the prototype head nor move prototypes."""
    temperature: Positive = 0.1
    momentum: Share = 0.99
    """A prototype keeps this share of itself at each update."""
    grid: Annotated[int, Field(ge=1, le=4096)] = 32
    """Pixels per image sampled for the branch: one in each cell of a grid of this many cells a side."""
    pseudo_label_share: Share = 0.0
    """How much the prototype head has to say in pseudo-labels; the linear head has the rest."""
    class_balanced: bool = False
    """Weigh sampled pixels so that in the losses of the branch every class that is there counts alike."""
    start: Share = 0.1
    """Share of the steps after which k-means places the prototypes."""


class Method(Section):
    """How unlabelled images are learned from."""

    name: Literal["supervised", "fixmatch", "unimatch", "unimatch_v2", "corrmatch", "prototype"] = "prototype"
    confidence_threshold: Share = 0.95
    """Pseudo-labels below this confidence do not count (``pseudo_label_filter: confidence``); ``corrmatch`` starts here
    and moves it."""
    adaptive_thresholds: bool = False
    """Lower the confidence threshold of classes that the teacher is less sure of than of its surest one."""
    pseudo_label_filter: Literal["confidence", "entropy"] = "confidence"
    """``entropy`` drops the most uncertain pixels instead: a share that falls linearly over training."""
    entropy_drop_share: Share = 0.2
    """Share dropped at the start of training by the ``entropy`` filter."""
    soft_labels: bool = False
    """Views learn from the teacher's class probabilities in place of the winning class."""
    distribution_alignment: bool = False
    """Weigh the teacher's probabilities so that classes become as frequent as in the labelled images."""
    unlabeled_weight: NonNegative = 1.0
    """Weight of the loss of the linear head on strong views of unlabelled images."""
    unlabeled_start: Share = 0.0
    """Share of the steps trained on labelled images alone before unlabelled ones join."""
    unlabeled_ramp: Share = 0.0
    """Share of the steps over which unlabelled losses grow linearly to their full weight."""
    ema_teacher: bool = True
    """Pseudo-labels from an exponential moving average of the student; ``false``: from the student itself."""
    ema_decay: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.99
    """Decay of the moving average; it starts lower: min(1 - 1/(n+1), decay)."""
    cutmix_probability: Share = 0.5
    """Chance that a strong view gets a box pasted in from another image of the batch."""
    prototypes: Prototypes = Prototypes()

    @model_validator(mode="after")
    def _thresholds_are_used(self) -> Self:
        if self.adaptive_thresholds and self.pseudo_label_filter != "confidence":
            raise ValueError("`adaptive_thresholds` goes with `pseudo_label_filter: confidence`")
        if self.name == "corrmatch" and (self.adaptive_thresholds or self.pseudo_label_filter != "confidence"):
            raise ValueError(
                "`corrmatch` has a threshold of its own: `pseudo_label_filter: confidence`, no `adaptive_thresholds`"
            )
        if self.name == "corrmatch" and self.soft_labels:
            raise ValueError("`corrmatch` spreads labels, not probabilities: `soft_labels: false`")
        return self

    @property
    def has_prototypes(self) -> bool:
        """Whether the prototype branch is built."""
        wanted = self.name == "prototype" if self.prototypes.enabled is None else self.prototypes.enabled
        return wanted and self.name != "supervised" and self.prototypes.weight > 0


class Ohem(Section):
    """Online hard example mining: average over hard pixels only."""

    threshold: Share = 0.7
    """Pixels whose true class is predicted with less than this probability are hard."""
    min_kept: Count = 100_000
    """At least this many pixels of a batch count, the hardest first."""


class Train(Section):
    """The loop: length, views, optimiser, bookkeeping."""

    steps: Steps = 10_000
    extended_from: Steps | None = None
    """Steps there were before ``protoseg train --extend-to``; starts and ramps stay shares of these."""
    max_hours: Positive | None = None
    """Stop after a checkpoint once training has taken this long; ``--resume`` goes on from there."""
    crop: Side = 321
    """Side of the square training crop, pixels at ``data.input_scale``."""
    scale: Annotated[tuple[Resize, Resize], Strict(False)] = (0.5, 2.0)
    """Range of the random resize before the crop."""
    flip: bool = True
    """Random horizontal flip."""
    class_aware_share: Share = 0.0
    """Share of the labelled crops that are drawn for a class, rare ones most often, and show it."""
    copy_paste_probability: Share = 0.0
    """Chance that a labelled crop gets the pixels of one or two classes, mostly rare ones, from another one."""
    batch_labeled: Images = 8
    """Labelled images a step, over all processes."""
    batch_unlabeled: Images = 8
    """Unlabelled images a step, over all processes."""
    accumulate: Images = 1
    """Split a step's images into this many parts, one forward and backward pass each, to save memory."""
    seed: Seed = 0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Autocast type; fp16 scales the loss. bf16 also runs on recent CPUs."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: Annotated[int, Field(ge=0, le=1024)] | Literal["auto"] = "auto"
    """Loader processes of each training process; results do not depend on their number. ``auto``: as many as cores and
    shared memory (``/dev/shm``) have room for."""
    timeout_s: Positive = 300.0
    """Seconds to wait for a batch of the loader processes, and for a sign of life of the other training processes,
    before the run stops; it can be resumed."""
    compile: bool = False
    """Compile student and teacher with ``torch.compile``: slow first steps, faster ones after them."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: Annotated[float, Field(ge=1e-12, le=1000.0)] = 0.001
    """Learning rate of the backbone."""
    head_lr_factor: Positive = 10.0
    """Decoder and heads learn this much faster than the backbone."""
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    weight_decay: NonNegative = 1e-4
    poly_power: NonNegative = 0.9
    """The learning rate falls as (1 - step/steps) ** poly_power."""
    warmup_steps: Annotated[int, Field(ge=0, le=99_999_999)] = 0
    """Steps over which the learning rate rises linearly."""
    clip_grad_norm: Positive | None = None
    max_skipped_steps: Count = 10
    """A step whose loss or gradient is not finite is skipped; after this many in a row training stops."""
    logit_adjustment: NonNegative = 0.0
    """How far losses on labels and pseudo-labels make up for how frequent classes are: 0 not at all, 1 as if all were
    equally so."""
    ohem: Ohem | None = None
    """Hard example mining on the labelled loss."""
    auxiliary_weight: NonNegative = 0.0
    """Weight of an auxiliary head on the last but one level of the backbone; training only."""
    eval_every: Count = 1_000
    """Steps between evaluations."""
    eval_batch: Images = 1
    """Validation images (of the same size), or windows, a forward pass."""
    eval_window: Side | None = None
    """Evaluate in square windows of this side, pixels at ``data.input_scale``, and average their logits; absent: whole
    images."""
    eval_stride: Count | None = None
    """From window to window; two thirds of ``eval_window`` when absent."""
    checkpoint_every: Count = 500
    """Steps between checkpoints to resume from."""
    log_every: Count = 20
    """Steps between log lines."""

    @field_validator("scale")
    @classmethod
    def _scale_is_a_range(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if scale[0] > scale[1]:
            raise ValueError(f"a range is [smallest, largest], got {list(scale)}")
        return scale

    @model_validator(mode="after")
    def _windows_overlap(self) -> Self:
        if self.eval_stride is not None and (self.eval_window is None or self.eval_stride > self.eval_window):
            raise ValueError("`eval_stride` goes with `eval_window` and is not larger")
        return self

    @property
    def planned_steps(self) -> int:
        """What starts and ramps are shares of."""
        return self.extended_from or self.steps


class Distill(Section):
    """How a student learns from a finished teacher (``protoseg distill``)."""

    temperature: Positive = 2.0
    label_weight: NonNegative = 1.0
    """Cross-entropy on labelled images."""
    kl_weight: NonNegative = 1.0
    """Kullback-Leibler divergence to the teacher's class probabilities, labelled and unlabelled images."""
    channel_weight: NonNegative = 1.0
    """Channel-wise distillation: where in the image each class responds (Shu et al., ICCV 2021)."""
    channel_temperature: Positive = 4.0
    target: Literal["auto", "linear", "prototype", "mean"] = "auto"
    """The teacher's linear head, its prototype head, or the mean of both probabilities; ``auto``: the prototype head of
    a teacher that has one."""
    start_from_teacher: bool = True
    """A student with the teacher's backbone starts from its weights; with the same decoder from those that fit, too."""
    unlabeled_view: Literal["weak", "strong", "weak_to_strong"] = "weak_to_strong"
    """What teacher and student see of unlabelled images; ``weak_to_strong``: the teacher weak views, the student strong
    ones."""


class Recipe(Section):
    """Everything that decides a run."""

    data: Data
    model: Model = Model()
    method: Method = Method()
    train: Train = Train()
    distill: Distill = Distill()

    @model_validator(mode="after")
    def _unlabeled_images_are_there(self) -> Self:
        if not self.data.labeled.is_set:
            raise ValueError("`data.labeled` names no images: set `data.labeled.images` and `data.labeled.masks`")
        if self.method.name != "supervised" and not self.data.unlabeled.is_set:
            raise ValueError(
                f"method `{self.method.name}` needs `data.unlabeled.images`: any folder of images, no masks"
            )
        return self
