"""What reports know is what the files say, and a part that is missing is missing."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from protoseg_deploy.errors import ProtosegError, UsageError
from protoseg_deploy.models import load_network
from protoseg_deploy.recipe import value_of
from protoseg_deploy.reporting.facts import (
    bench_facts,
    bundle_facts,
    data_facts,
    find_subjects,
    licence_of_weights,
    recipe_lines,
    run_facts,
)
from protoseg_deploy.reporting.facts.names import short_names
from tests.reporting.conftest import CLASSES


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_finished_run(run: Path) -> None:
    facts, records = run_facts(run), lines(run)
    evaluations = [record for record in records if record["kind"] == "evaluation"]
    assert [each.step for each in facts.evaluations] == [4, 8]
    assert [each.kept_percent for each in facts.evaluations] == [each["miou_percent"] for each in evaluations]
    assert [each.student_percent for each in facts.evaluations] == [e["student_miou_percent"] for e in evaluations]
    assert dict(facts.evaluations[-1].iou_percent) == evaluations[-1]["iou_percent"]
    assert facts.best_percent == max(each["miou_percent"] for each in evaluations)
    trained = [record for record in records if record["kind"] == "train"]
    assert facts.terms["labeled"] == tuple((record["step"], record["labeled"]) for record in trained)
    assert {"unlabeled", "prototype_labeled", "confident_share"} <= facts.terms.keys()
    assert not {"lr", "images_per_second", "step", "kind"} & facts.terms.keys()
    assert facts.finished
    assert facts.step == facts.steps == 8
    assert facts.classes.names == tuple(CLASSES)
    assert facts.images is not None
    assert (facts.images.labelled.count, facts.images.unlabelled.count) == (4, 5)
    assert facts.prototypes is not None
    assert [len(row) for row in facts.prototypes.pixels] == [2, 2, 2]
    network = facts.networks[0]
    assert network.sha256 == hashlib.sha256((run / "best.safetensors").read_bytes()).hexdigest()
    assert network.parameters == sum(each.numel() for each in load_network(run / "best.safetensors")[0].parameters())


def test_a_run_that_is_still_training(run: Path, tmp_path: Path) -> None:
    going = shutil.copytree(run, tmp_path / "going")
    for name in ("summary.json", "images.json", "prototypes.safetensors", "last.safetensors", "best.safetensors"):
        (going / name).unlink()
    first, *_ = (going / "metrics.jsonl").read_text().splitlines(keepends=True)
    (going / "metrics.jsonl").write_text(first + '{"kind": "train", "st')
    facts = run_facts(going)
    assert not facts.finished
    assert facts.summary is None
    assert facts.evaluations == ()
    assert facts.best is None
    assert facts.best_percent is None
    assert facts.networks == ()
    assert facts.images is None
    assert facts.step == json.loads(first)["step"]
    (going / "metrics.jsonl").unlink()
    assert run_facts(going).step == 0


def test_a_student_without_training_has_the_accuracy_of_its_file(run: Path, student: Path) -> None:
    facts = run_facts(student)
    assert facts.evaluations == ()
    assert facts.best_percent == run_facts(run).best_percent


def test_a_damaged_file_is_named(run: Path, tmp_path: Path) -> None:
    damaged = shutil.copytree(run, tmp_path / "damaged")
    (damaged / "metrics.jsonl").write_text('{"kind": "train"}\n')
    with pytest.raises(ProtosegError, match=r"metrics\.jsonl:1"):
        run_facts(damaged)


@pytest.mark.parametrize(
    "record",
    [
        {"kind": "evaluation", "step": 4, "iou_percent": ["sky"]},
        {"kind": "evaluation", "step": 4, "student_miou_percent": "high"},
        {"kind": "prototypes", "step": 4, "pixels": 3},
    ],
)
def test_a_strange_record_is_named_by_its_step(run: Path, tmp_path: Path, record: dict[str, object]) -> None:
    damaged = shutil.copytree(run, tmp_path / "damaged")
    (damaged / "metrics.jsonl").write_text(json.dumps(record) + "\n")
    with pytest.raises(ProtosegError, match=rf"metrics\.jsonl is damaged: {record['kind']} of step 4"):
        run_facts(damaged)


def test_pictures_of_other_places_are_not_a_bundles(bundle: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(bundle, tmp_path / "copy")
    (copy / "verification").mkdir(exist_ok=True)
    secret = tmp_path / "secret.png"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(secret)
    manifest = json.loads((copy / "manifest.json").read_text())
    (stage,) = manifest["verification"]["stages"]
    stages = [{**stage, "stage": name} for name in ("linked", "x/../../../secret", "own")]
    manifest["verification"]["stages"] = stages
    (copy / "manifest.json").write_text(json.dumps(manifest))
    (copy / "verification/worst-linked.png").symlink_to(secret)
    (copy / "verification/worst-x").mkdir()
    shutil.copyfile(secret, copy / "verification/worst-own.png")
    assert (copy / "verification" / "worst-x/../../../secret.png").is_file()
    assert list(bundle_facts(copy).pictures) == ["own"]


def test_recipe_lines_are_the_keys_that_are_not_the_default(run: Path) -> None:
    recipe = run_facts(run).recipe
    found = {line.key: line for line in recipe_lines((recipe,))}
    assert found["train.steps"].values == ("8",)
    assert found["train.steps"].default == "10000"
    assert yaml.safe_load(found["data.classes"].values[0]) == CLASSES
    assert "train.momentum" not in found  # the default
    assert "train.ohem.threshold" not in found  # of a section that is off
    for key, line in found.items():
        if not line.values[0].endswith("…") and line.values[0] != "absent":
            assert yaml.safe_load(line.values[0]) == value_of(recipe, key)
            assert line.values[0] != line.default
    other = recipe.model_copy(update={"train": recipe.train.model_copy(update={"lr": 0.5, "steps": 8})})
    both = {line.key: line for line in recipe_lines((recipe, other))}
    assert both["train.lr"].differs
    assert not both["train.steps"].differs


def test_a_bundle_and_its_files(bundle: Path, tmp_path: Path) -> None:
    facts = bundle_facts(bundle)
    assert facts.verified is True
    assert facts.outdated == ()
    assert [file.fault for file in facts.files] == [""] * len(facts.files)
    changed = shutil.copytree(bundle, tmp_path / "changed")
    graph = changed / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"x")
    assert "checksum differs" in {file.name: file.fault for file in bundle_facts(changed).files}["model.onnx"]
    manifest = json.loads((changed / "manifest.json").read_text())
    manifest["verification"] = None
    (changed / "manifest.json").write_text(json.dumps(manifest))
    assert bundle_facts(changed).verified is None


def bench_row(runtime: str, p50: float, miou: float | None, **more: object) -> dict[str, object]:
    spread = {"latency_p50_low_ms": p50 * 0.9, "latency_p50_high_ms": p50 * 1.1}
    others = dict.fromkeys(("latency_p90_ms", "latency_p95_ms", "latency_p99_ms", "latency_mean_ms"), p50 * 1.5)
    return {
        "runtime": runtime, "batch": 1, "height": 40, "width": 48, "threads": 1, "latency_p50_ms": p50, **spread,
        **others, "images_per_second": 1000 / p50, "steady": True, "miou_percent": miou,
        "machine": {"cpu": "C"}, **more,
    }  # fmt: skip


def test_measured_rows_and_which_no_other_beats(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    rows = [bench_row("x/a", 10, 50), bench_row("x/b", 5, 40), bench_row("y/a", 12, 45), bench_row("z", 1, None)]
    file.write_text(json.dumps({"runtimes": rows}))
    found = bench_facts((file,)).rows
    assert [row.name for row in found] == ["x/a", "b", "y/a", "z"]
    assert [row.on_front for row in found] == [True, True, False, False]
    assert [row.number for row in found] == [1, 2, 3, 4]


def test_names_are_as_long_as_it_takes() -> None:
    assert short_names(["/a/x", "/b/x", "/b/y"]) == {"/a/x": "a/x", "/b/x": "b/x", "/b/y": "y"}
    assert short_names(["/", "x"]) == {"/": "/", "x": "x"}


def test_subjects_are_told_apart(run: Path, student: Path, bundle: Path, tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    file.write_text(json.dumps(bench_row("a", 1, None)))
    found = find_subjects([bundle, run / "best.safetensors", file, student])
    assert found.names == ("run", "student", "bundle")
    assert len(found.bench.rows) == 1
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.txt").touch()
    for path, message in (
        (tmp_path / "absent", "no such file or folder"),
        (tmp_path / "empty", "neither a run nor a bundle"),
        (tmp_path / "a.txt", "nor a file of `protoseg bench --json`"),
    ):
        with pytest.raises(UsageError, match=message):
            find_subjects([path])
    with pytest.raises(UsageError, match="given twice"):
        find_subjects([run, run / "last.safetensors"])


def test_data_facts_are_those_of_the_drawn_images_or_say_why_not(run: Path, student: Path, tmp_path: Path) -> None:
    first, *_ = data_facts((run_facts(run), run_facts(student, "student")))
    assert first.report is not None
    assert first.report.labeled.images == 4
    assert first.report.val.images == 6
    moved = shutil.copytree(run, tmp_path / "moved")
    recipe = (moved / "recipe.yaml").read_text()
    (moved / "recipe.yaml").write_text(recipe.replace(str(run.parent / "data"), str(tmp_path / "gone")))
    (gone,) = data_facts((run_facts(moved),))
    assert gone.report is None
    assert str(tmp_path / "gone") in gone.missing


def test_licences_of_weights() -> None:
    known = licence_of_weights("resnet18", "pretrained")
    assert known.licence
    assert "resnet18" in known.source
    assert known.note == ""
    assert licence_of_weights("resnet18", "none").pretrained is False
    assert "find out" in licence_of_weights("resnet18", "weights.pth").note
    assert licence_of_weights("no_such_network", None).licence == ""
