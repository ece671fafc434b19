"""Engines are served with all that they give, and say which engine they are; the GPU is in main memory."""

import json
import shutil
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from protoseg_deploy.bundles import Bundle
from protoseg_deploy.bundles.verdicts import StageVerdict
from protoseg_deploy.errors import ProtosegError, UsageError
from protoseg_deploy.runtimes import open_runtime
from protoseg_deploy.runtimes.base import GraphRuntime
from protoseg_deploy.runtimes.tensorrt import Profile
from protoseg_deploy.serving.artefact import (
    ArtefactSpec,
    NotVerifiedError,
    bundle_identity,
    compute_outputs,
    default_name,
    open_artefact,
)
from tests.fake_gpu import fake_plan, host_torch
from tests.serving.embedded import server_thread
from tests.serving.small_bundles import classes_of, confidence_of, write_bundle
from tests.serving.triton.engine import add_engine

FILE = "engines/fp32-sm86.engine"


@pytest.fixture(autouse=True)
def _gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    host_torch.install(monkeypatch)


def engine(folder: Path, status: str | None = "passed", **changes: object) -> Path:
    """Of a new bundle; it takes up to 4 images of 32x32 to 256x256."""
    write_bundle(folder)
    add_engine(folder, "fp32-sm86", fake_plan(folder / "model.onnx"), **changes)
    bundle = Bundle.open(folder)
    verification = bundle.manifest.verification
    if status is not None:
        verdict = StageVerdict(
            stage="engine",
            artefact=FILE,
            artefact_sha256=bundle.manifest.digest_of(FILE),
            against="onnx fp32",
            status=status,
        )
        stages = (*verification.stages, verdict)
        judged = {"verification": verification.model_copy(update={"stages": stages})}
        Bundle.create(folder, bundle.manifest.model_copy(update=judged))
    return folder / FILE


def pictures(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def ask(url: str, body: dict | None = None) -> dict:
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data), timeout=60) as answer:
        return json.load(answer)


def test_the_runtime_gives_all_outputs_of_an_engine(tmp_path: Path) -> None:
    runtime = open_runtime(engine(tmp_path / "mine"))
    assert isinstance(runtime, GraphRuntime)
    assert set(runtime.outputs) == {"class_map", "confidence"}
    for shape in ((1, 40, 50), (3, 64, 33), (1, 40, 50), (1, 40, 50), (1, 40, 50)):
        images = pictures(*shape, seed=sum(shape))
        found = runtime.compute(images, ("confidence", "class_map"))
        np.testing.assert_array_equal(found["class_map"], [classes_of(image) for image in images])
        np.testing.assert_array_equal(found["confidence"], [confidence_of(image) for image in images])
        np.testing.assert_array_equal(runtime.compute(images, ("confidence",))["confidence"], found["confidence"])
        np.testing.assert_array_equal(runtime.predict(images), found["class_map"])
    first = runtime.predict(pictures(1, 40, 50, seed=1))
    kept = first.copy()
    runtime.predict(pictures(1, 40, 50, seed=2))
    np.testing.assert_array_equal(first, kept)


def test_the_outputs_of_an_engine_are_described_as_those_of_its_graph(bundle: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(bundle, mine)
    add_engine(mine, "fp32-sm86", fake_plan(mine / "model.onnx"))
    graph = open_artefact(ArtefactSpec(mine, "graph", device="cpu", threads=1))
    made = open_artefact(ArtefactSpec(mine / FILE, "engine", allow_unverified=True))
    described = [
        {port.name: (port.dtype, artefact.output_shape(port)) for port in artefact.ports} for artefact in (graph, made)
    ]
    assert described[0] == described[1]
    assert set(described[0]) == {"class_map", "confidence", "logits"}
    images = pictures(5, 64, 96)
    expected, found = (compute_outputs(one.instances[0], images, tuple(described[0])) for one in (graph, made))
    np.testing.assert_array_equal(found["class_map"], expected["class_map"])
    np.testing.assert_array_equal(found["confidence"], expected["confidence"])
    np.testing.assert_allclose(found["logits"], expected["logits"], rtol=1e-4, atol=1e-4)


def test_an_engine_is_served(tmp_path: Path) -> None:
    path = engine(tmp_path / "mine")
    images = pictures(6, 40, 50)  # more than the profile has at once
    with server_thread(ArtefactSpec(path, default_name(path))) as (http, _):
        url = f"http://{http}/v2/models/mine"
        described = ask(url)
        body = {"inputs": [{"name": "images", "datatype": "UINT8", "shape": images.shape, "data": images.tolist()}]}
        answer = ask(f"{url}/infer", body)
        body["inputs"][0].update(shape=[1, 300, 40, 3], data=pictures(1, 300, 40).tolist())
        with pytest.raises(urllib.error.HTTPError) as refused:
            ask(f"{url}/infer", body)
    manifest = Bundle.open(tmp_path / "mine").manifest
    parameters = described["parameters"]
    assert (parameters["sha256"], parameters["verified"]) == (manifest.files[FILE].sha256, "passed")
    assert json.loads(parameters["protoseg"])["file_bytes"] == path.stat().st_size
    assert parameters["backend"] == "TensorRT 10.13.3.9, Fake GPU"
    ports = {port["name"]: (port["datatype"], port["shape"]) for port in described["outputs"]}
    assert ports["class_map"] == ports["confidence"] == ("UINT8", [-1, -1, -1])
    found = {port["name"]: np.reshape(port["data"], port["shape"]) for port in answer["outputs"]}
    np.testing.assert_array_equal(found["class_map"], [classes_of(image) for image in images])
    np.testing.assert_array_equal(found["confidence"], [confidence_of(image) for image in images])
    assert refused.value.code == 400
    assert b"takes images of 32x32 to 256x256 pixels (height x width), not 300x40" in refused.value.read()


def test_an_engine_of_one_size(tmp_path: Path) -> None:
    profile = Profile(min=(1, 40, 56), opt=(1, 40, 56), max=(1, 40, 56))
    artefact = open_artefact(ArtefactSpec(engine(tmp_path / "mine", profile=profile), "mine", instances=2))
    assert artefact.input_shape() == (-1, 40, 56, 3)
    assert {artefact.output_shape(port) for port in artefact.ports} == {(-1, 40, 56)}
    images = pictures(3, 40, 56)
    found = compute_outputs(artefact.instances[1], images, ("class_map",))["class_map"]
    np.testing.assert_array_equal(found, [classes_of(image) for image in images])


@pytest.mark.parametrize(("status", "words"), [("failed", "has failed"), (None, "was never"), ("not run", "was never")])
def test_the_verdict_is_that_of_the_engine(status: str | None, words: str, tmp_path: Path) -> None:
    path = engine(tmp_path / "mine", status)
    with pytest.raises(NotVerifiedError, match=f"{words}.* verif") as caught:
        open_artefact(ArtefactSpec(path, "mine"))
    assert f"protoseg verify {tmp_path / 'mine'} " in caught.value.hint
    facts = open_artefact(ArtefactSpec(path, "mine", allow_unverified=True)).facts
    assert facts.verified is (False if status == "failed" else None)


def test_an_engine_that_no_bundle_lists(tmp_path: Path) -> None:
    listed = engine(tmp_path / "mine")
    path = tmp_path / "alone" / listed.name
    shutil.copytree(listed.parent, path.parent)
    with pytest.raises(NotVerifiedError, match="was never verified"):
        open_artefact(ArtefactSpec(path, "alone"))
    assert open_artefact(ArtefactSpec(path, "alone", allow_unverified=True)).facts.masks is None
    assert (default_name(path), default_name(listed)) == ("alone", "mine")
    assert bundle_identity(path) is None


def test_engines_that_are_not_served(tmp_path: Path) -> None:
    path = engine(tmp_path / "mine")
    with pytest.raises(UsageError, match="--backend openvino does not apply"):
        open_artefact(ArtefactSpec(path, "mine", backend="openvino"))
    with pytest.raises(UsageError, match="is fp32, not fp16"):
        open_artefact(ArtefactSpec(path, "mine", precision="fp16"))
    content = path.read_bytes()
    path.write_bytes(content + b"x")
    with pytest.raises(ProtosegError, match="is not the file the manifest describes"):
        open_artefact(ArtefactSpec(path, "mine"))
    several = engine(tmp_path / "several", profile=Profile(min=(2, 40, 56), opt=(2, 40, 56), max=(4, 40, 56)))
    with pytest.raises(UsageError, match="here it has to take single ones"):
        open_artefact(ArtefactSpec(several, "several"))


def test_a_new_engine_changes_the_identity(tmp_path: Path) -> None:
    path = engine(tmp_path / "mine")
    before = bundle_identity(path)
    assert before == bundle_identity(path)
    add_engine(tmp_path / "mine", "fp32-sm86", fake_plan(tmp_path / "mine/model.onnx") + b" ")
    assert bundle_identity(path) not in (None, before)
