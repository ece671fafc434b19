"""Model cards: what they say is measured, what they hold is text, and they follow their bundle."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from protoseg_deploy.bundles import Bundle
from protoseg_deploy.bundles.card import BEGIN, END, markdown
from protoseg_deploy.cli import cli
from protoseg_deploy.evaluation.samples import run_samples
from protoseg_deploy.exporting import export_bundle
from protoseg_deploy.reporting.card import card_facts, export_card
from protoseg_deploy.reporting.card_text import model_card
from protoseg_deploy.reporting.facts import run_facts
from tests.reporting.test_facts import bench_row

pytestmark = pytest.mark.usefixtures("traced_once")


def card_of(folder: Path) -> tuple[dict, str]:
    """Metadata and text of a card."""
    text = (folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    empty, metadata, rest = text.split("---\n", 2)
    assert empty == ""
    return yaml.safe_load(metadata), rest


def invoke(*words: object) -> str:
    result = CliRunner().invoke(cli, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.output


def test_a_card_says_what_was_measured(bundle: Path, run: Path) -> None:
    metadata, text = card_of(bundle)
    assert metadata["pipeline_tag"] == "image-segmentation"
    assert "license" not in metadata
    (index,) = metadata["model-index"]
    assert index["name"] == "bundle"
    (value,) = [metric["value"] for metric in index["results"][0]["metrics"]]
    facts = run_facts(run)
    assert value == round(facts.best_percent or 0.0, 2)
    assert facts.best is not None
    for name, iou in facts.best.iou_percent.items():
        shown = "–" if iou is None else f"{iou:.1f}"
        assert f"| {markdown(name)} | {shown} |" in text
    assert "| labelled (images with masks) | 4 |" in text
    assert "| unlabelled | 5 |" in text
    assert "| validation | 6 |" in text
    verification = Bundle.open(bundle).manifest.verification
    assert verification is not None
    assert f"Compared on {verification.images} images" in text
    assert "It was verified on images of 40×48 pixels" in text
    assert "random weights" in text
    assert Bundle.open(bundle).manifest.files["reference.safetensors"].sha256 in text


def test_names_in_cards_are_text(bundle: Path) -> None:
    _, text = card_of(bundle)
    assert "<script>" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert r"a\|b\`c\*\[x\](y)" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    for row in rows:
        assert row.replace(r"\|", "").count("|") in (3, 4, 6), row
    assert (
        markdown(f"{BEGIN}\n# x")
        == "&lt;!-- protoseg: files and verification, kept up to date by protoseg --&gt;\\\\n# x"
    )


def test_a_card_follows_its_bundle_and_keeps_what_people_wrote(bundle: Path, data: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(bundle, tmp_path / "copy")
    card = copy / "MODEL_CARD.md"
    card.write_text(card.read_text().replace("## Latency", "## Ours\n\nMine.\n\n## Latency"))
    images = tmp_path / "few"
    images.mkdir()
    for number, path in enumerate(sorted((data / "val/images").iterdir())[:2]):
        shutil.copyfile(path, images / f"{number}.png")
    invoke("verify", copy, "--images", images)
    text = card.read_text()
    assert "Compared on 2 images" in text
    assert "Mine." in text
    assert text.count(BEGIN) == text.count(END) == 1
    card.write_text("entirely mine")
    invoke("verify", copy, "--images", images)
    assert card.read_text() == "entirely mine"
    card.unlink()
    invoke("verify", copy, "--images", images)
    assert not card.exists()


def test_a_link_in_the_place_of_a_card_is_left_alone(bundle: Path, data: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(bundle, tmp_path / "copy")
    other = tmp_path / "other.md"
    (copy / "MODEL_CARD.md").rename(other)
    before = other.read_text().replace("Compared on", "Then compared on")
    other.write_text(before)
    (copy / "MODEL_CARD.md").symlink_to(other)
    invoke("verify", copy, "--images", data / "val/images")
    assert other.read_text() == before


def test_export_writes_a_card_and_replaces_a_bundle_that_has_one(run: Path, tmp_path: Path) -> None:
    for _ in range(2):
        invoke("export", run, "--bundle", tmp_path / "mine", "--verify-images", "2")
        metadata, text = card_of(tmp_path / "mine")
        assert metadata["model-index"][0]["name"] == "mine"
        assert "Compared on 2 images" in text
    assert "MODEL_CARD.md" not in Bundle.open(tmp_path / "mine").manifest.files


def test_a_network_file_without_its_run_and_without_verification(run: Path, tmp_path: Path) -> None:
    (tmp_path / "alone").mkdir()
    alone = shutil.copyfile(run / "best.safetensors", tmp_path / "alone/network.safetensors")
    invoke("export", alone, "--bundle", tmp_path / "b", "--no-verify")
    metadata, text = card_of(tmp_path / "b")
    assert "exported without its run" in text
    assert "never verified" in text
    assert "not verified on any image" in text
    assert "by class it is not known" in text
    assert "find out" in text or "No recipe says" in text
    assert metadata["model-index"]


def test_a_damaged_run_is_no_reason_not_to_export(run: Path, tmp_path: Path) -> None:
    damaged = shutil.copytree(run, tmp_path / "damaged")
    (damaged / "metrics.jsonl").write_text("{}\n")
    export_bundle(damaged, tmp_path / "b", card=export_card(damaged, tmp_path / "b"))
    assert "exported without its run" in card_of(tmp_path / "b")[1]


def test_the_accuracy_is_that_of_the_very_weights(run: Path, bundle: Path) -> None:
    facts, manifest = run_facts(run), Bundle.open(bundle).manifest
    other = manifest.provenance.model_copy(update={"training": {**manifest.provenance.training, "step": 4}})
    text = model_card(card_facts("b", manifest.model_copy(update={"provenance": other}), facts))
    first = facts.evaluations[0]
    assert f"| **mean** | **{first.kept_percent:.1f}** |" in text
    unknown = other.model_copy(update={"training": {"miou_percent": 12.5, "step": 5}})
    text = model_card(card_facts("b", manifest.model_copy(update={"provenance": unknown}), facts))
    assert "Mean IoU 12.50 %" in text


def test_pretrained_weights_are_named_with_their_licence(run: Path, bundle: Path) -> None:
    facts, manifest = run_facts(run), Bundle.open(bundle).manifest
    model = facts.recipe.model.model_copy(update={"weights": "pretrained"})
    recipe = facts.recipe.model_copy(update={"model": model})
    text = model_card(card_facts("b", manifest, type(facts)(**{**vars(facts), "recipe": recipe})))
    metadata = yaml.safe_load(text.split("---\n")[1])
    assert metadata["base_model"].startswith("timm/test_resnet")
    assert "as timm states: `apache-2.0`" in text


def test_a_report_writes_a_card_with_latencies_of_this_bundle(bundle: Path, run: Path, tmp_path: Path) -> None:
    digest = Bundle.open(bundle).manifest.digest_of("model.onnx")
    rows = [
        bench_row("bundle", 12.34, 50.0, digest=digest, precision="fp32", backend="ORT"),
        bench_row("another", 99.9, 50.0, digest="0" * 64),
    ]
    (tmp_path / "bench.json").write_text(json.dumps({"runtimes": rows}))
    out = ["--out", tmp_path / "r.html", "--no-images", "--card", tmp_path / "MODEL_CARD.md"]
    invoke("report", bundle, run, tmp_path / "bench.json", *out)
    _, text = card_of(tmp_path)
    assert "| fp32 | 1 × 40×48 | 12.3 | 18.5 | 50.00 | C, 1 thread, ORT |" in text
    assert "99.9" not in text
    assert "It was verified on images of 40×48 pixels" in text  # the run's images, as their digest says
    assert len(run_samples(run)) == 6
    invoke("report", bundle, *out)  # a card of ours is replaced
    assert "exported without its run" in card_of(tmp_path)[1]
