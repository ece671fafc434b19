"""What recipes may change about how the bank moves, against slow loops in NumPy."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from protoseg_deploy.methods import prototypes, queues, revival
from protoseg_deploy.methods.branch import PrototypeBranch
from protoseg_deploy.methods.clustering import cluster_prototypes
from protoseg_deploy.methods.diversity import pushed_apart
from protoseg_deploy.methods.prototypes import PrototypeBank
from protoseg_deploy.methods.queues import FeatureQueues
from protoseg_deploy.models import Segmenter
from protoseg_deploy.recipe import Prototypes

CLASSES, PER_CLASS, CHANNELS = 3, 3, 5
TAKEN, SKIPPED = torch.tensor(True), torch.tensor(False)
OPTIONS = {
    "raw": {"normalised": False},
    "count weighted": {"count_weighted": True},
    "revived": {"revive_after": 2},
    "diverse": {"diversity": 4.0},
    "all": {"normalised": False, "count_weighted": True, "revive_after": 2, "diversity": 4.0},
}


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def new_bank(options, seed=0):
    bank = PrototypeBank(CLASSES, PER_CLASS, CHANNELS, temperature=0.1, momentum=0.9, **options)
    bank.place(2 * torch.randn(CLASSES, PER_CLASS, CHANNELS, generator=torch.Generator().manual_seed(seed)))
    return bank


def pixels_of_a_step(seed, count=60, classes=CLASSES):
    """Pixels of one place in the sphere for each class, so that some prototypes get many pixels and some none."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(CLASSES, CHANNELS, generator=torch.Generator().manual_seed(99))
    labels = torch.randint(0, classes, (count,), generator=generator)
    features = 3 * centres[labels] + torch.randn(count, CHANNELS, generator=generator)
    return features, labels, torch.rand(count, generator=generator) < 0.7


def shown(bank, features, labels, counted):
    bank.collect(bank.judge(features, labels), counted)


class SlowBank:
    """The same rules, pixel by pixel."""

    def __init__(self, bank):
        self.bank, self.prototypes = bank, bank.prototypes.double().numpy().copy()
        self.idle = np.zeros((CLASSES, PER_CLASS), int)

    def step(self, features, labels, counted):
        bank, start = self.bank, self.prototypes.copy()
        members, farthest = {}, {}
        for feature, label, counts in zip(features.double().numpy(), labels.tolist(), counted.tolist(), strict=True):
            if not counts:
                continue
            cosines = [unit(feature) @ unit(prototype) for prototype in start[label]]
            kept = unit(feature) if bank.normalised else feature
            members.setdefault((label, int(np.argmax(cosines))), []).append(kept)
            if label not in farthest or max(cosines) < farthest[label][0]:
                farthest[label] = max(cosines), kept
        typical = np.mean([len(group) for group in members.values()])
        for place, group in members.items():
            keep = bank.momentum ** (len(group) / typical) if bank.count_weighted else bank.momentum
            moved = keep * start[place] + (1 - keep) * np.mean(group, axis=0)
            self.prototypes[place] = unit(moved) if bank.normalised else moved
        before_push = self.prototypes.copy()
        for label, slot in members:
            own, push = before_push[label, slot], 0.0
            for other in range(PER_CLASS):
                if other != slot:
                    direction = unit(before_push[label, other])
                    push = push + max(0.0, unit(own) @ direction) * direction
            pushed = unit(unit(own) - bank.diversity * (1 - bank.momentum) * push)
            self.prototypes[label, slot] = pushed * np.linalg.norm(own)
        self.idle += 1
        for place in members:
            self.idle[place] = 0
        for label in range(CLASSES) if bank.revival else ():
            slot = int(np.argmax(self.idle[label]))
            if label in farthest and self.idle[label, slot] >= bank.revival.after:
                self.prototypes[label, slot], self.idle[label, slot] = farthest[label][1], 0


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_updates_are_those_of_a_loop(options):
    bank = new_bank(options)
    slow = SlowBank(bank)
    for step in range(8):
        pixels = pixels_of_a_step(step, classes=2 if step < 4 else CLASSES)
        shown(bank, *pixels)
        bank.commit(TAKEN)
        slow.step(*pixels)
        np.testing.assert_allclose(bank.prototypes.numpy(), slow.prototypes, atol=1e-5)
        assert bank.idle_steps.tolist() == slow.idle.tolist()


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_an_option_changes_something(options):
    plain, other = new_bank({}), new_bank(options)
    for step in range(4):
        for bank in (plain, other):
            shown(bank, *pixels_of_a_step(step))
            bank.commit(TAKEN)
    assert not torch.allclose(plain.directions, other.directions, atol=1e-4)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_skipped_step_changes_nothing_and_is_forgotten(options):
    bank, twin = new_bank(options), new_bank(options)
    for step in range(4):
        before = {name: value.clone() for name, value in bank.state_dict().items()}
        shown(bank, torch.full((6, CHANNELS), torch.nan), torch.arange(6) % CLASSES, torch.ones(6, dtype=torch.bool))
        bank.commit(SKIPPED)
        assert all(torch.equal(value, before[name]) for name, value in bank.state_dict().items())
        for each in (bank, twin):
            shown(each, *pixels_of_a_step(step))
            each.commit(TAKEN)
    assert torch.equal(bank.prototypes, twin.prototypes)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_bank_goes_on_bit_for_bit_from_its_state(options):
    bank, resumed = new_bank(options), new_bank(options, seed=1)
    for step in range(6):
        if step == 3:
            resumed.load_state_dict(bank.state_dict())
        for each in (bank, resumed):
            shown(each, *pixels_of_a_step(step, classes=2 if step < 4 else CLASSES))
            each.commit(TAKEN)
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in bank.state_dict().items())


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_two_processes_hold_the_bank_of_one(options, monkeypatch):
    """Each sees half of the pixels; both halves in two passes of one process are the same step."""
    alone, passes, processes = new_bank(options), new_bank(options), [new_bank(options), new_bank(options)]
    for step in range(6):
        pixels = pixels_of_a_step(step, classes=2 if step < 4 else CLASSES)
        halves = [[part[:20] for part in pixels], [part[20:] for part in pixels]]
        shown(alone, *pixels)
        alone.commit(TAKEN)
        for half in halves:
            shown(passes, *half)
        passes.commit(TAKEN)
        for bank, half in zip(processes, halves, strict=True):
            shown(bank, *half)
        sums = processes[0]._collected + processes[1]._collected
        with monkeypatch.context() as patch:
            patch.setattr(prototypes, "sum_over_processes", lambda _, sums=sums: sums)
            if alone.revival is not None:
                both = torch.stack([bank.revival._farthest for bank in processes])
                patch.setattr(revival, "gather_over_processes", lambda _, both=both: both)
            for bank in processes:
                bank.commit(TAKEN)
        assert torch.equal(processes[0].prototypes, processes[1].prototypes)
        for bank in (passes, processes[0]):
            torch.testing.assert_close(bank.prototypes, alone.prototypes)
            assert torch.equal(bank.idle_steps, alone.idle_steps)


def test_raw_prototypes_are_judged_by_their_directions():
    raw, plain = new_bank({"normalised": False}), new_bank({})
    assert raw.prototypes.norm(dim=-1).std() > 0.1
    features, labels, _ = pixels_of_a_step(0)
    assert torch.equal(raw.logits(features), plain.logits(features))
    assert torch.equal(raw.judge(features, labels).losses, plain.judge(features, labels).losses)
    assert raw.diagnostics()["within_class_cosine"] == plain.diagnostics()["within_class_cosine"]


def test_idle_prototypes_of_a_class_are_revived_one_after_the_other():
    """Two axes that nothing points to, and pixels that no prototype is near to."""
    bank = PrototypeBank(1, 3, 5, revive_after=3)
    bank.place(torch.eye(5)[None, :3])
    pixels = torch.eye(5)[[0, 3, 4]] + 0.1 * torch.eye(5)[[0, 0, 0]]
    idle = []
    for _ in range(4):
        shown(bank, pixels, torch.zeros(3, dtype=torch.int64), torch.tensor([True, True, True]))
        bank.commit(TAKEN)
        idle.append(bank.idle_steps[0].tolist())
    assert idle == [[0, 1, 1], [0, 2, 2], [0, 0, 3], [0, 0, 0]]
    near = F.normalize(pixels, dim=1) @ bank.prototypes[0].T
    assert near.amax(dim=1).min() > 0.99, "every pixel has a prototype now"


def test_pushed_prototypes_are_less_alike_and_keep_their_lengths():
    generator = torch.Generator().manual_seed(0)
    near = torch.ones(2, 4, 6) + 0.2 * torch.randn(2, 4, 6, generator=generator)
    apart = pushed_apart(near, 0.05)
    cosines = [F.normalize(each, dim=-1) @ F.normalize(each, dim=-1).mT for each in (near, apart)]
    off_diagonal = ~torch.eye(4, dtype=torch.bool)
    assert (cosines[1] < cosines[0])[:, off_diagonal].all()
    torch.testing.assert_close(apart.norm(dim=-1), near.norm(dim=-1))
    square = torch.eye(6)[None, :3]
    torch.testing.assert_close(pushed_apart(square, 0.5), square)


class SlowQueues:
    def __init__(self, length, at_once):
        self.length, self.at_once = length, at_once
        self.rings = [[None] * length for _ in range(CLASSES)]
        self.written = [0] * CLASSES

    def chosen(self, features, labels, counted):
        """Of n features the first of each of `at_once` equal parts."""
        found = []
        for number in range(CLASSES):
            own = [feature for feature, mine in zip(features, (labels == number) & counted, strict=True) if mine]
            parts = {index * self.at_once // len(own): index for index in reversed(range(len(own)))}
            found.append([own[index] for index in sorted(parts.values())] if len(own) > self.at_once else own)
        return found

    def step(self, passes):
        for number in range(CLASSES):
            for chosen in passes:
                for feature in chosen[number]:
                    self.rings[number][self.written[number] % self.length] = feature
                    self.written[number] += 1


@pytest.fixture
def filling():
    return [pixels_of_a_step(step, count=40, classes=2) for step in range(8)]


def test_queues_are_those_of_a_loop(filling):
    fast, slow = FeatureQueues(CLASSES, CHANNELS, length=25, at_once=6), SlowQueues(25, 6)
    for first, second in zip(filling[::2], filling[1::2], strict=True):
        fast.collect(*first)
        fast.collect(*second)
        fast.commit(TAKEN)
        slow.step([slow.chosen(*first), slow.chosen(*second)])
        assert fast.written.tolist() == slow.written
        for found, ring in zip(fast.of_classes(), slow.rings, strict=True):
            expected = [feature for feature in ring if feature is not None]
            assert found.tolist() == (torch.stack(expected).tolist() if expected else [])


def test_a_skipped_step_leaves_queues_alone(filling):
    one = FeatureQueues(CLASSES, CHANNELS, length=25, at_once=6)
    one.collect(*filling[0])
    one.commit(TAKEN)
    before = {name: value.clone() for name, value in one.state_dict().items()}
    one.collect(torch.full((6, CHANNELS), torch.nan), torch.arange(6) % CLASSES, torch.ones(6, dtype=torch.bool))
    one.commit(SKIPPED)
    one.commit(TAKEN)
    assert all(torch.equal(value, before[name]) for name, value in one.state_dict().items())


def test_processes_hold_the_same_queues(filling, monkeypatch):
    several = [FeatureQueues(CLASSES, CHANNELS, length=25, at_once=6) for _ in range(2)]
    alone = FeatureQueues(CLASSES, CHANNELS, length=25, at_once=6)
    for pair in zip(filling[::2], filling[1::2], strict=True):
        for one, pixels in zip(several, pair, strict=True):
            one.collect(*pixels)
            alone.collect(*pixels)
        alone.commit(TAKEN)
        both = torch.stack([one._collected[0] for one in several])
        with monkeypatch.context() as patch:
            patch.setattr(queues, "gather_over_processes", lambda _, both=both: both)
            for one in several:
                one.commit(TAKEN)
        for one in several:
            assert torch.equal(one.features, alone.features)
            assert torch.equal(one.written, alone.written)


def test_more_features_than_a_ring_holds_are_cut_off():
    one = FeatureQueues(1, 2, length=4, at_once=6)
    one.collect(torch.arange(12.0).view(6, 2), torch.zeros(6, dtype=torch.int64), torch.ones(6, dtype=torch.bool))
    one.commit(TAKEN)
    assert one.of_classes()[0].tolist() == torch.arange(8.0).view(4, 2).tolist()


def test_queued_classes_need_no_views(tiny_recipe):
    """Each class is clustered by itself: of the queue where it has one, of views of that class alone elsewhere."""
    student = Segmenter(tiny_recipe.model, 3)
    channels = student.feature_channels("head_input")
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8, generator=generator)
    label = (torch.arange(32 * 32) % 2 * 2).view(1, 32, 32)
    label[0, 5, [9, 30]] = 1  # as many pixels as prototypes: where they start is known
    asked = []

    def views(class_index):
        asked.append(class_index)
        return [(image, label)]

    spots = torch.eye(channels)[:2].repeat(10, 1) * 5
    rest = views, ("a", "b", "c"), "head_input", 2, 255
    found = cluster_prototypes(student, *rest, seed=0, queued=[spots, spots[:0], spots])
    assert asked == [1]
    for number in (0, 2):
        assert sorted(found[number].tolist(), reverse=True) == torch.eye(channels)[:2].tolist()
    usual = cluster_prototypes(student, *rest, seed=0, queued=[spots[:0]] * 3)
    torch.testing.assert_close(torch.tensor(sorted(found[1].tolist())), torch.tensor(sorted(usual[1].tolist())))
    assert asked == [1, None], "without any queue the usual views are asked for"
    assert torch.equal(usual, cluster_prototypes(student, *rest, seed=0))


def test_the_projected_head_is_two_layers_and_a_bank():
    torch.manual_seed(0)
    head = PrototypeBranch(Prototypes(projection_channels=4, per_class=2), 3, channels=6, ignore_index=255)
    head.bank.place(torch.randn(3, 2, 4))
    maps = torch.randn(2, 6, 3, 5)
    dense = head.dense_logits(SimpleNamespace(features=lambda _: maps))
    first, second = head.projection[0], head.projection[2]
    for image, row, column in np.ndindex(2, 3, 5):
        hidden = np.maximum(
            first.weight.detach().numpy() @ maps[image, :, row, column].numpy() + first.bias.tolist(), 0
        )
        feature = unit(second.weight.detach().numpy() @ hidden + second.bias.tolist())
        expected = [max(p @ feature for p in of_class) / 0.1 for of_class in head.bank.prototypes.numpy()]
        assert dense[image, :, row, column].tolist() == pytest.approx(expected, abs=1e-4)


def test_nothing_is_added_by_default():
    head = PrototypeBranch(Prototypes(), 3, channels=6, ignore_index=255)
    assert not list(head.parameters())
    assert set(head.state_dict()) == {f"bank.{name}" for name in ("prototypes", "initialised", "pixels", "idle_steps")}
    assert head.before_start(None, None, None) == {}
