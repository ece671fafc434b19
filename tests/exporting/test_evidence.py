"""What proves nothing does not pass: networks that give NaN or the same everywhere, and bundles exchanged meanwhile."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file, save_file

from protoseg_deploy.bundles import Bundle, Verification
from protoseg_deploy.bundles.manifest import GRAPH_FILE, REFERENCE_FILE
from protoseg_deploy.cli import cli
from protoseg_deploy.data import Sample
from protoseg_deploy.errors import DataError, ProtosegError
from protoseg_deploy.evaluation.samples import folder_samples, run_samples
from protoseg_deploy.exporting import export_bundle, verify_bundle
from protoseg_deploy.models import load_network, save_network
from protoseg_deploy.models.tensor_checks import NotFiniteError
from protoseg_deploy.runtimes import open_runtime
from tests.exporting.planting import edit_graph, swap_red_and_blue

pytestmark = pytest.mark.usefixtures("traced_once")


@pytest.fixture
def run(colour_run: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return shutil.copytree(colour_run, tmp_path / "run")


@pytest.fixture
def bundle(good_bundle: Path, tmp_path: Path) -> Path:
    return shutil.copytree(good_bundle, tmp_path / "bundle")


def change(run: Path, edit) -> None:
    segmenter, spec = load_network(run / "best.safetensors")
    with torch.no_grad():
        edit(segmenter)
    save_network(run / "best.safetensors", segmenter.state_dict(), spec)


@pytest.mark.parametrize("share", ["all", "one"])
def test_weights_that_are_nan_are_not_exported(run: Path, tmp_path: Path, share: str) -> None:
    path = run / "best.safetensors"
    weights = load_file(path)
    for name, tensor in weights.items():
        if tensor.is_floating_point() and (share == "all" or name.endswith("head.bias")):
            tensor.view(-1)[0] = float("nan")
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    save_file(weights, path, header)
    result = CliRunner().invoke(cli, ["export", str(run), "--bundle", str(tmp_path / "bundle")])
    assert result.exit_code == 1
    assert "holds NaN" in result.stderr
    assert ("head.bias" in result.stderr) or share == "all"
    assert not (tmp_path / "bundle").exists()
    assert not (tmp_path / "bundle-failed").exists()


def test_a_network_that_overflows_is_not_verified(run: Path, tmp_path: Path) -> None:
    """All its weights are finite, what it computes is not."""
    change(run, lambda segmenter: segmenter.head.weight.fill_(3e38))
    with pytest.raises(NotFiniteError, match=r"gives NaN or infinity on .*0\.png"):
        export_bundle(run, tmp_path / "bundle", samples=run_samples(run))
    assert not (tmp_path / "bundle").exists()


def test_a_network_that_gives_the_same_everywhere_proves_nothing(run: Path, tmp_path: Path) -> None:
    change(run, lambda segmenter: segmenter.head.weight.zero_())
    result = CliRunner().invoke(cli, ["export", str(run), "--bundle", str(tmp_path / "bundle")])
    assert result.exit_code == 1
    assert "gives the same logits at every pixel of 3 images" in result.stderr
    assert not (tmp_path / "bundle").exists()
    result = CliRunner().invoke(cli, ["export", str(run), "--bundle", str(tmp_path / "bundle"), "--no-verify"])
    assert result.exit_code == 0, result.stderr
    assert open_runtime(tmp_path / "bundle").info.verified is None


def test_images_of_one_class_prove_nothing_and_change_no_verdict(bundle: Path, tmp_path: Path) -> None:
    """The network is sound; on these images any network that knows one class would do the same."""
    (tmp_path / "red").mkdir()
    random = np.random.default_rng(0)
    for number in range(2):
        image = np.array([200, 40, 40]) + random.normal(0, 3, (96, 96, 3))
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(tmp_path / "red" / f"{number}.png")
    samples = folder_samples(tmp_path / "red")
    runtime = open_runtime(bundle, device="cpu")
    maps = [runtime.predict(np.asarray(Image.open(sample.image))[None]) for sample in samples]
    assert len(np.unique(maps)) == 1
    before = (bundle / "manifest.json").read_bytes()
    with pytest.raises(DataError, match="gives the class `red` at every pixel of 2 images") as caught:
        verify_bundle(Bundle.open(bundle), samples)
    assert "--images" in caught.value.hint
    assert (bundle / "manifest.json").read_bytes() == before
    # one image that shows more is enough
    assert verify_bundle(Bundle.open(bundle), [*samples, Sample(run_image(bundle), None)]).passed


def run_image(bundle: Path) -> Path:
    from tests.exporting.conftest import scene

    path = bundle.parent / "scene.png"
    Image.fromarray(scene(7, 64, 96)[0]).save(path)
    return path


def test_verdicts_name_the_digests_of_what_was_compared(bundle: Path, colour_run: Path) -> None:
    verify_bundle(Bundle.open(bundle), run_samples(colour_run))
    manifest = Bundle.open(bundle).manifest
    (stage,) = manifest.verification.stages
    assert stage.artefact_sha256 == manifest.files[GRAPH_FILE].sha256
    assert stage.against_sha256 == manifest.files[REFERENCE_FILE].sha256
    # signed again, as by somebody who exchanges graph and checksum
    edit_graph(bundle, GRAPH_FILE, swap_red_and_blue)
    assert open_runtime(bundle).info.verified is None


@pytest.mark.parametrize("exchanged", ["bundle", "graph", "graph and checksum", "network"])
def test_a_bundle_exchanged_while_it_is_verified_gets_no_verdict(
    bundle: Path, colour_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchanged: str
) -> None:
    """After the images were compared, before the verdict is written."""
    bad = shutil.copytree(bundle, tmp_path / "bad")
    edit_graph(bad, GRAPH_FILE, swap_red_and_blue)
    record = Bundle.record

    def exchange(opened: Bundle, found: Verification) -> Bundle:
        if exchanged == "bundle":
            bundle.rename(tmp_path / "old")
            bad.rename(bundle)
        elif exchanged == "network":
            (bundle / REFERENCE_FILE).write_bytes((bundle / REFERENCE_FILE).read_bytes() + b" ")
        else:
            shutil.copy(bad / GRAPH_FILE, bundle)
            if exchanged == "graph and checksum":
                shutil.copy(bad / "manifest.json", bundle)
        manifests.append((bundle / "manifest.json").read_bytes())
        return record(opened, found)

    manifests: list[bytes] = []
    monkeypatch.setattr(Bundle, "record", exchange)
    with pytest.raises(ProtosegError, match=r"replaced while it was verified|is not the file the manifest describes"):
        verify_bundle(Bundle.open(bundle), run_samples(colour_run))
    assert (bundle / "manifest.json").read_bytes() == manifests[0]
    if "graph" not in exchanged.split() or exchanged == "graph and checksum":
        assert Bundle.open(bundle).manifest.verified(GRAPH_FILE) is (True if exchanged == "network" else None)


def test_a_network_of_other_classes_is_not_the_one_described(bundle: Path, colour_run: Path) -> None:
    """The checksum is right, and the network has as many classes."""
    from dataclasses import replace

    from protoseg_deploy.bundles.bundle import file_entry
    from protoseg_deploy.recipe import ClassTable

    segmenter, spec = load_network(bundle / REFERENCE_FILE)
    other = replace(spec, classes=ClassTable(("a", "b", "c", "d"), spec.classes.colors))
    save_network(bundle / REFERENCE_FILE, segmenter.state_dict(), other)
    manifest = Bundle.open(bundle).manifest
    files = {**manifest.files, REFERENCE_FILE: file_entry(bundle / REFERENCE_FILE)}
    Bundle.create(bundle, manifest.model_copy(update={"files": files}))
    with pytest.raises(ProtosegError, match="is not the network the manifest describes"):
        verify_bundle(Bundle.open(bundle), run_samples(colour_run))
