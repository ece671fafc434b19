"""What lies in a bundle, and that a failed export leaves nothing behind."""

import hashlib
import json
import os
import shutil
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner

from protoseg_deploy.bundles import Bundle, GraphMetadata
from protoseg_deploy.cli import cli
from protoseg_deploy.data import Sample
from protoseg_deploy.errors import DataError, ProtosegError, UsageError
from protoseg_deploy.evaluation.samples import evenly_spaced, folder_samples, run_samples
from protoseg_deploy.exporting import bundle as bundle_module
from protoseg_deploy.exporting import export_bundle, verify_bundle
from protoseg_deploy.models import DeployedSegmenter, load_network

pytestmark = pytest.mark.usefixtures("traced_once")


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_manifest_says_what_is_there(good_bundle: Path, colour_run: Path) -> None:
    files = contents(good_bundle)
    pictures = {name for name in files if name.startswith("verification/")}
    assert set(files) - pictures == {"model.onnx", "reference.safetensors", "manifest.json"}
    manifest = Bundle.open(good_bundle).manifest
    assert {name: entry.sha256 for name, entry in manifest.files.items()} == {
        name: digest for name, digest in files.items() if name not in {"manifest.json", *pictures}
    }
    assert files["reference.safetensors"] == contents(colour_run)["best.safetensors"]
    assert manifest.classes.names == ("red", "green", "blue", "grey")
    assert manifest.input.shape == ("batch", "height", "width", 3)
    assert [(output.name, output.dtype) for output in manifest.outputs] == [
        ("class_map", "uint8"),
        ("confidence", "uint8"),
        ("logits", "float32"),
    ]
    assert manifest.provenance.recipe_sha256 == contents(colour_run)["recipe.yaml"]
    assert manifest.provenance.training == {"run": "colours", "step": 25, "miou_percent": 90.0}
    assert manifest.provenance.versions["torch"] == version("torch")
    assert manifest.verification.passed
    # strict: a key that nobody knows is an error, not a surprise later
    tree = json.loads((good_bundle / "manifest.json").read_text())
    with pytest.raises(ValueError, match="extra"):
        type(manifest).model_validate({**tree, "colour": 1})


def test_graph_alone_says_what_it_is(good_bundle: Path, colour_run: Path) -> None:
    model = onnx.load(good_bundle / "model.onnx")
    metadata = GraphMetadata.from_properties({p.key: p.value for p in model.metadata_props}, "graph")
    segmenter, spec = load_network(colour_run / "best.safetensors")
    assert metadata.classes.table() == spec.classes
    assert metadata.mean == pytest.approx(segmenter.mean.flatten().tolist())
    assert metadata.network_sha256 == contents(colour_run)["best.safetensors"]
    assert metadata.provenance["step"] == 25
    assert all(json.loads(p.value) is not ... for p in model.metadata_props)
    assert model.producer_name == "protoseg"


def test_export_replaces_a_bundle_only_when_it_succeeds(
    good_bundle: Path, colour_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "bundles" / "mine"
    shutil.copytree(good_bundle, target)
    before = contents(target)

    # Traced as it is, but compared as if it had been trained on BGR: graph and network differ.
    logits_of = DeployedSegmenter.full_size_logits
    with monkeypatch.context() as patch:
        patch.setattr(DeployedSegmenter, "full_size_logits", lambda self, images: logits_of(self, images.flip(-1)))
        patch.setattr(DeployedSegmenter, "forward", lambda self, images: (logits_of(self, images).argmax(1).byte(),))
        result = CliRunner().invoke(cli, ["export", str(colour_run), "--bundle", str(target)])
    assert result.exit_code == 1
    assert "`onnx fp32` does not match `pytorch`" in result.stderr
    assert contents(target) == before
    failed = tmp_path / "bundles" / "mine-failed"
    assert Bundle.open(failed).manifest.verification.passed is False
    assert len(list((failed / "verification").glob("worst-*.png"))) == 1
    assert sorted(path.name for path in target.parent.iterdir()) == ["mine", "mine-failed"]

    export_bundle(colour_run, target)
    assert contents(target) != before
    assert Bundle.open(target).manifest.verification is None
    assert sorted(path.name for path in target.parent.iterdir()) == ["mine", "mine-failed"]


def test_failed_exports_leave_nothing(colour_run: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_text("no image")
    with pytest.raises(DataError, match=r"broken\.png"):
        export_bundle(colour_run, tmp_path / "out" / "mine", samples=[Sample(broken, None)])
    assert list((tmp_path / "out").iterdir()) == []


def test_only_bundles_are_replaced(colour_run: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="exists and is not a bundle"):
        export_bundle(colour_run, tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    with pytest.raises(UsageError, match="exists and is not a bundle"):
        export_bundle(colour_run, tmp_path / "thesis.txt")
    # browsers' extensions, web applications and many others have one too
    (tmp_path / "manifest.json").write_text('{"name": "thesis", "version": 2}')
    with pytest.raises(UsageError, match="exists and is not a bundle"):
        export_bundle(colour_run, tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("where", ["notes.txt", "engines/notes.txt", "verification/photo.png", "photos/a.jpg", "link"])
def test_a_bundle_with_files_of_somebody_else_is_not_replaced(
    good_bundle: Path, colour_run: Path, tmp_path: Path, where: str
) -> None:
    target = tmp_path / "mine"
    shutil.copytree(good_bundle, target)
    stranger = target / where
    stranger.parent.mkdir(exist_ok=True)
    if where == "link":
        (tmp_path / "elsewhere").write_text("years of work")
        stranger.symlink_to(tmp_path / "elsewhere")
    else:
        stranger.write_text("years of work")
    before = contents(target)
    with pytest.raises(UsageError, match=where.split("/")[0]):
        export_bundle(colour_run, target)
    assert contents(target) == before
    assert stranger.read_text() == "years of work"


@pytest.mark.parametrize("begun", ["nothing", "bundle"])
def test_files_that_are_put_there_during_the_export_are_not_replaced(
    good_bundle: Path, colour_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: str
) -> None:
    target = tmp_path / "mine"
    if begun == "bundle":
        shutil.copytree(good_bundle, target)
    exporting = bundle_module.export_onnx

    def somebody_writes(*arguments: object) -> object:
        target.mkdir(exist_ok=True)
        (target / "thesis.txt").write_text("years of work")
        return exporting(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(bundle_module, "export_onnx", somebody_writes)
    with pytest.raises(UsageError, match="mine"):
        export_bundle(colour_run, target)
    assert (target / "thesis.txt").read_text() == "years of work"
    assert (target / "model.onnx").exists() == (begun == "bundle")
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_folder_whose_manifest_is_a_named_pipe_is_refused_and_not_waited_for(
    good_bundle: Path, colour_run: Path, tmp_path: Path
) -> None:
    target = tmp_path / "mine"
    shutil.copytree(good_bundle, target)
    (target / "manifest.json").unlink()
    os.mkfifo(target / "manifest.json")
    with pytest.raises(UsageError, match="is not a bundle"):
        export_bundle(colour_run, target)
    assert (target / "model.onnx").is_file()


def test_a_bundle_that_is_read_from_is_not_replaced(good_bundle: Path, tmp_path: Path) -> None:
    target = tmp_path / "mine"
    shutil.copytree(good_bundle, target)
    (tmp_path / "link").symlink_to(target)
    before = contents(target)
    for network in (target / "reference.safetensors", tmp_path / "link" / "reference.safetensors"):
        with pytest.raises(UsageError, match="would be replaced"):
            export_bundle(network, target)
    picture = next((target / "verification").glob("*.png"), None) or target / "verification" / "worst-x.png"
    picture.parent.mkdir(exist_ok=True)
    shutil.copyfile(next((good_bundle.parent.parent / "data" / "images").iterdir()), picture)
    before = contents(target)
    with pytest.raises(UsageError, match="would be replaced"):
        export_bundle(good_bundle / "reference.safetensors", target, samples=[Sample(picture, None)])
    with pytest.raises(UsageError, match="would be replaced"):
        verify_bundle(Bundle.open(target), [Sample(picture, None)])
    assert contents(target) == before


def test_verification_neither_writes_nor_deletes_through_a_link(good_bundle: Path, tmp_path: Path) -> None:
    target, elsewhere = tmp_path / "mine", tmp_path / "elsewhere"
    shutil.copytree(good_bundle, target)
    shutil.rmtree(target / "verification", ignore_errors=True)
    elsewhere.mkdir()
    (elsewhere / "worst-day.png").write_text("a photograph")
    (target / "verification").symlink_to(elsewhere)
    images = good_bundle.parent.parent / "data" / "images"
    result = CliRunner().invoke(cli, ["verify", str(target), "--images", str(images)])
    assert result.exit_code == 2
    assert "verification is a link" in result.stderr
    assert [path.name for path in elsewhere.iterdir()] == ["worst-day.png"]


def test_what_a_killed_export_left_is_settled_by_whoever_opens_the_bundle(good_bundle: Path, tmp_path: Path) -> None:
    """Killed between its renames: the earlier bundle has stepped aside, the new one has not taken its name."""
    images = good_bundle.parent.parent / "data" / "images"
    verbs = {
        "predict": ["predict", "BUNDLE", str(next(images.iterdir())), "--out", str(tmp_path / "out")],
        "precision": ["predict", "BUNDLE@fp32", str(next(images.iterdir())), "--out", str(tmp_path / "out")],
        "verify": ["verify", "BUNDLE", "--images", str(images)],
    }
    for name, arguments in verbs.items():
        target = tmp_path / name
        shutil.copytree(good_bundle, tmp_path / f".{name}.0123456789ab.old")
        result = CliRunner().invoke(cli, [word.replace("BUNDLE", str(target)) for word in arguments])
        assert result.exit_code == 0, result.stderr
        assert (target / "manifest.json").is_file()
    assert not list(tmp_path.glob(".*"))


def test_without_a_network(colour_run: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(ProtosegError, match=r"holds no best\.safetensors"):
        export_bundle(tmp_path / "run", tmp_path / "bundle")
    with pytest.raises(ProtosegError, match=r"has no last\.safetensors, but best\.safetensors"):
        export_bundle(colour_run, tmp_path / "bundle", which="last")
    assert not (tmp_path / "bundle").exists()


def test_command_line_verifies_or_says_that_it_did_not(colour_run: Path, tmp_path: Path) -> None:
    """Validation images out of reach: exit code 1 and an unverified bundle, unless that is what was asked for."""
    moved = tmp_path / "run"
    moved.mkdir()
    shutil.copy(colour_run / "best.safetensors", moved)
    runner, bundle = CliRunner(), tmp_path / "bundle"
    result = runner.invoke(cli, ["export", str(moved), "--bundle", str(bundle), "--size", "64x96", "--json"])
    assert result.exit_code == 1
    assert "NOT verified" in result.stderr
    assert "recipe.yaml" in result.stderr
    assert json.loads(result.stdout)["verification"] is None
    assert Bundle.open(bundle).manifest.verification is None

    arguments = ["export", str(moved), "--bundle", str(bundle), "--size", "64x96"]
    result = runner.invoke(cli, [*arguments, "--no-verify"])
    assert result.exit_code == 0, result.stderr
    assert "not verified" in result.stderr

    images = colour_run.parent / "data" / "images"
    result = runner.invoke(cli, [*arguments, "--images", str(images), "--verify-images", "2", "--json"])
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["verification"]["passed"] is True
    assert document["verification"]["images"] == 2
    assert document["verification"]["miou_pytorch_percent"] is None
    assert document["verification"]["stages"][0]["miou_percent"] is None
    assert document["fixed_size"] == [64, 96]

    for wrong in (["--no-verify", "--images", str(images)], ["--masks", str(images)], ["--size", "64x"]):
        assert runner.invoke(cli, [*arguments, *wrong]).exit_code == 2


def test_samples(colour_run: Path, tmp_path: Path) -> None:
    samples = run_samples(colour_run, 2)
    assert [(s.image.name, s.mask.name) for s in samples] == [("0.png", "0.png"), ("2.png", "2.png")]
    data = colour_run.parent / "data"
    assert [s.mask for s in folder_samples(data / "images", None)] == [None] * 3
    assert folder_samples(data / "images", data / "masks") == run_samples(colour_run)
    with pytest.raises(UsageError, match="no such folder"):
        folder_samples(tmp_path / "none", None)
    with pytest.raises(UsageError, match="without images"):
        folder_samples(tmp_path, None)


@pytest.mark.parametrize(("total", "count"), [(1, 1), (5, 5), (5, 9), (101, 50), (367, 2), (10, 1)])
def test_evenly_spaced(total: int, count: int) -> None:
    samples = [Sample(Path(f"{number}.png"), None) for number in range(total)]
    chosen = evenly_spaced(samples, count)
    numbers = [int(sample.image.stem) for sample in chosen]
    assert len(numbers) == min(total, count)
    gaps = {after - before for before, after in pairwise(numbers)}
    assert not gaps or (min(gaps) >= 1 and max(gaps) - min(gaps) <= 1)
    if count > 1:
        assert (numbers[0], numbers[-1]) == (0, total - 1)
