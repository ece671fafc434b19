"""The page of ``protoseg report``: one sound file, whatever names are in it and whatever is missing."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from protoseg_deploy.cli import cli
from protoseg_deploy.reporting import making
from protoseg_deploy.reporting.facts import find_subjects
from protoseg_deploy.reporting.findings import Findings
from protoseg_deploy.reporting.making import ReportOptions, make_report
from protoseg_deploy.reporting.page import MOST_BYTES, render
from tests.conftest import draw_scene
from tests.reporting.conftest import CLASSES, FILES
from tests.reporting.strict_html import StrictPage
from tests.reporting.test_facts import bench_row


def snapshot(*folders: Path) -> dict[Path, str]:
    return {
        path: hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def read(path: Path) -> StrictPage:
    """The page, after what holds for all pages."""
    text = path.read_text(encoding="utf-8")
    page = StrictPage(text)
    assert page.faults == []
    assert path.stat().st_size <= MOST_BYTES
    assert len(page.scripts) == 1
    (policy,) = [meta["content"] for meta in page.of("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; img-src data:;")
    for tag, attributes in page.elements:
        for name in ("src", "href", "srcset", "action", "data", "xlink:href"):
            assert attributes.get(name, "#").startswith(("#", "data:image/webp;base64,")), (tag, attributes)
    assert not re.search(r"url\(|@import", "".join(page.styles))
    assert not re.search(r"https?://", text)
    return page


def report(*arguments: object) -> str:
    result = CliRunner().invoke(cli, ["report", *map(str, arguments), "--device", "cpu"])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def everything(run: Path, student: Path, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report about all there is."""
    folder = tmp_path_factory.mktemp("report")
    bench = folder / "bench.json"
    rows = [bench_row(f"{bundle}<i>", 10, 50, miou_low_percent=45.0, miou_high_percent=55.0), bench_row("b", 5, 40)]
    bench.write_text(json.dumps({"runtimes": rows}))
    before = snapshot(run, student, bundle)
    report(run, student, bundle, bench, "--out", folder / "report.html", "--title", "<b>Week 12</b>")
    assert snapshot(run, student, bundle) == before
    return folder / "report.html"


def test_everything_is_there(everything: Path) -> None:
    page = read(everything)
    ids = {attributes["id"] for tag, attributes in page.elements if tag == "section"}
    assert ids == {
        "summary", "training", "accuracy", "images", "prototypes", "parity", "latency", "data", "recipe", "provenance",
    }  # fmt: skip
    for said in (
        "This report compares 2 runs and 1 bundle of the same 3 classes: run, student and bundle.",
        "The fastest measured runtime".lower(),
        "verified",
        "Learning curves",
        "Row-normalised confusion, run",
        "Trusted pixels of run",
        "Worst images", "Median images", "Best images",
        "cosine within the class",
        "onnx fp32",
        "The whole recipe of run",
        "labelled", "data.labeled.images",
    ):  # fmt: skip
        assert said.lower() in page.text.lower()


def test_hostile_names_are_shown_and_do_nothing(everything: Path) -> None:
    page = read(everything)
    for name in (*CLASSES, "<b>Week 12</b>"):
        assert name in page.text
    files = [FILES.format(number).replace("\u202e", "\\u202e") for number in range(6)]
    assert sum(file in page.text for file in files) >= 3  # the worst, the median and the best image
    assert "\u202e" not in page.text
    assert {tag for tag, _ in page.elements} <= {
        "html", "head", "meta", "title", "style", "body", "a", "header", "h1", "h2", "h3", "h4", "p", "code", "nav",
        "ul", "li", "main", "section", "div", "table", "caption", "thead", "tbody", "tfoot", "tr", "th", "td", "span",
        "i", "figure", "figcaption", "svg", "g", "line", "text", "polyline", "polygon", "circle", "details", "summary",
        "strong", "img", "article", "ol", "br", "pre", "footer", "script", "dl", "dt", "dd",
    }  # fmt: skip
    assert {image["alt"].startswith(("Image", "True", "Classes", "Wrong", "Confidence", "Patch", "Worst"))
            for image in page.of("img")} == {True}  # fmt: skip


def test_figures_of_the_page_are_those_of_the_files(everything: Path, run: Path) -> None:
    text = read(everything).text
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    best = max(record["miou_percent"] for record in records if record["kind"] == "evaluation")
    assert f"{best:.1f}" in text
    for name in ("best.safetensors", "recipe.yaml"):
        assert hashlib.sha256((run / name).read_bytes()).hexdigest() in text


def test_a_run_alone(run: Path, tmp_path: Path) -> None:
    report(run, "--out", tmp_path / "a" / "report.html")
    page = read(tmp_path / "a" / "report.html")
    assert "trained by the method prototype on 4 labelled images and 5 unlabelled images for 8 steps" in page.text
    assert "difference" not in page.text
    assert page.of("dl")


def test_a_bundle_alone_says_what_it_lacks_and_takes_images(bundle: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    assert "give --images and --masks" in report(bundle, "--out", out)
    page = read(out)
    assert "onnx fp32" in page.text
    assert not [section for section in page.of("section") if section["id"] == "images"]
    report(bundle, "--images", data / "val/images", "--masks", data / "val/masks", "--out", out)
    assert [section for section in read(out).of("section") if section["id"] == "images"]


def test_a_run_without_its_images_and_one_that_has_just_begun(run: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(run, tmp_path / "moved")
    recipe = moved / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace(str(run.parent / "data"), str(tmp_path / "gone")))
    begun = shutil.copytree(run, tmp_path / "begun", ignore=shutil.ignore_patterns("*.safetensors", "*.json*", "che*"))
    output = report(moved, "--out", tmp_path / "moved.html")
    assert "No network was judged on images" in output
    text = read(tmp_path / "moved.html").text
    assert f"no such folder: {tmp_path / 'gone'}" in text
    assert "From the best evaluation of the run." in text
    assert "no network yet" in report(begun, "--out", tmp_path / "begun.html")
    text = read(tmp_path / "begun.html").text
    assert "0 of 8 steps so far" in text
    assert "There is no evaluation yet" in text
    report(moved, begun, "--out", tmp_path / "both.html")
    read(tmp_path / "both.html")


def test_a_failed_verification_is_the_first_thing_said(bundle: Path, tmp_path: Path) -> None:
    failed = shutil.copytree(bundle, tmp_path / "failed")
    manifest = json.loads((failed / "manifest.json").read_text())
    manifest["verification"]["passed"] = False
    manifest["verification"]["stages"][0] |= {"status": "failed", "reasons": ["<u>worse</u>"]}
    (failed / "manifest.json").write_text(json.dumps(manifest))
    report(failed, "--no-images", "--out", tmp_path / "report.html")
    page = read(tmp_path / "report.html")
    assert "failed FAILED verification and should not be deployed" in page.text
    assert "<u>worse</u>" in page.text


def test_bench_files_alone(tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text(json.dumps(bench_row("a", 3, None, steady=False)))
    report(tmp_path / "b.json", "--out", tmp_path / "r.html")
    text = read(tmp_path / "r.html").text
    assert "not steady" in text
    assert "against accuracy" not in text


def test_no_images_reads_none(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("judge", "data_facts", "recipe_samples", "prototype_facts"):
        monkeypatch.setattr(making, name, None)
    report(run, "--no-images", "--out", tmp_path / "r.html")
    assert "No image was read" in read(tmp_path / "r.html").text


def test_large_images_make_no_large_page(run: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    for number in range(3):
        noise = random.integers(0, 256, (1200, 1600, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "images" / f"{number}.png", compress_level=0)
        mask = np.asarray(Image.fromarray(draw_scene(number)[1]).resize((1600, 1200), Image.Resampling.NEAREST))
        Image.fromarray(mask).save(tmp_path / "masks" / f"{number}.png")
    options = ReportOptions(tmp_path / "images", tmp_path / "masks", device="cpu")
    made = make_report([run], tmp_path / "r.html", options)
    page = read(made.path)
    assert made.bytes < 4_000_000
    assert max(int(image["width"]) for image in page.of("img")) <= 480


def test_long_runs_and_many_classes_make_no_large_page(run: Path) -> None:
    subjects = find_subjects([run])
    (facts,) = subjects.runs
    many = tuple((step, step % 7 / 7) for step in range(100_000))
    evaluations = facts.evaluations * 5_000
    long = Findings(
        type(subjects)(
            (type(facts)(**{**vars(facts), "terms": {f"t{n}": many for n in range(12)}, "evaluations": evaluations}),),
            (),
            subjects.bench,
        )
    )
    assert len(render(long, ())) < 1_500_000


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (["RUN", "--out", "TMP/notes.txt"], "is not a report", 2),
        (["RUN", "--out", "TMP"], "is a folder", 2),
        (["BUNDLE", "--out", "BUNDLE/report.html"], "lies in the bundle", 2),
        (["RUN", "--out", "TMP/r.html", "--masks", "TMP"], "--masks without --images", 2),
        (["RUN", "--out", "TMP/r.html", "--images", "TMP"], "--images without --masks", 2),
        (["RUN", "--out", "TMP/r.html", "--images", "TMP", "--masks", "TMP", "--no-images"], "contradict", 2),
        (["RUN", "--out", "TMP/r.html", "--images", "TMP/absent", "--masks", "TMP"], "absent", 1),
        (["TMP/notes.txt", "--out", "TMP/r.html"], "neither a run", 2),
        (["RUN", "RUN", "--out", "TMP/r.html"], "given twice", 2),
        (["RUN", "--out", "TMP/r.html", "--card", "TMP/c.md"], "of one bundle, and this report has none", 2),
        (["BUNDLE", "--out", "TMP/r.html", "--card", "TMP/notes.txt"], "not a model card", 2),
    ],
)
def test_what_is_refused(
    arguments: list[str], message: str, code: int, run: Path, bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    before = snapshot(run, bundle, tmp_path)
    places = {"RUN": str(run), "BUNDLE": str(bundle), "TMP": str(tmp_path)}
    words = [re.sub("RUN|BUNDLE|TMP", lambda match: places[match[0]], word) for word in arguments]
    result = CliRunner().invoke(cli, ["report", *words])
    assert result.exit_code == code, result.output
    assert message in result.stderr
    assert snapshot(run, bundle, tmp_path) == before


def test_a_report_is_replaced_by_a_report(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.html"
    report(run, "--no-images", "--out", out)
    report(run, "--no-images", "--out", out, "--title", "second")
    assert "second" in read(out).text


def test_json_says_the_same(run: Path, bundle: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["report", str(run), str(bundle), "--out", str(tmp_path / "r.html"), "--json"])
    found = json.loads(result.stdout)
    assert found["bytes"] == (tmp_path / "r.html").stat().st_size
    assert found["miou_percent"]["run"] == pytest.approx(found["miou_percent"]["bundle"])
    assert list(found["iou_percent"]["run"]) == CLASSES
    assert found["judged_images"] == {"run": 6, "bundle": 6}
