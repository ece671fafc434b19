"""From a finished teacher run to a student run whose network has a linear head only."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from protoseg_deploy.data import Sample, check_before_training, find_data, read_image
from protoseg_deploy.distillation.method import Distillation, FrozenTeacher
from protoseg_deploy.errors import ProtosegError, UsageError
from protoseg_deploy.methods import Method, PrototypeBank
from protoseg_deploy.models import (
    NetworkSpec,
    Segmenter,
    count_parameters,
    load_network,
    load_prototypes,
    save_network,
)
from protoseg_deploy.models.backbones import is_plain_vit, registered_name
from protoseg_deploy.recipe import ClassTable, ImageReading, Model, Recipe, load_run_recipe
from protoseg_deploy.training import Run, resolved_recipe, train
from protoseg_deploy.training.loop import MethodBuilder

_COMPARED_IMAGES = 8
_OF_DECODERS = ("output_stride", "decoder_channels", "separable", "low_level_channels", "aspp_dilations")
"""Keys of a model that one decoder has no use for when they were chosen for another."""


@dataclass(frozen=True)
class DistillReport:
    """What came of a distillation."""

    stripped: bool
    """The student is the teacher without its training-only branch; nothing was trained."""
    teacher_miou_percent: float
    student_miou_percent: float
    """Best of the student's run, on the recipe's validation images."""
    teacher_parameters: int
    student_parameters: int
    compared_images: int
    """Strip only: validation images on which the logits were found to be bit-equal."""


def distill(
    teacher_folder: Path,
    folder: Path,
    overrides: Sequence[str] = (),
    *,
    resume: bool = False,
    take_over: bool = False,
    train_anyway: bool = False,
    quiet: bool = False,
) -> DistillReport:
    """Strip the teacher, or train a smaller student from it.

    The student's recipe is the teacher's with `overrides`; another backbone has the decoder that pays most for its
    latency, where no other is asked for (docs/results/students.md). As long as they leave the ``model`` section alone
    there is nothing to learn, and the student is the teacher's network without the prototype branch.

    Args:
        teacher_folder: a finished run.
        folder: of the student's run; new or empty unless `resume`.
        overrides: ``KEY=VALUE``, typically ``model.backbone=…``.
        resume: continue an interrupted training.
        take_over: see `train`.
        train_anyway: train a student of the same architecture.
        quiet: show no progress.

    Raises:
        UsageError: no teacher there, or overrides that do not fit.
    """
    teacher_run = Run(teacher_folder)
    if not teacher_run.recipe_path.is_file() or not teacher_run.best.is_file():
        raise UsageError(f"{teacher_folder} holds no trained run", "Train one with `protoseg train`.")
    teacher_recipe = teacher_run.recipe()
    student_run = Run(folder)
    begun = student_run.recipe().model if resume and student_run.exists() else None
    recipe = load_run_recipe(teacher_run.recipe_path, overrides)
    recipe = recipe.model_copy(update={"model": student_model(recipe.model, teacher_recipe.model, overrides, begun)})
    network, spec = load_network(teacher_run.best)
    if recipe.model == teacher_recipe.model and not train_anyway:
        _refuse_training(overrides, resume, student_run)
        with student_run.owned():
            return _strip(network, spec, resolved_recipe(recipe, spec.classes), student_run)
    _check_weights(recipe, teacher_recipe)
    recipe = _with_target(recipe, teacher_run)
    bank = _bank(teacher_run) if recipe.distill.target != "linear" else None

    summary = train(
        recipe,
        folder,
        _method_builder(network, spec, teacher_recipe, bank),
        resume=resume,
        take_over=take_over,
        quiet=quiet,
        check=check_before_training,
    )
    student, _ = load_network(student_run.best)
    return DistillReport(
        stripped=False,
        teacher_miou_percent=spec.provenance["miou_percent"],
        student_miou_percent=summary["best_miou_percent"],
        teacher_parameters=count_parameters(network),
        student_parameters=count_parameters(student),
        compared_images=0,
    )


def student_model(model: Model, teacher: Model, overrides: Sequence[str], begun: Model | None = None) -> Model:
    """A student's network: another backbone has the decoder of small networks, unless one is asked for.

    Args:
        model: of the teacher's recipe with the overrides.
        teacher: of its recipe.
        overrides: see `distill`.
        begun: of the run that goes on; its decoder stays.
    """
    given = {override.partition("=")[0].removeprefix("model.") for override in overrides}
    if model.backbone == teacher.backbone or given & {"decoder", *_OF_DECODERS}:
        return model
    if begun is not None:
        return model.model_copy(update={key: getattr(begun, key) for key in ("decoder", *_OF_DECODERS)})
    decoder = "fpn" if is_plain_vit(registered_name(model.backbone)) else "fpn_lite"
    fresh = {key: Model.model_fields[key].default for key in _OF_DECODERS} | {"output_stride": 32}
    return model.model_copy(update={"decoder": decoder, **fresh})


def _refuse_training(overrides: Sequence[str], resume: bool, run: Run) -> None:
    """Raises UsageError where a student that is only stripped was to be trained."""
    idle = [override for override in overrides if not override.startswith("data.root=")]
    if idle:
        raise UsageError(
            f"{', '.join(idle)}: there is nothing to train while the model is the teacher's",
            "Change model.backbone or model.decoder, or add --train to train a student of the same architecture.",
        )
    if resume:
        raise UsageError("--resume: nothing is trained as long as the model is the teacher's", _how_to_resume(run))


def _how_to_resume(run: Run) -> str:
    if not run.exists():
        return f"Start without --resume: {run.folder} holds no run."
    model = run.recipe().model
    return (
        f"Give the overrides again that {run.folder} was started with (model.backbone={model.backbone} "
        f"model.decoder={model.decoder} …, or --train; see {run.recipe_path}). A stripped student is finished."
    )


def _method_builder(
    network: Segmenter, spec: NetworkSpec, teacher_recipe: Recipe, bank: PrototypeBank | None
) -> MethodBuilder:
    """What makes the method of a student that learns from `network`."""

    def build(resolved: Recipe, student: Segmenter, classes: ClassTable) -> Method:
        if classes.names != spec.classes.names:
            raise UsageError("data.classes differ from those of the teacher", "A student learns the teacher's classes.")
        if resolved.distill.start_from_teacher:
            inherit(student, network, resolved.model, teacher_recipe.model)
        device = student.head.weight.device
        teacher = FrozenTeacher(
            network.to(device),
            resolved.distill.target,
            bank.to(device) if bank else None,
            teacher_recipe.method.prototypes.features,
        )
        return Distillation(resolved, student, classes, teacher).to(device)

    return build


def _strip(network: Segmenter, spec: NetworkSpec, recipe: Recipe, run: Run) -> DistillReport:
    """Write the linear-head network as a run of its own and prove that it computes the same."""
    sets = find_data(recipe.data, need_unlabeled=False, need_val=True)
    provenance = {**spec.provenance, "distilled": "stripped"}
    run.start(recipe, sets)
    for path in (run.best, run.last):
        save_network(path, network.state_dict(), replace(spec, provenance=provenance))
    student, _ = load_network(run.best)
    compared = sets.val[:: max(1, len(sets.val) // _COMPARED_IMAGES)][:_COMPARED_IMAGES]
    _require_equal_logits(network, student, compared, spec.reading)
    miou = spec.provenance["miou_percent"]
    run.write_summary({"method": "strip", "best_miou_percent": miou, "last_miou_percent": miou, **provenance})
    parameters = count_parameters(student)
    return DistillReport(True, miou, miou, parameters, parameters, len(compared))


@torch.inference_mode()
def _require_equal_logits(
    teacher: Segmenter, student: Segmenter, samples: Sequence[Sample], reading: ImageReading
) -> None:
    for sample in samples:
        image = torch.from_numpy(read_image(sample.image, reading)).permute(2, 0, 1)[None]
        if not torch.equal(teacher(image), student(image)):
            raise ProtosegError(
                f"{sample.image}: the stripped network's logits differ from those of the teacher's linear head",
                "The teacher's file and this version do not match; train with this version.",
            )


def inherit(student: Segmenter, teacher: Segmenter, own: Model, others: Model) -> None:
    """Copy what both networks have: the backbone if it is the same, of the same decoder every tensor that fits."""
    parts = [("backbone.", own.backbone == others.backbone)]
    parts += [
        (part, own.backbone == others.backbone and own.decoder == others.decoder) for part in ("decoder.", "head.")
    ]
    shared = tuple(part for part, same in parts if same)
    state = student.state_dict()
    fitting = {
        name: value
        for name, value in teacher.state_dict().items()
        if name.startswith(shared) and name in state and value.shape == state[name].shape
    }
    student.load_state_dict(fitting, strict=False)


def _with_target(recipe: Recipe, teacher: Run) -> Recipe:
    """With ``auto`` settled, so that the student's recipe says what it learned from."""
    if recipe.distill.target != "auto":
        return recipe
    target = "prototype" if teacher.prototypes.is_file() else "linear"
    return recipe.model_copy(update={"distill": recipe.distill.model_copy(update={"target": target})})


def _check_weights(recipe: Recipe, teacher: Recipe) -> None:
    weights = recipe.model.weights
    if recipe.model.backbone != teacher.model.backbone and weights == teacher.model.weights and Path(weights).is_file():
        raise UsageError(
            f"model.weights: {weights} are those of the teacher's backbone {teacher.model.backbone}",
            f"Give model.weights=FILE for {recipe.model.backbone}, or model.weights=none or pretrained.",
        )


def _bank(run: Run) -> PrototypeBank:
    prototypes = load_prototypes(run.prototypes)
    classes, per_class, channels = prototypes.shape
    lacking = not bool(prototypes.any(dim=-1).all())
    temperature = run.recipe().method.prototypes.temperature
    bank = PrototypeBank(classes, per_class, channels, temperature, may_lack_classes=lacking)
    bank.place(prototypes)
    return bank
