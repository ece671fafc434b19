"""Losses and labels at the size of the images against the plain way: enlarge all, then reduce."""

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from protoseg_deploy.methods import full_size
from protoseg_deploy.methods.full_size import FullSizeLogits
from protoseg_deploy.models import resize_logits

SIZES = {"padded": ((32, 48), (29, 45)), "whole": ((32, 48), (32, 48)), "odd": ((21, 35), (21, 33))}


def at_full_size(logits: torch.Tensor) -> FullSizeLogits:
    """Logits that have the size of the images already."""
    height, width = logits.shape[-2:]
    return FullSizeLogits(logits, (height, width), (height, width))


def example(sizes, dtype=torch.float32, batch=3, classes=5):
    padded, image = sizes
    generator = torch.Generator().manual_seed(0)
    coarse = 3 * torch.randn(batch, classes, 8, 12, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, classes, (batch, *image), generator=generator)
    weights = torch.rand(batch, *image, generator=generator) * (torch.rand(batch, *image, generator=generator) < 0.7)
    return FullSizeLogits(coarse.to(dtype), padded, image), labels, weights


@pytest.fixture(params=[1, 2**20], ids=["image by image", "at once"])
def _values_at_once(request, monkeypatch):
    monkeypatch.setattr(full_size, "VALUES_AT_ONCE", {"cpu": request.param})


@pytest.mark.usefixtures("_values_at_once")
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_value_and_gradient_are_those_of_the_plain_way(sizes, layout):
    logits, labels, weights = example(sizes)
    ours = logits.coarse.clone(memory_format=layout).requires_grad_()
    plain = logits.coarse.clone().requires_grad_()
    total = FullSizeLogits(ours, *sizes).cross_entropy(labels, weights)
    expected = (F.cross_entropy(resize_logits(plain, *sizes), labels, reduction="none") * weights).sum()
    (0.25 * total).backward()
    (0.25 * expected).backward()
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(ours.grad, plain.grad)


@pytest.mark.usefixtures("_values_at_once")
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_the_divergence_is_that_of_enlarged_logits(sizes):
    logits, _, weights = example(sizes)
    target = logits.coarse.flip(0).requires_grad_()
    ours, plain = (logits.coarse.clone().requires_grad_() for _ in range(2))
    total = FullSizeLogits(ours, *sizes).divergence(FullSizeLogits(target, *sizes), weights)
    log_shares, wanted = (resize_logits(values, *sizes).log_softmax(dim=1) for values in (plain, target.detach()))
    expected = (F.kl_div(log_shares, wanted, reduction="none", log_target=True).sum(dim=1) * weights).sum()
    (0.25 * total).backward()
    (0.25 * expected).backward()
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(ours.grad, plain.grad)
    assert target.grad is None


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_gradient_is_the_derivative(sizes):
    logits, labels, weights = example(sizes, torch.float64, batch=1, classes=2)
    coarse = logits.coarse.requires_grad_()
    assert torch.autograd.gradcheck(lambda c: FullSizeLogits(c, *sizes).cross_entropy(labels, weights), coarse)


def test_half_precision_logits_are_reduced_in_single_precision():
    logits, labels, weights = example(SIZES["padded"], torch.bfloat16)
    coarse = logits.coarse.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        total = FullSizeLogits(coarse, *SIZES["padded"]).cross_entropy(labels, weights)
    total.backward()
    expected = FullSizeLogits(coarse.detach().float(), *SIZES["padded"]).cross_entropy(labels, weights)
    assert total.dtype == torch.float32
    assert coarse.grad.dtype == torch.bfloat16
    assert total.item() == expected.item()


def test_a_compiled_loss_is_the_same():
    torch._dynamo.reset()
    logits, labels, weights = example(SIZES["padded"])

    def gradient(loss):
        coarse = logits.coarse.clone().requires_grad_()
        loss(coarse).backward()
        return coarse.grad

    def loss(coarse):
        return FullSizeLogits(coarse, *SIZES["padded"]).cross_entropy(labels, weights)

    torch.testing.assert_close(gradient(torch.compile(loss, backend="aot_eager")), gradient(loss))


@pytest.mark.usefixtures("_values_at_once")
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_labels_and_statistics_are_those_of_a_softmax(sizes):
    logits, labels, _ = example(sizes)
    full = resize_logits(logits.coarse, *sizes)
    probabilities = full.softmax(dim=1)
    found, confidence = logits.winners()
    assert torch.equal(found, full.argmax(dim=1))
    torch.testing.assert_close(confidence, probabilities.amax(dim=1))
    torch.testing.assert_close(
        logits.entropies(), torch.distributions.Categorical(logits=full.movedim(1, -1)).entropy()
    )
    torch.testing.assert_close(logits.pixel_losses(labels), F.cross_entropy(full, labels, reduction="none"))


def test_class_totals_let_each_place_stand_for_the_pixels_it_covers():
    generator = torch.Generator().manual_seed(3)
    coarse = torch.randn(2, 3, 4, 5, generator=generator)
    weights = torch.rand(2, 15, 19, generator=generator)  # of padded 16 x 20: four by four pixels a place
    expected = torch.zeros(3)
    for image in range(2):
        for row in range(15):
            for column in range(19):
                expected += weights[image, row, column] * coarse[image, :, row // 4, column // 4].softmax(dim=0)
    torch.testing.assert_close(FullSizeLogits(coarse, (16, 20), (15, 19)).class_totals(weights), expected)


def test_offsets_may_be_added_before_enlarging():
    logits, _, _ = example(SIZES["padded"])
    offsets = torch.randn(5, generator=torch.Generator().manual_seed(1))
    shifted = logits.shifted(offsets)
    full = resize_logits(logits.coarse, *SIZES["padded"]) + offsets.view(1, -1, 1, 1)
    torch.testing.assert_close(resize_logits(shifted.coarse, *SIZES["padded"]), full)


def test_no_tensor_is_as_large_as_the_logits_of_the_batch(monkeypatch):
    """Neither in the forward nor in the backward pass, and nothing that large is kept in between."""
    monkeypatch.setattr(full_size, "VALUES_AT_ONCE", {"cpu": 1})
    logits, labels, weights = example(((96, 96), (96, 96)), batch=4)
    coarse = logits.coarse.requires_grad_()
    with _LargestTensor() as seen:
        total = FullSizeLogits(coarse, (96, 96), (96, 96)).cross_entropy(labels, weights)
        total.backward()
    assert 5 * 96 * 96 <= seen.numel < 4 * 5 * 96 * 96


class _LargestTensor(TorchDispatchMode):
    numel = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        for tensor in result if isinstance(result, tuple) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return result
