"""What a student starts from, and what it and its teacher are shown."""

import pytest
import torch

from protoseg_deploy.data.batch import Batch
from protoseg_deploy.distillation import Distillation, FrozenTeacher, distill
from protoseg_deploy.distillation.distill import inherit, student_model
from protoseg_deploy.methods import build_method
from protoseg_deploy.models import Segmenter, load_network
from protoseg_deploy.recipe import Model, class_table
from protoseg_deploy.training import Run, train
from tests.conftest import with_values


@pytest.mark.parametrize(("view", "shown", "judged"), [("weak", 1, 1), ("strong", 2, 2), ("weak_to_strong", 2, 1)])
def test_views_of_unlabelled_images(tiny_recipe, monkeypatch, view, shown, judged):
    recipe = with_values(tiny_recipe, distill={"unlabeled_view": view})
    student, network = Segmenter(recipe.model, 3), Segmenter(recipe.model, 3)
    batch = Batch(
        images=torch.zeros(2, 3, 32, 32, dtype=torch.uint8),
        labels=torch.zeros(2, 32, 32, dtype=torch.long),
        weak=torch.full((2, 3, 32, 32), 1, dtype=torch.uint8),
        strong=torch.full((1, 2, 3, 32, 32), 2, dtype=torch.uint8),
        augmentations=torch.zeros(1, 2, 1),
        valid=torch.ones(2, 32, 32, dtype=torch.bool),
    )
    seen = {}
    forward = Segmenter.forward_features

    def spy(self, images):
        seen["student" if self is student else "teacher"] = images
        return forward(self, images)

    monkeypatch.setattr(Segmenter, "forward_features", spy)
    Distillation(recipe, student, class_table(recipe.data), FrozenTeacher(network, "linear", None)).step(
        student, student, batch, 0
    )
    for who, value in (("student", shown), ("teacher", judged)):
        assert seen[who].flatten(1)[:, 0].tolist() == [0, 0, value, value]


@pytest.mark.parametrize("inherits", [True, False])
def test_a_student_of_the_same_backbone_starts_from_the_teacher(tiny_recipe, tmp_path, monkeypatch, inherits):
    train(with_values(tiny_recipe, train={"steps": 2, "eval_every": 2}), tmp_path / "teacher", build_method, quiet=True)
    teacher, _ = load_network(tmp_path / "teacher" / "best.safetensors")
    first: dict[str, torch.Tensor] = {}
    step = Distillation.step

    def remember(self, student, *arguments):
        if not first:
            first.update({name: value.detach().clone() for name, value in student.state_dict().items()})
        return step(self, student, *arguments)

    monkeypatch.setattr(Distillation, "step", remember)
    overrides = ["model.decoder_channels=8", f"distill.start_from_teacher={str(inherits).lower()}"]
    distill(tmp_path / "teacher", tmp_path / "student", overrides, quiet=True)
    same = {
        name: torch.equal(value, first[name])
        for name, value in teacher.state_dict().items()
        if value.shape == first[name].shape and name.endswith("conv1.weight")
    }
    assert len(same) > 3
    assert set(same.values()) == {inherits}
    # what does not fit has nothing to inherit
    assert first["decoder.project.0.weight"].shape[0] == 8


def test_another_backbone_inherits_nothing(tiny_recipe):
    """Stems of related families have the same shapes, and mean something else."""
    torch.manual_seed(0)
    small, large = tiny_recipe.model, tiny_recipe.model.model_copy(update={"backbone": "resnet14t"})
    student, teacher = Segmenter(small, 3), Segmenter(large, 3)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    inherit(student, teacher, small, large)
    assert all(torch.equal(before[name], value) for name, value in student.state_dict().items())


def test_light_decoders_have_prototypes_and_learn_from_them(tiny_recipe, tmp_path):
    steps = {"steps": 2, "eval_every": 2}
    model = {"backbone": "mobilenetv3_small_050", "decoder": "fpn_lite"}
    train(with_values(tiny_recipe, model=model, train=steps), tmp_path / "teacher", build_method, quiet=True)
    distill(tmp_path / "teacher", tmp_path / "student", ["model.backbone=mobilenetv2_035"], quiet=True)
    assert Run(tmp_path / "student").recipe().distill.target == "prototype"
    _, spec = load_network(tmp_path / "student" / "best.safetensors")
    assert (spec.model.backbone, spec.model.decoder, spec.model.decoder_channels) == ("mobilenetv2_035", "fpn_lite", 64)


def test_another_backbone_gets_the_decoder_of_small_networks_unless_one_is_asked_for() -> None:
    teacher = Model(backbone="resnet50", decoder="deeplabv3plus", decoder_channels=64, separable=False)

    def student(*overrides: str, **begun: object) -> Model:
        keys = dict(override.removeprefix("model.").split("=") for override in overrides)
        before = teacher.model_copy(update=begun) if begun else None
        return student_model(teacher.model_copy(update=keys), teacher, overrides, before)

    found = student("model.backbone=mobilenetv3_small_100")
    assert (found.decoder, found.output_stride, found.decoder_channels, found.separable) == ("fpn_lite", 32, None, None)
    assert student("model.backbone=vit_tiny_patch16_224").decoder == "fpn"
    asked = student("model.backbone=mobilenetv3_small_100", "model.decoder=lraspp")
    assert (asked.decoder, asked.decoder_channels) == ("lraspp", 64)
    assert student("train.steps=5") == teacher
    going_on = student("model.backbone=mobilenetv3_small_100", decoder="lraspp", decoder_channels=24)
    assert (going_on.decoder, going_on.decoder_channels) == ("lraspp", 24)
