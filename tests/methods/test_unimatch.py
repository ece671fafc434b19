"""UniMatch and UniMatch V2 against plain references, and what their random numbers promise."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from protoseg_deploy.data import find_data
from protoseg_deploy.data.loading import TrainingBatches
from protoseg_deploy.methods import build_method
from protoseg_deploy.methods.draws import StepDraws
from protoseg_deploy.models import Segmenter
from protoseg_deploy.recipe import class_table
from tests.conftest import with_values


@pytest.fixture
def setting(tiny_recipe):
    def make(name, **method):
        recipe = with_values(
            tiny_recipe,
            method={"name": name, "confidence_threshold": 0.36, "cutmix_probability": 1.0, **method},
            model={"dropout": 0.0},
            train={"batch_unlabeled": 4},
        )
        torch.manual_seed(0)
        student, teacher = (Segmenter(recipe.model, 3) for _ in range(2))
        method = build_method(recipe, student, class_table(recipe.data))
        sets = find_data(recipe.data, need_unlabeled=True, need_val=False)
        batches = TrainingBatches(recipe, sets.labeled, sets.unlabeled, strong_views=method.strong_views)
        return recipe, student, teacher, method, batches.batch(3).to(torch.device("cpu"))

    return make


def cross_entropy(logits, labels, trusted, valid):
    """Pixel by pixel over trusted pixels, divided by the valid ones."""
    losses = F.cross_entropy(logits, labels, reduction="none")
    return sum(loss.item() for loss, counts in zip(losses.flatten(), trusted.flatten(), strict=True) if counts) / int(
        valid.sum()
    )


def pseudo_labels(teacher, batch, threshold):
    with torch.no_grad():
        confidence, labels = teacher.eval()(batch.weak).softmax(dim=1).max(dim=1)
    return labels, batch.valid & (confidence >= threshold), batch.valid


def cut_and_pasted(values, boxes):
    mixed = values.clone()
    for image, box in enumerate(boxes):
        partner = image + 1 if image % 2 == 0 else image - 1
        mixed[image][..., box] = values[partner][..., box]
    return mixed


def decoded(student, images, weights):
    """The student image by image, its decoder fed with weighted channels."""
    outputs = []
    for number, image in enumerate(images):
        pyramid = student.backbone(student.pad(student.normalise(image[None])))
        pyramid = [
            torch.stack([channel * float(weight) for channel, weight in zip(level[0], rows[number], strict=True)])
            for level, rows in zip(pyramid, weights, strict=True)
        ]
        logits = student.head(student.decoder([level[None] for level in pyramid])[1])
        outputs.append(F.interpolate(logits, size=image.shape[-2:], mode="bilinear"))
    return torch.cat(outputs)


def test_unimatch_is_its_formula(setting):
    recipe, student, teacher, method, batch = setting("unimatch")
    student.eval()  # so that images do not see each other through normalisation
    result = method.step(student, teacher, batch, 3)
    labels, trusted, valid = pseudo_labels(teacher, batch, 0.36)
    assert 0.02 < trusted.float().mean() < 0.98
    draws = StepDraws(recipe.train, batch, 3)
    strong = []
    for view in range(2):
        boxes = draws.cutmix(32, 32, 1.0, view).boxes
        logits = student(cut_and_pasted(batch.strong[view], boxes))
        strong.append(cross_entropy(logits, *(cut_and_pasted(values, boxes) for values in (labels, trusted, valid))))
    assert strong[0] != strong[1]
    assert result.losses["unlabeled"].item() == pytest.approx(0.5 * (strong[0] + strong[1]) / 2, rel=1e-4)
    kept = [(~dropped).float() * 2 for dropped in draws.dropped_channels(student.backbone.channels, 0.5)]
    perturbed = cross_entropy(decoded(student, batch.weak, kept), labels, trusted, valid)
    assert result.losses["features"].item() == pytest.approx(0.5 * perturbed, rel=1e-4)
    plain = F.cross_entropy(student(batch.images), batch.labels, ignore_index=255)
    assert result.losses["labeled"].item() == pytest.approx(plain.item(), rel=1e-4)


def test_unimatch_v2_drops_complementary_channels_of_half_of_the_images(setting, monkeypatch):
    recipe, student, teacher, method, batch = setting("unimatch_v2")
    student.eval()
    seen = []
    whole = Segmenter.forward_features

    def spy(self, images, weights=None):
        if weights is not None:
            seen.append((images, weights))
        return whole(self, images, weights)

    monkeypatch.setattr(Segmenter, "forward_features", spy)
    result = method.step(student, teacher, batch, 3)
    ((images, weights),) = seen
    intact = []
    for level in weights:
        labeled, one, other = level[:2], level[2:6], level[6:]
        assert (labeled == 1).all()
        intact.append([bool((row == 1).all()) for row in one])
        for first, second, is_intact in zip(one, other, intact[-1], strict=True):
            assert torch.equal(first + second, torch.full_like(first, 2.0)), "what one keeps, the other drops"
            assert is_intact or set(first.tolist()) == {0.0, 2.0}
    assert all(row == intact[0] for row in intact), "an image is intact at all levels or at none"
    assert sum(intact[0]) == 2
    labels, trusted, valid = pseudo_labels(teacher, batch, 0.36)
    draws = StepDraws(recipe.train, batch, 3)
    strong = []
    for view in range(2):
        boxes = draws.cutmix(32, 32, 1.0, view).boxes
        part = slice(2 + 4 * view, 6 + 4 * view)
        assert torch.equal(images[part], cut_and_pasted(batch.strong[view], boxes))
        logits = decoded(student, images[part], [level[part] for level in weights])
        strong.append(cross_entropy(logits, *(cut_and_pasted(values, boxes) for values in (labels, trusted, valid))))
    assert result.losses["unlabeled"].item() == pytest.approx((strong[0] + strong[1]) / 2, rel=1e-4)


@pytest.mark.parametrize("name", ["fixmatch", "unimatch", "unimatch_v2"])
def test_the_prototype_branch_can_be_put_on(setting, name):
    *_, off, _ = setting(name)
    assert off.branch is None
    _, student, teacher, method, batch = setting(name, prototypes={"enabled": True, "start": 0.0})
    method.branch.bank.place(torch.randn(3, 2, student.feature_channels("head_input")))
    before = method.branch.bank.prototypes.clone()
    losses = method.step(student.train(), teacher, batch, 3).losses
    assert {"prototype_labeled", "prototype_unlabeled"} <= losses.keys()
    sum(losses.values()).backward()
    assert student.head.weight.grad.abs().sum() > 0
    method.commit(torch.tensor(True))
    assert not torch.equal(before, method.branch.bank.prototypes)


def test_a_part_of_a_batch_draws_what_the_whole_batch_draws_for_it(setting):
    recipe, *_, batch = setting("unimatch_v2")
    whole = StepDraws(recipe.train, batch, 5)
    for number, part in enumerate(batch.parts(2)):
        draws = StepDraws(recipe.train, part, 5)
        labeled, unlabeled = slice(number, number + 1), slice(2 * number, 2 * number + 2)
        for view in range(2):
            assert torch.equal(draws.cutmix(32, 32, 0.5, view).boxes, whole.cutmix(32, 32, 0.5, view).boxes[unlabeled])
        assert torch.equal(draws.labeled_positions(32, 32, 8), whole.labeled_positions(32, 32, 8)[labeled])
        assert torch.equal(draws.unlabeled_positions(32, 32, 8), whole.unlabeled_positions(32, 32, 8)[unlabeled])
        assert torch.equal(draws.half_of_the_images(), whole.half_of_the_images()[unlabeled])
        for own, all_of_them in zip(
            draws.dropped_channels([7, 9], 0.5), whole.dropped_channels([7, 9], 0.5), strict=True
        ):
            assert torch.equal(own, all_of_them[unlabeled])
    again = StepDraws(recipe.train, replace(batch), 6)
    assert not torch.equal(again.cutmix(32, 32, 1.0).boxes, whole.cutmix(32, 32, 1.0).boxes)
    assert not torch.equal(whole.cutmix(32, 32, 1.0, 0).boxes, whole.cutmix(32, 32, 1.0, 1).boxes)
