"""The EMA teacher and the optimiser groups."""

import pytest
import torch

from protoseg_deploy.models import Segmenter
from protoseg_deploy.recipe import Model, Train
from protoseg_deploy.training.ema import EmaTeacher
from protoseg_deploy.training.optimization import build_optimizer, build_schedule


@pytest.fixture
def student():
    torch.manual_seed(0)
    return Segmenter(Model(backbone="resnet10t", decoder="lraspp", decoder_channels=8), 3)


def disturb(network, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in [*network.parameters(), *network.buffers()]:
            if tensor.is_floating_point():
                tensor.add_(torch.randn(tensor.shape, generator=generator))
            else:
                tensor.add_(1)


def test_average_follows_its_formula_for_parameters_and_buffers(student):
    teacher = EmaTeacher(student, decay=0.8)
    expected = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    for n in range(8):
        disturb(student, n)
        teacher.update()
        momentum = min(1 - 1 / (n + 1), 0.8)
        for name, tensor in student.state_dict().items():
            if tensor.is_floating_point():
                expected[name] = momentum * expected[name] + (1 - momentum) * tensor
            else:
                expected[name] = tensor.clone()
    for name, tensor in teacher.network.state_dict().items():
        assert torch.allclose(tensor, expected[name], atol=1e-5), name


def test_counter_is_part_of_the_state(student):
    teacher = EmaTeacher(student, decay=0.99)
    for n in range(5):
        disturb(student, n)
        teacher.update()
    restored = EmaTeacher(student, decay=0.99)
    restored.load_state_dict(teacher.state_dict())
    for one in (teacher, restored):
        one.update()
    for name, tensor in teacher.network.state_dict().items():
        assert torch.equal(tensor, restored.network.state_dict()[name]), name


def test_teacher_stays_in_evaluation_mode_without_gradients(student):
    teacher = EmaTeacher(student, 0.9)
    assert not teacher.network.training
    assert not any(parameter.requires_grad for parameter in teacher.network.parameters())


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_every_parameter_is_trained_once_heads_faster(student, optimizer):
    method = torch.nn.Linear(3, 2)
    spec = Train(optimizer=optimizer, lr=0.01, head_lr_factor=5, weight_decay=0.1)
    groups = build_optimizer(spec, student, method).param_groups
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(rates)
    assert len(rates) == len([*student.parameters(), *method.parameters()])
    assert {rates[id(parameter)] for parameter in student.backbone.parameters()} == {0.01}
    assert {rates[id(parameter)] for parameter in [*student.head.parameters(), *method.parameters()]} == {0.05}
    decayed = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert decayed[id(student.head.bias)] == (0.1 if optimizer == "sgd" else 0.0)
    assert decayed[id(student.head.weight)] == 0.1


def test_schedule_warms_up_then_falls_polynomially(student):
    spec = Train(steps=20, warmup_steps=4, lr=1.0, head_lr_factor=1, poly_power=0.9)
    optimizer = build_optimizer(spec, student, torch.nn.Module())
    schedule = build_schedule(spec, optimizer)
    rates = []
    for _ in range(20):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    expected = [min(1, (step + 1) / 4) * (1 - step / 20) ** 0.9 for step in range(20)]
    assert rates == pytest.approx(expected)
