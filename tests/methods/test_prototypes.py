"""The prototype bank and its sampling against slow loops in NumPy."""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from protoseg_deploy.methods import prototypes
from protoseg_deploy.methods.prototypes import PrototypeBank, gather_features, gather_values, sample_positions

TAKEN, SKIPPED = torch.tensor(True), torch.tensor(False)


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@pytest.fixture
def bank():
    torch.manual_seed(0)
    bank = PrototypeBank(3, 2, 5, temperature=0.1, momentum=0.9)
    bank.place(torch.randn(3, 2, 5))
    return bank


def test_logits_are_the_nearest_prototypes_cosine_over_temperature(bank):
    features = torch.randn(7, 5, generator=torch.Generator().manual_seed(1))
    logits = bank.logits(features).numpy()
    prototypes = bank.prototypes.numpy()
    for n, feature in enumerate(unit(features.numpy())):
        for c in range(3):
            assert logits[n, c] == pytest.approx(max(feature @ p for p in prototypes[c]) / 0.1, abs=1e-4)


def test_dense_logits_are_the_logits_of_each_pixel(bank):
    embedding = torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(2))
    dense = bank.dense_logits(embedding)
    one = bank.logits(embedding[1, :, 2, 3][None])
    assert torch.allclose(dense[1, :, 2, 3], one[0], atol=1e-5)


def test_update_matches_a_loop_over_pixels_and_prototypes(bank):
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(40, 5, generator=generator) * 3
    labels = torch.randint(0, 2, (40,), generator=generator)  # class 2 gets nothing
    counted = torch.rand(40, generator=generator) < 0.7
    expected, members = bank.prototypes.numpy().copy(), {}
    for feature, label, counts in zip(unit(features.numpy()), labels.tolist(), counted.tolist(), strict=True):
        if counts:
            nearest = int(np.argmax([feature @ p for p in bank.prototypes[label].numpy()]))
            members.setdefault((label, nearest), []).append(feature)
    for (label, nearest), group in members.items():
        expected[label, nearest] = unit(0.9 * expected[label, nearest] + 0.1 * np.mean(group, axis=0))
    before = bank.prototypes.clone()
    bank.collect(bank.cross_entropies(features, labels), counted)
    bank.commit(torch.tensor(True))
    assert np.allclose(bank.prototypes.numpy(), expected, atol=1e-6)
    assert torch.equal(bank.prototypes[2], before[2]), "a class without a pixel must not move"
    assert bank.pixels.sum().item() == counted.sum().item()
    assert bank.idle_steps[2].tolist() == [1, 1]


@pytest.mark.parametrize("repeated", [False, True], ids=["all differ", "a prototype twice"])
def test_losses_and_gradients_are_those_of_the_head_written_out(bank, repeated):
    if repeated:
        bank.prototypes[1, 1] = bank.prototypes[1, 0]
    generator = torch.Generator().manual_seed(7)
    ours = (2 * torch.randn(30, 5, generator=generator)).requires_grad_()
    plain = ours.detach().clone().requires_grad_()
    labels = torch.randint(0, 3, (30,), generator=generator)
    weights = torch.rand(30, generator=generator)
    scored = bank.cross_entropies(ours, labels)
    cosines = torch.einsum("nd,ckd->nck", F.normalize(plain, dim=1), bank.prototypes)
    expected = F.cross_entropy(cosines.amax(dim=2) / 0.1, labels, reduction="none")
    (scored.losses * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(scored.losses, expected)
    torch.testing.assert_close(ours.grad, plain.grad)
    nearest = [2 * label + int(np.argmax(row[label])) for label, row in zip(labels, cosines.tolist(), strict=True)]
    assert scored.slots.tolist() == nearest
    torch.testing.assert_close(scored.directions, F.normalize(plain.detach(), dim=1))


def test_the_head_is_exact_under_autocast(bank):
    features = torch.randn(9, 5, generator=torch.Generator().manual_seed(6))
    labels = torch.arange(9) % 3
    with torch.autocast("cpu", torch.bfloat16):
        mixed, losses = bank.logits(features), bank.cross_entropies(features, labels).losses
    assert torch.equal(mixed, bank.logits(features))
    assert torch.equal(losses, bank.cross_entropies(features, labels).losses)


def test_features_in_half_precision_get_gradients_of_their_kind(bank):
    features = torch.randn(9, 5).bfloat16().requires_grad_()
    bank.cross_entropies(features, torch.arange(9) % 3).losses.sum().backward()
    assert features.grad.dtype == torch.bfloat16
    assert features.grad.abs().sum() > 0


def test_an_update_between_the_passes_leaves_the_gradient_alone(bank):
    features = torch.randn(6, 5, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    (expected,) = torch.autograd.grad(bank.cross_entropies(features, labels).losses.sum(), features)
    scored = bank.cross_entropies(features, labels)
    bank.collect(scored, torch.ones(6, dtype=torch.bool))
    bank.commit(torch.tensor(True))
    scored.losses.sum().backward()
    assert torch.equal(features.grad, expected)


def pixels_of_a_step(seed, classes=3):
    """Features, labels and which of them count."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (60,), generator=generator)
    return torch.randn(60, 5, generator=generator), labels, torch.rand(60, generator=generator) < 0.7


def show(bank, features, labels, counted):
    bank.collect(bank.cross_entropies(features, labels), counted)


def test_a_skipped_step_changes_nothing_and_is_forgotten(bank):
    twin = copy.deepcopy(bank)
    for step in range(4):
        before = {name: value.clone() for name, value in bank.state_dict().items()}
        show(bank, torch.full((6, 5), torch.nan), torch.arange(6) % 3, torch.ones(6, dtype=torch.bool))
        bank.commit(SKIPPED)
        assert all(torch.equal(value, before[name]) for name, value in bank.state_dict().items())
        for each in (bank, twin):
            show(each, *pixels_of_a_step(step))
            each.commit(TAKEN)
    assert torch.equal(bank.prototypes, twin.prototypes)


def test_a_bank_goes_on_bit_for_bit_from_its_state(bank):
    resumed = PrototypeBank(3, 2, 5, temperature=0.1, momentum=0.9)
    for step in range(6):
        if step == 3:
            resumed.load_state_dict(bank.state_dict())
        for each in (bank, resumed):
            show(each, *pixels_of_a_step(step, classes=2 if step < 4 else 3))
            each.commit(TAKEN)
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in bank.state_dict().items())


def commit_together(banks, monkeypatch):
    """Commit each in a thread of its own, as if these were processes that sum what they have collected."""
    shown, all_there = [], threading.Barrier(len(banks), timeout=60)

    def summed(values):
        shown.append(values)
        all_there.wait()
        return torch.stack(shown).sum(dim=0)

    with monkeypatch.context() as patch, ThreadPoolExecutor(len(banks)) as threads:
        patch.setattr(prototypes, "sum_over_processes", summed)
        list(threads.map(lambda bank: bank.commit(TAKEN), banks))


def test_two_processes_hold_the_bank_of_one(bank, monkeypatch):
    """Each sees half of the pixels; both halves in two passes of one process are the same step."""
    passes, processes = copy.deepcopy(bank), [copy.deepcopy(bank), copy.deepcopy(bank)]
    for step in range(6):
        pixels = pixels_of_a_step(step, classes=2 if step < 4 else 3)
        halves = [[part[:20] for part in pixels], [part[20:] for part in pixels]]
        show(bank, *pixels)
        bank.commit(TAKEN)
        for half in halves:
            show(passes, *half)
        passes.commit(TAKEN)
        for each, half in zip(processes, halves, strict=True):
            show(each, *half)
        commit_together(processes, monkeypatch)
        assert torch.equal(processes[0].prototypes, processes[1].prototypes)
        for each in (passes, processes[0]):
            torch.testing.assert_close(each.prototypes, bank.prototypes)
            assert torch.equal(each.idle_steps, bank.idle_steps)


def test_diagnostics_see_collapse_and_death():
    bank = PrototypeBank(2, 3, 4)
    same, apart = torch.ones(3, 4), torch.eye(4)[:3]
    bank.place(torch.stack([same, apart]))
    for _ in range(5):
        bank.collect(bank.cross_entropies(torch.eye(4)[:1], torch.tensor([1])), torch.tensor([True]))
        bank.commit(torch.tensor(True))
    report = bank.take_diagnostics(dead_after=5)
    assert report["within_class_cosine"][0] == pytest.approx(1.0, abs=1e-6)
    assert report["within_class_cosine"][1] == pytest.approx(0.0, abs=1e-6)
    assert report["dead"] == [3, 2]
    assert report["pixels"] == [[0, 0, 0], [5, 0, 0]]
    assert bank.take_diagnostics()["pixels"] == [[0, 0, 0], [0, 0, 0]], "counts start again after a report"


def test_gathering_equals_upsampling_then_indexing():
    generator = torch.Generator().manual_seed(4)
    features = torch.randn(2, 6, 9, 7, generator=generator)
    size = (35, 27)
    positions = sample_positions(2, *size, grid=35, generator=generator)
    dense = F.interpolate(features, size=size, mode="bilinear", align_corners=False)
    gathered = gather_features(features, positions, size)
    for image in range(2):
        rows, columns = positions[image].unbind(-1)
        assert torch.allclose(gathered[image], dense[image, :, rows, columns].T, atol=1e-5)


def test_gathered_values_lie_at_their_positions():
    values = torch.arange(2 * 5 * 4).view(2, 5, 4)
    positions = torch.tensor([[[0, 0], [4, 3]], [[2, 1], [3, 0]]])
    assert gather_values(values, positions).tolist() == [[0, 19], [29, 32]]


@pytest.mark.parametrize(("height", "width", "grid"), [(13, 7, 4), (8, 8, 8), (5, 40, 32)])
def test_every_pixel_can_be_drawn_and_each_cell_gives_one(height, width, grid):
    generator = torch.Generator().manual_seed(5)
    seen = torch.zeros(height, width, dtype=torch.bool)
    for _ in range(400):
        positions = sample_positions(3, height, width, grid, generator)
        assert positions.shape == (3, min(grid, height) * min(grid, width), 2)
        seen[positions[..., 0], positions[..., 1]] = True
    assert seen.all(), "borders included"


def bank_without(missing):
    torch.manual_seed(0)
    prototypes = torch.randn(3, 2, 5)
    prototypes[missing] = 0
    bank = PrototypeBank(3, 2, 5, temperature=0.1, momentum=0.9, may_lack_classes=True)
    bank.place(prototypes)
    return bank


def test_a_class_without_prototypes_is_never_the_nearest_and_harms_no_other():
    bank = bank_without(1)
    features = -10 * bank.prototypes[[0, 2]].sum(dim=1) + torch.randn(50, 1, 5)  # far from all there are
    features = features.flatten(0, 1).requires_grad_()
    labels = torch.arange(100) % 2 * 2
    assert (bank.logits(features).argmax(dim=1) != 1).all()
    scored = bank.cross_entropies(features, labels)
    torch.testing.assert_close(scored.losses, F.cross_entropy(bank.logits(features), labels, reduction="none"))
    (gradient,) = torch.autograd.grad(scored.losses.sum(), features, retain_graph=True)
    (expected,) = torch.autograd.grad(F.cross_entropy(bank.logits(features), labels, reduction="sum"), features)
    torch.testing.assert_close(gradient, expected)
    assert gradient.isfinite().all()


def test_pixels_of_a_class_without_prototypes_give_it_one():
    bank = bank_without(1)
    feature = torch.tensor([[0.0, 3.0, 0.0, 4.0, 0.0]])
    scored = bank.cross_entropies(feature, torch.tensor([1]))
    assert scored.losses.isfinite().all()
    bank.collect(scored, torch.tensor([True]))
    bank.commit(TAKEN)
    assert bank.present().tolist() == [[True, True], [True, False], [True, True]]
    torch.testing.assert_close(bank.prototypes[1, 0], feature[0] / 5)
    assert bank.logits(feature).argmax() == 1


def test_a_bank_with_all_classes_is_the_same_either_way(bank):
    other = bank_without([])
    features = torch.randn(20, 5)
    labels = torch.arange(20) % 3
    assert torch.equal(bank.logits(features), other.logits(features))
    assert torch.equal(bank.cross_entropies(features, labels).losses, other.cross_entropies(features, labels).losses)
