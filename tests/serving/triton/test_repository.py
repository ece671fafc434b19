"""Versions, what is left alone, what is refused, and that nothing half-made is left behind."""

import errno
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from protoseg_deploy.bundles import Bundle
from protoseg_deploy.bundles.service import ServiceFacts, of_version
from protoseg_deploy.bundles.verdicts import Verification
from tests.serving.triton.engine import add_engine
from tests.serving.triton.writing import added, config_of, parameters_of, serve_repo, tree


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


def digest(bundle: Path, precision: Any = "fp32") -> str:
    return Bundle.open(bundle).graph(precision).digest()


def facts(model: Path, version: int | None = None) -> ServiceFacts:
    key = "protoseg" if version is None else f"protoseg.{version}"
    return ServiceFacts.from_parameters({"protoseg": parameters_of(model)[key]}, str(model))


def test_a_model_is_named_like_the_folder_of_its_bundle(bundle: Path, models: Path) -> None:
    done = serve_repo(bundle, "--out", models, "--json")
    assert done.exit_code == 0, done.output
    (model,) = json.loads(done.stdout)["models"]
    assert (model["name"], model["version"], model["change"]) == (bundle.name, 1, "added")
    assert model["sha256"] == digest(bundle)
    assert (models / bundle.name / "1/model.onnx").read_bytes() == (bundle / "model.onnx").read_bytes()
    assert {path.name for path in models.iterdir()} == {bundle.name}
    assert {path.name for path in models.parent.iterdir()} == {models.name}


def test_another_bundle_becomes_the_next_version(bundle: Path, models: Path) -> None:
    net = models / "net"
    added(bundle, "--out", models, "--name", "net", "--ensemble", "--backend", "python")
    before = tree(net / "1")
    added(f"{bundle}@int8", "--out", models, "--name", "net", "--backend", "python")
    assert tree(net / "1") == before
    assert (net / "2/model.onnx").read_bytes() == (bundle / "model.int8.onnx").read_bytes()
    assert (facts(net, 1).sha256, facts(net, 2).sha256) == (digest(bundle), digest(bundle, "int8"))
    assert facts(net) == facts(net, 2)
    parameters = parameters_of(net)
    for version, expected in (("", 2), ("1", 1), ("2", 2), ("9", 2)):
        assert ServiceFacts.from_parameters(of_version(parameters, version), "net") == facts(net, expected)
    assert facts(models / "net_encoded") == facts(net, 2), "the ensemble answers with the latest version"
    shutil.rmtree(net / "2")
    added(bundle, "--out", models, "--name", "net", "--backend", "python")
    assert facts(net) == facts(net, 1), "a version that was removed is not the latest"
    assert "protoseg.2" not in parameters_of(net)


def test_the_same_bundle_again_changes_nothing(bundle: Path, models: Path) -> None:
    words = (bundle, f"{bundle}@int8", "--name", "a", "--name", "b", "--out", models, "--ensemble")
    added(*words)
    before = tree(models)
    done = serve_repo(*words, "--json")
    assert [model["change"] for model in json.loads(done.stdout)["models"]] == ["unchanged", "unchanged"]
    assert tree(models) == before
    assert len(before) > 10


def test_an_earlier_bundle_again_stays_its_version(bundle: Path, models: Path) -> None:
    added(bundle, "--out", models, "--name", "net")
    added(f"{bundle}@int8", "--out", models, "--name", "net")
    done = serve_repo(bundle, "--out", models, "--name", "net")
    assert done.exit_code == 0
    assert "this bundle is version 1 already, and version 2 answers" in done.stderr
    assert facts(models / "net") == facts(models / "net", 2)


def test_other_options_change_the_configuration_alone(bundle: Path, models: Path) -> None:
    added(bundle, "--out", models, "--name", "net")
    before = tree(models)
    done = serve_repo(bundle, "--out", models, "--name", "net", "--max-batch", 3, "--json")
    assert json.loads(done.stdout)["models"][0]["change"] == "updated"
    assert config_of(models / "net").max_batch_size == 3
    assert {name for name, mark in tree(models).items() if before.get(name) != mark} == {"net/config.pbtxt"}


def test_what_others_have_made_is_not_touched(bundle: Path, models: Path) -> None:
    foreign = {"net/config.pbtxt": 'name: "net"\nbackend: "python"\n', "empty/notes.txt": "mine", "file": "mine"}
    for name, text in foreign.items():
        (models / name).parent.mkdir(parents=True, exist_ok=True)
        (models / name).write_text(text)
    for name in ("net", "empty", "file"):
        done = serve_repo(bundle, "--out", models, "--name", name)
        assert done.exit_code == 2
        assert "is no model that `protoseg serve-repo` has made" in done.stderr
    assert {name: (models / name).read_text() for name in foreign} == foreign
    added(bundle, "--out", models, "--name", "ours")
    (models / "ours/7").mkdir()
    (models / "ours/notes.txt").write_text("mine")
    done = serve_repo(f"{bundle}@int8", "--out", models, "--name", "ours")
    assert done.exit_code == 2
    assert "7 is a version that `protoseg serve-repo` has not made" in done.stderr
    (models / "ours/7").rmdir()
    added(f"{bundle}@int8", "--out", models, "--name", "ours")
    assert (models / "ours/notes.txt").read_text() == "mine"


def test_a_decoder_of_others_is_not_touched_for_an_ensemble(bundle: Path, models: Path) -> None:
    for name in ("net_decode", "net_encoded"):
        (models / name / "1").mkdir(parents=True)
        (models / name / "1/model.py").write_text("mine")
        (models / name / "config.pbtxt").write_text(f'name: "{name}"\nbackend: "python"\n')
        before = tree(models)
        done = serve_repo(bundle, "--out", models, "--name", "net", "--ensemble")
        assert done.exit_code == 2
        assert f"{name} is no model that `protoseg serve-repo` has made" in done.stderr
        assert tree(models) == before
        shutil.rmtree(models / name)


def test_models_do_not_take_the_names_of_other_models_parts(bundle: Path, models: Path) -> None:
    added(bundle, "--out", models, "--name", "net_encoded")
    added(bundle, "--out", models, "--name", "dish", "--ensemble")
    before = tree(models)
    for words, said in (
        (("--name", "net", "--ensemble"), "net_encoded is a model of a bundle, not an ensemble"),
        (("--name", "dish_encoded"), "dish_encoded is an ensemble, not a model of a bundle"),
        (("--name", "dish_decode"), "dish_decode is the decoder of a model, not a model of a bundle"),
        ((bundle, "--name", "x_encoded", "--name", "x", "--ensemble"), "two models would have the name x_encoded"),
    ):
        done = serve_repo(bundle, "--out", models, *words)
        assert done.exit_code == 2
        assert said in done.stderr.replace("\n", " ")
        assert tree(models) == before
    added(bundle, "--out", models, "--name", "net")
    assert {path.name for path in models.glob("net*")} == {"net", "net_encoded"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--warmup-size", "99999x99999"), "a warm-up image of 99999x99999 pixels is larger"),
        (
            ("--backend", "python", "--max-megapixels", 0.2, "--warmup-size", 512),
            "a warm-up image of 512x512 pixels is larger",
        ),
        (("--max-batch", 10**12), "--max-batch"),
        (("--instances", 10**12), "--instances"),
        (("--threads", 10**12), "--threads"),
    ],
)
def test_values_that_no_server_could_run_are_refused(
    bundle: Path, models: Path, words: tuple[object, ...], said: str
) -> None:
    done = serve_repo(bundle, "--out", models, *words)
    assert done.exit_code == 2
    assert said in done.stderr
    assert not models.exists()


def test_nothing_is_written_through_a_link(bundle: Path, models: Path, tmp_path: Path) -> None:
    models.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (models / "net").symlink_to(tmp_path / "elsewhere")
    assert "is a link" in serve_repo(bundle, "--out", models, "--name", "net").stderr
    assert not list((tmp_path / "elsewhere").iterdir())


def test_unverified_and_failed_artefacts_are_refused(bundle: Path, fixed: Path, tmp_path: Path, models: Path) -> None:
    done = serve_repo(fixed, "--out", models)
    assert done.exit_code == 2
    assert "is not verified" in done.stderr
    assert f"protoseg verify {fixed} --images DIR" in done.stderr
    failed = Path(shutil.copytree(bundle, tmp_path / "failed"))
    opened = Bundle.open(failed)
    verification = opened.manifest.verification
    assert verification is not None
    stages = tuple(stage.model_copy(update={"status": "failed"}) for stage in verification.stages)
    opened.record(Verification.model_validate({**verification.model_dump(), "passed": False, "stages": stages}))
    assert "failed its verification" in serve_repo(failed, "--out", models).stderr
    assert not models.exists()
    done = serve_repo(fixed, failed, "--name", "fixed", "--name", "failed", "--out", models, "--allow-unverified")
    assert done.exit_code == 0
    assert "is unverified" in done.stderr
    assert facts(models / "fixed").verified is None
    assert facts(models / "failed").verified is False
    assert parameters_of(models / "failed")["verified"] == "failed"


def test_openvino_needs_a_verdict_of_its_own(bundle: Path, models: Path) -> None:
    done = serve_repo(bundle, "--out", models, "--backend", "openvino")
    assert done.exit_code == 2
    assert "--images DIR --backend openvino" in done.stderr


def test_versions_that_cannot_share_a_configuration(bundle: Path, fixed: Path, models: Path) -> None:
    added(bundle, "--out", models, "--name", "net")
    before = tree(models)
    done = serve_repo(fixed, "--out", models, "--name", "net", "--allow-unverified")
    assert "has versions with other inputs and outputs" in done.stderr
    done = serve_repo(f"{bundle}@int8", "--out", models, "--name", "net", "--backend", "python")
    assert "has versions with other backend" in done.stderr
    assert tree(models) == before


def test_a_damaged_version_is_noticed(bundle: Path, models: Path) -> None:
    added(bundle, "--out", models, "--name", "net")
    (models / "net/1/model.onnx").write_bytes(b"something else")
    done = serve_repo(bundle, "--out", models, "--name", "net")
    assert done.exit_code == 1
    assert "model.onnx is not the file that config.pbtxt describes" in done.stderr


@pytest.mark.parametrize("version", [1, 2])
def test_a_full_disk_leaves_the_repository_as_it_was(
    version: int, bundle: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if version == 2:
        added(bundle, "--out", models, "--name", "net")
    models.mkdir(exist_ok=True)
    before = {name for name in tree(models.parent) if not name.endswith("config.pbtxt")}

    def full(_source: object, target: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(target))

    with monkeypatch.context() as patch:
        patch.setattr("shutil.copyfile", full)
        done = serve_repo(f"{bundle}@int8", "--out", models, "--name", "net")
    assert done.exit_code == 1
    assert "No space left on device" in done.stderr
    assert {name for name in tree(models.parent) if not name.endswith("config.pbtxt")} == before
    if version == 2:
        assert facts(models / "net").sha256 == digest(bundle)
    added(f"{bundle}@int8", "--out", models, "--name", "net")
    assert facts(models / "net").sha256 == digest(bundle, "int8")
    assert (models / "net" / str(version)).is_dir()


def test_what_a_killed_process_has_left_is_removed(bundle: Path, models: Path) -> None:
    added(bundle, "--out", models, "--name", "net")
    beside = models.parent / f".{models.name}.0123456789ab.tmp"
    for place in (beside, models / "net/.2.0123456789ab.tmp"):
        (place / "half").mkdir(parents=True)
    added(f"{bundle}@int8", "--out", models, "--name", "net")
    assert not beside.exists()
    assert not [path for path in models.rglob("*") if path.name.startswith(".")]


def test_engines(bundle: Path, tmp_path: Path, models: Path) -> None:
    words = ("--out", models, "--backend", "tensorrt", "--name", "net", "--allow-unverified")
    done = serve_repo(bundle, *words)
    assert done.exit_code == 2
    assert f"protoseg build {bundle} --engine tensorrt --images DIR" in done.stderr
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    plans = {name: add_engine(copy, name) for name in ("fp32-sm86", "fp32-sm90")}
    assert "fp32-sm86, fp32-sm90" in serve_repo(copy, *words).stderr
    assert "batches of 4 at most" in serve_repo(copy, *words, "--engine", "fp32-sm90", "--max-batch", 5).stderr
    added(copy, *words, "--engine", "fp32-sm90")
    assert (models / "net/1/model.plan").read_bytes() == plans["fp32-sm90"]
    assert "TensorRT 10.13.3.9" in facts(models / "net").backend
    (copy / "engines/fp32-sm86.engine").write_bytes(b"plan fp32-xxxx")
    done = serve_repo(copy, *words, "--engine", "fp32-sm86")
    assert done.exit_code == 1
    assert "is not the file the manifest describes" in done.stderr


def test_low_precision_is_not_served_on_a_cpu(fixed: Path, models: Path) -> None:
    done = serve_repo(f"{fixed}@fp16", "--out", models, "--allow-unverified")
    assert done.exit_code == 2
    assert "which ONNX Runtime does not compute on a CPU" in done.stderr
    added(f"{fixed}@fp16", "--out", models, "--allow-unverified", "--gpu")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["BUNDLE", "BUNDLE"], "two models would have the name"),
        (["BUNDLE", "BUNDLE@int8", "--name", "a"], "1 names for 2 bundles"),
        (["BUNDLE", "--name", "a/b"], "no name of a model"),
        (["BUNDLE", "BUNDLE@int8", "--name", "a", "--name", ".b"], "no name of a model"),
        (["BUNDLE@bf16"], "has no bf16 graph"),
        (["BUNDLE@openvino"], "not a backend of Triton"),
        (["BUNDLE", "--engine", "fp32-sm86"], "--backend tensorrt"),
        (["BUNDLE", "--backend", "openvino", "--gpu"], "cannot be combined with --gpu"),
        (["BUNDLE/model.onnx"], "is not a bundle"),
        (["http://127.0.0.1:9/net"], "is a model on a server"),
        (["/absent"], "/absent is not a bundle"),
    ],
)
def test_what_does_not_fit_together(words: list[str], message: str, bundle: Path, models: Path) -> None:
    done = serve_repo(*(word.replace("BUNDLE", str(bundle)) for word in words), "--out", models)
    assert done.exit_code in (1, 2)
    assert message in done.stderr
    assert not models.exists()


def test_a_repository_does_not_lie_in_a_bundle(bundle: Path) -> None:
    assert "lies inside the bundle" in serve_repo(bundle, "--out", bundle / "models").stderr
    assert not (bundle / "models").exists()


def test_without_the_client_library(bundle: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "tritonclient"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tritonclient", None)
    done = serve_repo(bundle, "--out", models)
    assert done.exit_code == 2
    assert "pip install 'protoseg-deploy[triton]'" in done.stderr
