"""CorrMatch against plain references: its head, its regions, its threshold and its loss."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from protoseg_deploy.data import find_data
from protoseg_deploy.data.loading import TrainingBatches
from protoseg_deploy.errors import ProtosegError
from protoseg_deploy.methods import build_method, corrmatch
from protoseg_deploy.methods.correlation import Correlation, CorrelationHead, propagate_regions
from protoseg_deploy.methods.draws import StepDraws
from protoseg_deploy.methods.dynamic_threshold import DynamicThreshold
from protoseg_deploy.methods.full_size import FullSizeLogits
from protoseg_deploy.methods.terms import PseudoLabels
from protoseg_deploy.models import Segmenter, SegmenterOutput
from protoseg_deploy.recipe import class_table
from tests.conftest import with_values
from tests.methods.test_unimatch import cross_entropy, cut_and_pasted, decoded

SIZES = {"padded": ((32, 48), (29, 45)), "whole": ((32, 48), (32, 48))}


def network_output(deepest, logits, padded_size=(64, 64), image_size=(60, 62)):
    return SegmenterOutput(logits, logits, logits, [deepest], image_size, padded_size)


def test_logits_spread_along_rows_that_are_softmaxes_and_do_not_learn_from_it():
    torch.manual_seed(0)
    head = CorrelationHead(5, 3, dropout=0.0)
    deepest, logits = torch.randn(2, 5, 3, 4), torch.randn(2, 3, 6, 8, requires_grad=True)
    spread = head(network_output(deepest, logits)).logits.coarse
    features = head.project(deepest)
    givers, takers = head.givers(features).detach(), head.takers(features).detach()
    for image in range(2):
        expected = np.zeros((3, 3, 4))
        for row, column in np.ndindex(3, 4):
            pairs = np.array(
                [
                    [float(givers[image, :, row, column] @ takers[image, :, y, x]) / 3**0.5 for x in range(4)]
                    for y in range(3)
                ]
            )
            weights = np.exp(pairs) / np.exp(pairs).sum()
            own = logits.detach()[image, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].mean(dim=(1, 2))
            expected += own.numpy()[:, None, None] * weights
        assert np.allclose(spread[image].detach().numpy(), expected, atol=1e-5)
    spread.square().sum().backward()
    assert logits.grad is None
    assert all(parameter.grad.abs().sum() > 0 for parameter in head.parameters())


@pytest.mark.parametrize(("side", "positions"), [(51, 51), (52, 26), (101, 51), (160, 40)])
def test_the_matrix_is_bounded(side, positions):
    output = network_output(torch.randn(1, 4, side, side), torch.randn(1, 2, side, side))
    correlation = CorrelationHead(4, 2, dropout=0.0)(output)
    assert correlation.grid == (positions, positions)
    assert correlation.matrix.shape == (1, positions**2, positions**2)


def spread_by_hand(labels, trusted, valid, rows, sizes, threshold):
    """One image, mask by mask and pixel by pixel."""
    (height, width), (padded, image) = labels.shape, sizes
    spread, joined, passed = labels.clone(), trusted.clone(), 0
    for row in rows:
        full = F.interpolate(row[None, None], size=padded, mode="bilinear")[0, 0, : image[0], : image[1]]
        scaled = (full - full.min()) / (full.max() - full.min())
        inside = [p for p in np.ndindex(height, width) if scaled[p] > 0.5 and valid[p]]
        votes = [int(labels[p]) for p in inside if trusted[p]]
        if not votes or len(votes) < threshold * len(inside):
            continue
        winner = max(set(votes), key=votes.count)
        if votes.count(winner) <= threshold * len(votes):
            continue
        passed += 1
        for p in inside:
            spread[p], joined[p] = winner, True
    return spread, joined, passed


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_regions_are_those_found_mask_by_mask(sizes):
    image = sizes[1]
    generator = torch.Generator().manual_seed(1)
    batch, grid, classes, threshold = 3, (4, 6), 3, 0.6
    smooth = F.interpolate(torch.rand(batch, classes, 4, 6, generator=generator), size=image, mode="bilinear")
    labels = smooth.argmax(dim=1)
    valid = torch.ones(batch, *image, dtype=torch.bool)
    valid[1, :, 30:] = False
    trusted = (torch.rand(batch, *image, generator=generator) < 0.7) & valid
    matrix = (3 * torch.randn(batch, 24, 24, generator=generator)).softmax(dim=-1)
    positions = torch.randint(24, (batch, 9), generator=generator)
    pseudo = PseudoLabels(labels, torch.rand(batch, *image, generator=generator), trusted, valid)
    correlation = Correlation(matrix, grid, FullSizeLogits(torch.zeros(batch, classes, *grid), *sizes))
    found = propagate_regions(pseudo, correlation, positions, torch.tensor(threshold))
    passed = []
    for number in range(batch):
        rows = matrix[number, positions[number]].view(-1, *grid)
        spread, joined, count = spread_by_hand(labels[number], trusted[number], valid[number], rows, sizes, threshold)
        assert torch.equal(found.labels[number], spread)
        assert torch.equal(found.trusted[number], joined)
        passed.append(count)
    assert 0 < sum(passed) < positions.numel(), passed
    assert found.confidence is pseudo.confidence
    assert found.valid is pseudo.valid


def test_the_threshold_follows_the_largest_confidence_of_the_classes_that_are_there():
    threshold = DynamicThreshold(4, start=0.85, momentum=0.9)
    labels = torch.tensor([[[0, 0, 2]], [[2, 0, 3]]])
    confidence = torch.tensor([[[0.5, 0.6, 0.7]], [[0.9, 0.99, 0.95]]])
    valid = torch.tensor([[[True, True, True]], [[True, False, False]]])
    for image in range(2):  # in two passes: class 0 reaches 0.6, class 2 0.9, and class 3 is outside the image
        part = slice(image, image + 1)
        threshold.collect(PseudoLabels(labels[part], confidence[part], valid[part], valid[part]))
    threshold.commit(torch.tensor(True))
    assert threshold.value.item() == pytest.approx(0.9 * 0.85 + 0.1 * (0.6 + 0.9) / 2)
    before = threshold.value.clone()
    for seen, taken in ((valid, False), (torch.zeros_like(valid), True)):
        threshold.collect(PseudoLabels(labels, confidence, seen, seen))
        threshold.commit(torch.tensor(taken))
        assert torch.equal(threshold.value, before), "a skipped step, and one that saw no pixel, change nothing"
    assert threshold.state_dict().keys() == {"value"}


@pytest.fixture
def setting(tiny_recipe):
    def make(**method):
        recipe = with_values(
            tiny_recipe,
            method={"name": "corrmatch", "confidence_threshold": 0.37, "cutmix_probability": 1.0, **method},
            model={"dropout": 0.0, "output_stride": 8},
            train={"batch_unlabeled": 4},
        )
        torch.manual_seed(0)
        student, teacher = (Segmenter(recipe.model, 3) for _ in range(2))
        method = build_method(recipe, student, class_table(recipe.data))
        sets = find_data(recipe.data, need_unlabeled=True, need_val=False)
        batch = TrainingBatches(recipe, sets.labeled, sets.unlabeled).batch(3).to(torch.device("cpu"))
        return recipe, student, teacher, method, batch

    return make


def at_image_size(coarse):
    return F.interpolate(coarse, size=(32, 32), mode="bilinear")


def test_corrmatch_is_its_formula(setting, monkeypatch):
    monkeypatch.setattr(corrmatch, "REGIONS", 12)
    recipe, student, teacher, method, batch = setting()
    student.eval()  # so that images do not see each other through normalisation
    result = method.step(student, teacher, batch, 3)
    with torch.no_grad():
        confidence, labels = teacher.eval()(batch.weak).softmax(dim=1).max(dim=1)
    plain = labels, batch.valid & (confidence >= 0.37), batch.valid
    draws = StepDraws(recipe.train, batch, 3)
    boxes = draws.cutmix(32, 32, 1.0).boxes
    strong_images = cut_and_pasted(batch.strong[0], boxes)
    labeled, weak, strong = (student.forward_features(images) for images in (batch.images, batch.weak, strong_images))
    spread_labeled, spread_weak, spread_strong = (method.correlation(output) for output in (labeled, weak, strong))
    rows = spread_weak.matrix.detach()
    positions = draws.region_positions(12, rows.shape[1])
    regional = [
        spread_by_hand(
            *(values[number] for values in plain),
            rows[number, positions[number]].view(-1, *spread_weak.grid),
            ((32, 32), (32, 32)),
            0.37,
        )
        for number in range(4)
    ]
    assert 0 < sum(passed for *_, passed in regional) < 4 * 12
    regional = torch.stack([labels for labels, *_ in regional]), torch.stack([joined for _, joined, _ in regional])
    assert not torch.equal(regional[0], labels)
    mixed = [cut_and_pasted(values, boxes) for values in (*regional, batch.valid)]
    expected = {
        "labeled": 0.5 * F.cross_entropy(at_image_size(labeled.logits), batch.labels, ignore_index=255).item(),
        "labeled_correlation": 0.5
        * F.cross_entropy(at_image_size(spread_labeled.logits.coarse), batch.labels, ignore_index=255).item(),
        "unlabeled": 0.25 * cross_entropy(at_image_size(strong.logits), *mixed),
        "correlation": 0.125
        * (
            cross_entropy(at_image_size(spread_strong.logits.coarse), *mixed)
            + cross_entropy(at_image_size(spread_weak.logits.coarse), *plain)
        ),
    }
    kept = [(~dropped).float() * 2 for dropped in draws.dropped_channels(student.backbone.channels, 0.5)]
    expected["features"] = 0.25 * cross_entropy(decoded(student, batch.weak, kept), *plain)
    wanted = cut_and_pasted(at_image_size(weak.logits), boxes).softmax(dim=1)
    divergence = (wanted * (wanted.log() - at_image_size(strong.logits).log_softmax(dim=1))).sum(dim=1)
    trusted = cut_and_pasted(plain[1], boxes)
    expected["divergence"] = 0.25 * (divergence[trusted].sum() / mixed[2].sum()).item()
    assert {name: loss.item() for name, loss in result.losses.items()} == pytest.approx(expected, rel=1e-3)
    assert result.monitors["confidence_threshold"].item() == pytest.approx(0.37)
    result.total().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in method.correlation.parameters())
    assert student.head.weight.grad.abs().sum() > 0


def test_without_unlabelled_images_the_head_learns_from_labels(setting):
    """So that no process ever waits for gradients of parameters that a step leaves idle."""
    _, student, teacher, method, batch = setting(unlabeled_start=0.9)
    result = method.step(student, teacher, batch, 3)
    assert result.losses.keys() == {"labeled", "labeled_correlation"}
    result.total().backward()
    trained = [parameter for parameter in method.parameters() if parameter.requires_grad]
    assert len(trained) == 7
    assert all(parameter.grad is not None for parameter in trained)


def test_with_its_own_labels_the_threshold_is_taken_over_once_a_step(setting):
    _, student, _, method, batch = setting(ema_teacher=False, prototypes={"enabled": True, "start": 0.0})
    method.branch.bank.place(torch.randn(3, 2, student.feature_channels("head_input")))
    student.train()
    before = method.threshold.value.clone()
    result = method.step(student, student, batch, 3)
    assert student.training
    assert {"prototype_labeled", "prototype_unlabeled", "divergence"} <= result.losses.keys()
    assert torch.equal(method.threshold.value, before)
    method.commit(torch.tensor(True))
    assert not torch.equal(method.threshold.value, before)


def test_a_part_of_a_batch_draws_the_regions_of_its_images(setting):
    recipe, *_, batch = setting()
    whole = StepDraws(recipe.train, batch, 5).region_positions(128, 49)
    assert whole.unique().numel() == 49
    for number, part in enumerate(batch.parts(2)):
        drawn = StepDraws(recipe.train, part, 5).region_positions(128, 49)
        assert torch.equal(drawn, whole[2 * number : 2 * number + 2])


def test_labels_that_spread_are_not_soft(tiny_recipe):
    with pytest.raises(ProtosegError, match="soft_labels"):
        with_values(tiny_recipe, method={"name": "corrmatch", "soft_labels": True})
