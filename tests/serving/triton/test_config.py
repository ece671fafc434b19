"""Every configuration parses as Triton's own message and says what the graph says; no server is needed."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from onnx import TensorProto
from PIL import Image
from tritonclient.grpc import model_config_pb2 as triton

from protoseg_deploy.bundles.finding import open_graph
from protoseg_deploy.bundles.service import ServiceFacts
from protoseg_deploy.recipe import shipped_folder
from protoseg_deploy.serving.triton.options import TRITON_BACKENDS
from tests.serving.triton.engine import add_engine
from tests.serving.triton.writing import added, config_of, graph_shapes, parameters_of

TYPES = {TensorProto.UINT8: triton.TYPE_UINT8, TensorProto.FLOAT: triton.TYPE_FP32}
PLATFORMS = {"onnxruntime": "onnxruntime_onnx", "tensorrt": "tensorrt_plan", "python": "", "openvino": ""}


@pytest.fixture(scope="module")
def with_engine(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engine") / "bundle"
    shutil.copytree(bundle, folder)
    add_engine(folder)
    return folder


@pytest.mark.parametrize("backend", TRITON_BACKENDS)
@pytest.mark.parametrize("kind", ["dynamic", "fixed"])
def test_names_types_and_dims_are_those_of_the_graph(
    backend: str, kind: str, with_engine: Path, fixed: Path, tmp_path: Path
) -> None:
    if (backend, kind) == ("tensorrt", "fixed"):
        add_engine(fixed := Path(shutil.copytree(fixed, tmp_path / "copy")))
    bundle = with_engine if kind == "dynamic" else fixed
    added(bundle, "--out", tmp_path / "models", "--backend", backend, "--name", "net", "--allow-unverified")
    config = config_of(tmp_path / "models/net")
    assert (config.name, config.backend, config.platform) == ("net", backend, PLATFORMS[backend])
    shapes = graph_shapes(bundle / "model.onnx")
    tensors = {t.name: (t.data_type, [-1, *t.dims]) for t in (*config.input, *config.output)}
    assert tensors == {name: (TYPES[kind], shape) for name, (kind, shape) in shapes.items()}
    assert [tensor.name for tensor in config.input] == ["images"]
    assert config.version_policy.WhichOneof("policy_choice") == "all"
    assert config.max_batch_size == (4 if backend == "tensorrt" else 8)
    assert config.HasField("dynamic_batching")
    file = tmp_path / "models/net/1" / config.default_model_filename
    assert file.is_file()
    if backend in ("onnxruntime", "openvino"):
        assert file.read_bytes() == (bundle / "model.onnx").read_bytes()


@pytest.mark.parametrize(
    ("backend", "size"),
    [("onnxruntime", (512, 512)), ("tensorrt", (96, 128)), ("python", (512, 512))],
)
def test_the_warm_up_is_a_picture_of_the_size_that_it_says(
    backend: str, size: tuple[int, int], with_engine: Path, tmp_path: Path
) -> None:
    added(with_engine, "--out", tmp_path, "--backend", backend, "--name", "net", "--allow-unverified")
    (warmup,) = config_of(tmp_path / "net").model_warmup
    tensor = warmup.inputs["images"]
    assert (warmup.batch_size, list(tensor.dims)) == (1, [*size, 3])
    picture = np.frombuffer((tmp_path / "net/warmup" / tensor.input_data_file).read_bytes(), np.uint8)
    Image.fromarray(picture.reshape(*size, 3))
    assert picture.std() > 10


def test_the_warm_up_of_a_fixed_graph_has_its_size(fixed: Path, tmp_path: Path) -> None:
    added(fixed, "--out", tmp_path, "--name", "net", "--allow-unverified", "--warmup-size", "64")
    assert (tmp_path / "net/warmup/images").stat().st_size == 40 * 56 * 3


def test_the_configuration_says_which_artefact_it_serves(bundle: Path, tmp_path: Path) -> None:
    added(bundle, f"{bundle}@int8", "--out", tmp_path, "--name", "a", "--name", "b", "--ensemble")
    for name, precision in (("a", "fp32"), ("b", "int8")):
        graph, metadata = open_graph(bundle, precision)
        for model in (name, f"{name}_encoded"):
            parameters = parameters_of(tmp_path / model)
            facts = ServiceFacts.from_parameters(parameters, model)
            assert (facts.sha256, facts.metadata, facts.verified) == (graph.digest(), metadata, True)
            assert facts.file_bytes == graph.bytes
            assert parameters["protoseg"] == parameters["protoseg.1"]
            assert json.loads(parameters["classes"]) == list(metadata.classes.names)
            labels = (tmp_path / model / parameters["labels"]).read_text("utf-8")
            assert labels.splitlines() == list(metadata.classes.names)


def test_the_ensemble_joins_decoding_and_model(bundle: Path, tmp_path: Path) -> None:
    added(bundle, "--out", tmp_path, "--name", "net", "--ensemble", "--max-megapixels", "0.001", "--max-batch", "3")
    model, decode, whole = (config_of(tmp_path / name) for name in ("net", "net_decode", "net_encoded"))
    assert whole.platform == "ensemble"
    assert [step.model_name for step in whole.ensemble_scheduling.step] == ["net_decode", "net"]
    assert {(t.name, t.data_type, tuple(t.dims)) for t in whole.input} == {("images", triton.TYPE_STRING, (-1,))}
    outputs = {(t.name, t.data_type, (-1, *t.dims)) for t in model.output}
    assert {(t.name, t.data_type, tuple(t.dims)) for t in whole.output} == outputs
    assert decode.parameters["max_pixels"].string_value == "1000"
    assert decode.parameters["max_images"].string_value == "3"
    for step in whole.ensemble_scheduling.step:  # every tensor between the two is one that they have
        part = {"net_decode": decode, "net": model}[step.model_name]
        assert set(step.input_map) == {tensor.name for tensor in part.input}
        assert set(step.output_map) == {tensor.name for tensor in part.output}
    assert all((tmp_path / name / "1").is_dir() for name in ("net", "net_decode", "net_encoded"))


def test_options_are_those_of_the_configuration(bundle: Path, tmp_path: Path) -> None:
    added(bundle, "--out", tmp_path, "--name", "cpu", "--instances", 2, "--threads", 3, "--max-batch", 5)
    added(bundle, "--out", tmp_path, "--name", "gpu", "--gpu", "--cache")
    added(bundle, "--out", tmp_path, "--name", "slow", "--delay", "0.9", "--backend", "python", "--threads", 3)
    cpu, gpu, slow = (config_of(tmp_path / name) for name in ("cpu", "gpu", "slow"))
    (group,) = cpu.instance_group
    assert (group.kind, group.count) == (triton.ModelInstanceGroup.KIND_CPU, 2)
    assert cpu.max_batch_size == 5
    assert cpu.parameters["intra_op_thread_count"].string_value == slow.parameters["threads"].string_value == "3"
    assert gpu.instance_group[0].kind == triton.ModelInstanceGroup.KIND_GPU
    assert gpu.response_cache.enable
    assert not cpu.response_cache.enable
    delays = [config.dynamic_batching.max_queue_delay_microseconds for config in (cpu, gpu, slow)]
    assert delays[0] == 0
    assert delays[1] > 0
    assert delays[2] == 900


def test_examples_for_clusters_are_documents_of_their_kinds() -> None:
    folder = shipped_folder("export") / "triton"
    kinds = {
        path.name: [document["kind"] for document in yaml.safe_load_all(path.read_text("utf-8"))]
        for path in folder.glob("*.yaml")
    }
    assert kinds == {"kubernetes.yaml": ["Deployment", "Service"], "kserve.yaml": ["InferenceService"]}
