"""Methods as a whole: which terms they give, when, and what reaches the student."""

import pytest
import torch

from protoseg_deploy.data import find_data
from protoseg_deploy.data.loading import TrainingBatches
from protoseg_deploy.data.views import view_around_class
from protoseg_deploy.errors import DataError
from protoseg_deploy.methods import build_method, terms
from protoseg_deploy.methods.clustering import cluster_prototypes
from protoseg_deploy.models import Segmenter
from protoseg_deploy.recipe import class_table
from tests.conftest import with_values
from tests.methods.test_full_size import at_full_size


def setup(recipe):
    torch.manual_seed(0)
    sets = find_data(recipe.data, need_unlabeled=True, need_val=True)
    classes = class_table(recipe.data)
    student = Segmenter(recipe.model, len(classes)).train()
    method = build_method(recipe, student, classes)
    return student, method, TrainingBatches(recipe, sets.labeled, sets.unlabeled, strong_views=method.strong_views)


def one_step(recipe, step):
    student, method, batches = setup(recipe)
    start = round(recipe.method.prototypes.start * recipe.train.steps)
    if step >= start:
        method.prepare(student, start, lambda _: batches.labeled_views(1))
    batch = batches.batch(step).to(torch.device("cpu"))
    return method.step(student, student, batch, step), student, method


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("supervised", {"labeled"}),
        ("fixmatch", {"labeled", "unlabeled"}),
        ("prototype", {"labeled", "unlabeled", "prototype_labeled", "prototype_unlabeled"}),
    ],
)
def test_terms_of_each_method(tiny_recipe, name, expected):
    result, student, _ = one_step(with_values(tiny_recipe, method={"name": name}), step=4)
    assert result.losses.keys() == expected
    assert result.total().item() == pytest.approx(sum(loss.item() for loss in result.losses.values()), rel=1e-5)
    result.total().backward()
    assert student.head.weight.grad.abs().sum() > 0


def test_phases_follow_their_shares(tiny_recipe):
    recipe = with_values(
        tiny_recipe,
        method={
            "unlabeled_start": 0.25,
            "unlabeled_ramp": 0.5,
            "prototypes": {"start": 0.5},
            "confidence_threshold": 0.0,
        },
    )  # of 8 steps: unlabelled images join at step 2 and have their full weight at step 5, prototypes at 4
    assert one_step(recipe, 1)[0].losses.keys() == {"labeled"}
    assert one_step(recipe, 3)[0].losses.keys() == {"labeled", "unlabeled"}
    assert "prototype_labeled" in one_step(recipe, 4)[0].losses
    full = with_values(recipe, method={"unlabeled_start": 0.0, "unlabeled_ramp": 0.0})
    ratio = one_step(recipe, 3)[0].losses["unlabeled"] / one_step(full, 3)[0].losses["unlabeled"]
    assert ratio.item() == pytest.approx(0.5, rel=1e-4), "half way up the ramp"


def test_weights_scale_their_terms(tiny_recipe):
    base = one_step(tiny_recipe, 4)[0].losses
    heavy = one_step(with_values(tiny_recipe, method={"unlabeled_weight": 3.0, "prototypes": {"weight": 0.5}}), 4)[
        0
    ].losses
    assert heavy["unlabeled"].item() == pytest.approx(3 * base["unlabeled"].item(), rel=1e-4)
    assert heavy["prototype_labeled"].item() == pytest.approx(0.5 * base["prototype_labeled"].item(), rel=1e-4)
    assert heavy["labeled"].item() == pytest.approx(base["labeled"].item())


def test_the_teacher_labels_in_evaluation_mode_and_gets_no_gradient(tiny_recipe):
    student, method, batches = setup(with_values(tiny_recipe, method={"name": "fixmatch"}))
    teacher = Segmenter(tiny_recipe.model, 3).train()
    before = teacher.state_dict()["backbone.net.bn1.running_mean"].clone()
    method.step(student, teacher, batches.batch(0).to(torch.device("cpu")), 0).total().backward()
    assert torch.equal(teacher.state_dict()["backbone.net.bn1.running_mean"], before)
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert teacher.training, "it comes back in the mode it was in"


def test_an_auxiliary_head_is_trained_and_stays_outside_the_network(tiny_recipe):
    recipe = with_values(tiny_recipe, train={"auxiliary_weight": 0.4})
    result, student, method = one_step(recipe, 4)
    assert "auxiliary" in result.losses
    result.total().backward()
    assert all(parameter.grad is not None for parameter in method.auxiliary_head.parameters())
    assert not any("auxiliary" in name for name in student.state_dict())


def test_prototypes_start_where_labelled_features_cluster(tiny_recipe):
    student, _, batches = setup(tiny_recipe)
    mode = student.training
    statistics = student.state_dict()["backbone.net.bn1.running_mean"].clone()
    prototypes = cluster_prototypes(
        student, lambda _: batches.labeled_views(2), ("ground", "red", "blue"), "head_input", 2, 255, seed=0
    )
    assert prototypes.shape == (3, 2, student.feature_channels("head_input"))
    assert student.training == mode
    assert torch.equal(student.state_dict()["backbone.net.bn1.running_mean"], statistics)
    again = cluster_prototypes(
        student, lambda _: batches.labeled_views(2), ("ground", "red", "blue"), "head_input", 2, 255, seed=0
    )
    assert torch.equal(prototypes, again)


def test_a_class_without_a_labelled_pixel_stops_and_is_named(tiny_recipe):
    student, _, batches = setup(tiny_recipe)
    names = ("ground", "red", "blue", "yellow", "green")
    with pytest.raises(DataError, match="yellow, green"):
        cluster_prototypes(student, lambda _: batches.labeled_views(1), names, "head_input", 2, 255, seed=0)


def test_a_class_that_may_be_missing_has_no_prototypes_and_training_goes_on(tiny_recipe):
    """Of five classes labelled images show three; pseudo-labels take pixels for all of them."""
    tree = with_values(
        tiny_recipe,
        data={"classes": ["ground", "red", "blue", "yellow", "green"], "missing_classes": "ignore"},
        method={"confidence_threshold": 0.0, "prototypes": {"confidence_threshold": 0.0}},
    )
    result, student, method = one_step(tree, 4)
    assert method.branch.bank.present().all(dim=1).tolist() == [True, True, True, False, False]
    losses = torch.stack(list(result.losses.values()))
    assert losses.isfinite().all()
    result.total().backward()
    assert all(p.grad.isfinite().all() for p in student.parameters() if p.grad is not None)
    logits = method.branch.bank.logits(torch.randn(100, method.branch.bank.prototypes.shape[-1]))
    assert int(logits.argmax(dim=1).max()) < 3


def test_a_class_that_random_crops_miss_is_looked_up(tiny_recipe):
    """A patch of 3x3 pixels in an image of 200x200, seen through crops of 32: random views rarely show it."""
    mask = torch.zeros(200, 200, dtype=torch.uint8)
    mask[150:153, 20:23] = 1
    image = torch.randint(0, 256, (3, 200, 200), dtype=torch.uint8)
    for seed in range(20):
        torch.manual_seed(seed)
        view = view_around_class(image, mask, 1, 32, 255)
        assert (view.mask == 1).any()
        assert view.image.shape == (3, 32, 32)


def test_views_of_a_class_show_it(tiny_recipe):
    _, _, batches = setup(tiny_recipe)
    views = list(batches.views_of_class(2))
    assert len(views) >= 4
    assert all((label == 2).any() for _, label in views)


def test_a_class_with_fewer_pixels_than_prototypes_repeats_them(tiny_recipe):
    student, _, _ = setup(tiny_recipe)
    label = torch.zeros(1, 32, 32, dtype=torch.int64)
    label[0, 0, 0] = 1
    views = [(torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8), label)]
    prototypes = cluster_prototypes(student, lambda _: views, ("a", "b"), "head_input", 3, 255, seed=0)
    assert torch.equal(prototypes[1, 0], prototypes[1, 2])


@pytest.mark.parametrize(
    ("name", "soft", "differ"),
    [
        ("supervised", False, {"labeled"}),
        ("fixmatch", False, {"labeled", "unlabeled"}),
        ("fixmatch", True, {"labeled"}),
        ("unimatch", False, {"labeled", "unlabeled", "features"}),
        ("unimatch_v2", False, {"labeled", "unlabeled"}),
        ("corrmatch", False, {"labeled", "labeled_correlation", "unlabeled", "features", "correlation"}),
    ],
)
def test_logits_are_adjusted_for_labels_and_pseudo_labels_not_for_probabilities(tiny_recipe, name, soft, differ):
    recipe = with_values(tiny_recipe, method={"name": name, "soft_labels": soft, "confidence_threshold": 0.0})
    plain = one_step(recipe, 4)[0].losses
    adjusted = one_step(with_values(recipe, train={"logit_adjustment": 1.0}), 4)[0].losses
    assert {key for key in plain if not torch.isclose(plain[key], adjusted[key], rtol=1e-4, atol=1e-6)} == differ
    assert differ <= plain.keys()


def test_losses_of_labels_and_pseudo_labels_are_adjusted_by_the_frequencies_of_each(tiny_recipe):
    recipe = with_values(
        tiny_recipe, method={"name": "fixmatch", "confidence_threshold": 0.0}, train={"logit_adjustment": 0.5}
    )
    student, method, batches = setup(recipe)
    batch = batches.batch(0).to(torch.device("cpu"))
    pseudo = method.pseudo_labels(student, batch, 4)
    method.step(student, student, batch, 4)
    adjustment = method.adjustment
    known = batch.labels[batch.labels != 255]
    for frequencies, classes in ((adjustment.labels, known), (adjustment.pseudo_labels, pseudo.labels[pseudo.trusted])):
        shares = torch.bincount(classes, minlength=3) / len(classes)
        assert frequencies.logarithms().tolist() == pytest.approx(shares.clamp(min=1e-5).log().tolist(), rel=1e-4)
    logits = at_full_size(torch.randn(pseudo.labels.shape[0], 3, *pseudo.labels.shape[1:]))
    offsets = adjustment.pseudo_labels.logarithms() - 0.5 * adjustment.labels.logarithms()
    expected = terms.consistency(logits.shifted(offsets), pseudo)
    assert method.consistency(logits, pseudo).item() == pytest.approx(expected.item(), rel=1e-5)
