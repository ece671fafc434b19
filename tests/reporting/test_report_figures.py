"""What a report computes itself, against independent computations."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from protoseg_deploy.data import read_image, read_mask
from protoseg_deploy.evaluation.evaluate import evaluate
from protoseg_deploy.evaluation.samples import masks_of, run_samples
from protoseg_deploy.models import load_network, load_prototypes
from protoseg_deploy.reporting.album import Album
from protoseg_deploy.reporting.charts import Dot, Series, line_chart, scatter_chart, thinned, tick_text
from protoseg_deploy.reporting.facts import run_facts
from protoseg_deploy.reporting.figures import count, duration, points, size
from protoseg_deploy.reporting.panels import Judged, JudgedImage, choose, confidence_map, error_map, judge
from protoseg_deploy.reporting.prototypes import has_bank, prototype_facts
from protoseg_deploy.runtimes import open_runtime


def judged_run(run: Path, threshold: float | None = None) -> Judged:
    runtime = open_runtime(run, device="cpu")
    return Judged("run", runtime, masks_of(runtime.info), threshold)


def test_a_judgement_is_what_evaluate_says(run: Path) -> None:
    samples = run_samples(run)
    one = judged_run(run)
    found = judge(one, samples, len(samples))
    expected = evaluate(one.runtime, samples)
    assert found.miou_percent == pytest.approx(expected.miou_percent, abs=1e-9)
    assert found.iou_percent == pytest.approx(expected.iou_percent, abs=1e-9, nan_ok=True)
    assert found.counts.sum(axis=1).tolist() == list(expected.truth_pixels)
    for image in found.images:
        assert image.miou_percent == pytest.approx(evaluate(one.runtime, [image.sample]).miou_percent, abs=1e-9)
    assert found.trusted is None


def test_trusted_pixels_are_counted_by_predicted_class_without_ignored_ones(run: Path) -> None:
    samples = run_samples(run)
    segmenter, spec = load_network(run / "best.safetensors")
    pixels, trusted, right = (np.zeros(3, np.int64) for _ in range(3))
    for sample in samples:
        image, truth = read_image(sample.image), read_mask(sample.mask, masks_of(judged_run(run).runtime.info))
        with torch.inference_mode():
            logits = segmenter(torch.from_numpy(image).permute(2, 0, 1)[None])[0].double()
        probability, predicted = (part.numpy() for part in logits.softmax(0).max(0))
        for index in range(3):
            here = (predicted == index) & (truth != 255)
            sure = here & ((probability * 255).round() >= 0.4 * 255)
            pixels[index] += here.sum()
            trusted[index] += sure.sum()
            right[index] += (sure & (truth == index)).sum()
    found = judge(judged_run(run, 0.4), samples, len(samples)).trusted
    assert found is not None
    np.testing.assert_allclose(found.pixels, pixels, atol=2)  # rounding may turn a pixel
    np.testing.assert_allclose(found.trusted, trusted, atol=4)
    np.testing.assert_allclose(found.right, right, atol=4)
    assert spec.input_scale == 1.0


def test_confidence_is_the_probability_of_the_predicted_class(run: Path) -> None:
    sample = run_samples(run)[0]
    image = read_image(sample.image)
    segmenter, _ = load_network(run / "best.safetensors")
    with torch.inference_mode():
        expected = segmenter(torch.from_numpy(image).permute(2, 0, 1)[None])[0].double().softmax(0).amax(0).numpy()
    found = judged_run(run).confidence(image)
    assert found is not None
    np.testing.assert_allclose(found / 255, expected, atol=0.51 / 255 + 1e-4)


def image(name: str, miou: float) -> JudgedImage:
    from protoseg_deploy.data import Sample

    return JudgedImage(Sample(Path(name), None), miou)


def test_worst_median_and_best_images_are_chosen_once_each() -> None:
    many = [image(f"{number}", float(number)) for number in range(21)]
    chosen = choose(list(reversed(many)))
    assert [(rank, each.miou_percent) for rank, each in chosen] == [
        ("worst", 0), ("worst", 1), ("worst", 2), ("median", 9), ("median", 10), ("best", 20), ("best", 19),
    ]  # fmt: skip
    assert [(rank, each.miou_percent) for rank, each in choose(many[:3])] == [("worst", 0), ("median", 1), ("best", 2)]
    assert [rank for rank, _ in choose(many[:1])] == ["worst"]
    assert choose([]) == []


def test_error_maps_mark_wrong_pixels_alone() -> None:
    picture = np.full((4, 4, 3), 80, np.uint8)
    truth = np.array([[0, 0, 1, 1]] * 4)
    predicted = np.array([[0, 1, 1, 0]] * 4)
    ignored = np.zeros((4, 4), bool)
    ignored[0] = True
    found = error_map(picture, predicted, truth, ignored)
    red = (found[..., 0].astype(int) - found[..., 1]) > 100
    assert red.tolist() == [[False] * 4, *[[False, True, False, True]] * 3]
    bright = confidence_map(np.array([[0, 128, 255]], np.uint8)).sum(axis=2)[0]
    assert bright[0] < bright[1] < bright[2]


def test_nearest_patches_of_prototypes(run: Path) -> None:
    facts = run_facts(run)
    assert has_bank(facts)
    samples = run_samples(run)
    album = Album(10**6)
    found = prototype_facts(facts, samples, masks_of(judged_run(run).runtime.info), album)
    segmenter, _ = load_network(run / "best.safetensors")
    bank = load_prototypes(run / "prototypes.safetensors")
    best = np.zeros((len(samples), *bank.shape[:2]))
    for number, sample in enumerate(samples):
        with torch.inference_mode():
            pixels = torch.from_numpy(read_image(sample.image)).permute(2, 0, 1)[None]
            features = segmenter.forward_features(pixels).head_input[0].flatten(1).t()
        for index in range(bank.shape[0]):
            for slot in range(bank.shape[1]):
                best[number, index, slot] = max(F.cosine_similarity(features, bank[index, slot][None], dim=1)).item()
    for index, described in enumerate(found.classes):
        assert described.within_class_cosine == pytest.approx(float(bank[index, 0] @ bank[index, 1]), abs=1e-5)
        for slot, prototype in enumerate(described.prototypes):
            order = np.argsort(-best[:, index, slot])[:4]
            assert [patch.cosine for patch in prototype.patches] == pytest.approx(best[order, index, slot], abs=1e-4)
    use = facts.prototypes
    assert use is not None
    shares = [prototype.share_percent for prototype in found.classes[0].prototypes]
    assert sum(share or 0.0 for share in shares) == pytest.approx(100.0 if sum(use.pixels[0]) else 0.0)
    for pixels, described in zip(use.pixels, found.classes, strict=True):
        assert [each.state == "unused" for each in described.prototypes] == [value == 0 for value in pixels]
    assert all(patch.width == 64 for patch in album.encode())


def test_pictures_get_smaller_until_they_fit() -> None:
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (700, 3000, 3), dtype=np.uint8)
    roomy, tight = Album(10**8), Album(30_000)
    for album in (roomy, tight):
        for _ in range(4):
            album.photo(noise)
            album.map(noise // 255 * 255)
    large, small = roomy.encode(), tight.encode()
    assert {picture.width for picture in large} == {480}
    assert {picture.height for picture in large} == {112}
    assert sum(len(picture.source) for picture in small) <= 30_000
    assert small[0].width < 480
    assert all(picture.source.startswith("data:image/webp;base64,") for picture in small)


def test_maps_keep_their_colours() -> None:
    import base64
    import io

    from PIL import Image

    random = np.random.default_rng(0)
    colors = np.array([[255, 0, 0], [0, 128, 255], [9, 9, 9]], np.uint8)
    album = Album(10**7)
    album.map(colors[random.integers(0, 3, (900, 600))])
    (found,) = album.encode()
    content = base64.b64decode(found.source.partition(",")[2])
    pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).reshape(-1, 3)
    assert {tuple(pixel) for pixel in pixels.tolist()} == {(255, 0, 0), (0, 128, 255), (9, 9, 9)}


def places(svg: str) -> list[tuple[float, float]]:
    path = re.search(r'<polyline points="([^"]*)"', svg)
    assert path is not None
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in path[1].split())]


def test_a_line_lies_where_its_ticks_say() -> None:
    svg = line_chart("t", [Series("a", [(0, 40.0), (100, 50.0), (200, 60.0)], 0)], x_label="x", y_label="y")
    (x0, y0), (x1, y1), (x2, y2) = places(svg)
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.2)
    assert y2 < y0
    ticks = {text: float(y) for y, text in re.findall(r'y="([\d.]+)" text-anchor="end">([\d.]+)<', svg)}
    assert ticks["60"] == pytest.approx(y2 + 4, abs=0.2)
    assert ticks["40"] == pytest.approx(y0 + 4, abs=0.2)


@pytest.mark.parametrize(
    "values", [[(0, 0.0)], [(1, 5.0), (2, 5.0)], [(0, -3.0), (9, 4.0)], [(0, 1e-9), (1, 3e-9)], [(5, 1e12), (6, -1e12)]]
)
def test_every_range_gets_a_chart(values: list[tuple[float, float]]) -> None:
    svg = line_chart("t", [Series("a", values, 7)], x_label="x", y_label="y")
    assert "nan" not in svg
    assert svg.count("<text") > 4


def test_what_is_not_finite_is_left_out() -> None:
    points_with_holes = [(0, 1.0), (1, math.nan), (2, math.inf), (3, 2.0)]
    assert len(places(line_chart("t", [Series("a", points_with_holes, 0)], x_label="x", y_label="y"))) == 2
    assert line_chart("t", [Series("a", [(0, math.nan)], 0)], x_label="x", y_label="y") == ""
    assert scatter_chart("t", [], [], x_label="x", y_label="y") == ""


def test_long_lines_are_averaged() -> None:
    long = [(float(step), float(step % 2)) for step in range(100_000)]
    short = thinned(long)
    assert len(short) <= 300
    assert {round(value, 2) for _, value in short} == {0.5}


def test_names_in_charts_are_escaped() -> None:
    svg = line_chart("<t>", [Series("<i>", [(0, 1.0), (1, 2.0)], 0)], x_label="<x>", y_label="&")
    svg += scatter_chart("t", [Dot("<d>", 1, 2)], [], x_label="x", y_label="y")
    assert not re.search("<[tixd]>", svg)
    assert "&lt;x&gt;" in svg


def test_numbers_as_text() -> None:
    assert [points(value) for value in (1.24, -0.04, -3.0, None)] == ["+1.2", "±0.0", "−3.0", "–"]
    assert [duration(value) for value in (5.2, 65, 7300, None)] == ["5 s", "1 min 5 s", "2 h 1 min", "–"]
    assert [size(value) for value in (12, 1500, 7.44e6, 2e9)] == ["12 bytes", "1.5 kB", "7.4 MB", "2.0 GB"]
    assert count(1234567) == "1,234,567"
    assert [tick_text(0.25, 0.05), tick_text(1000, 200), tick_text(3e-9, 1e-9)] == ["0.25", "1,000", "3e-09"]
