"""The Python of the templates without a server: what they refuse to start with, and how requests are grouped."""

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from google.protobuf import json_format
from numpy.typing import NDArray

from protoseg_deploy.bundles.contract import graph_ports
from protoseg_deploy.bundles.finding import open_graph
from protoseg_deploy.bundles.graph import read_graph
from protoseg_deploy.bundles.service import ServiceFacts
from protoseg_deploy.recipe import shipped_folder
from protoseg_deploy.runtimes import OnnxRuntime
from protoseg_deploy.serving.triton.artefact import TritonArtefact
from protoseg_deploy.serving.triton.options import ModelOptions
from protoseg_deploy.serving.triton.repository import add_model
from tests.serving.bundles import many_images
from tests.serving.triton.writing import added, config_of


class ModelError(Exception):
    """In the place of Triton's."""


class TritonError(Exception):
    INVALID_ARG = 3


class Response:
    def __init__(self, output_tensors: list[Any], error: TritonError | None = None) -> None:
        self.outputs = {tensor.name: tensor.as_numpy() for tensor in output_tensors}
        self.error = error


class Tensor:
    def __init__(self, name: str, array: NDArray[Any]) -> None:
        self.name, self._array = name, array

    def as_numpy(self) -> NDArray[Any]:
        return self._array


class Request:
    def __init__(self, array: NDArray[Any], outputs: tuple[str, ...] = ("class_map",)) -> None:
        self.tensors = {"images": Tensor("images", array)}
        self._outputs = outputs

    def requested_output_names(self) -> tuple[str, ...]:
        return self._outputs


@pytest.fixture
def template(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Loads one as Triton's backend would, with NumPy 1 as it seems."""
    backend = ModuleType("triton_python_backend_utils")
    backend.__dict__.update(
        TritonModelException=ModelError,
        TritonError=TritonError,
        InferenceResponse=Response,
        Tensor=Tensor,
        Logger=SimpleNamespace(log_error=lambda text: None),
        get_input_tensor_by_name=lambda request, name: request.tensors.get(name),
    )
    monkeypatch.setitem(sys.modules, backend.__name__, backend)
    monkeypatch.setattr(np, "__version__", "1.26.4")

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location("template", shipped_folder("export") / "triton" / name)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


def arguments(model: Path, version: int = 1, kind: str = "CPU") -> dict[str, str]:
    """What Triton gives to ``initialize``."""
    config = json_format.MessageToDict(config_of(model), preserving_proto_field_name=True)
    return {
        "model_name": model.name,
        "model_version": str(version),
        "model_repository": str(model),
        "model_config": json.dumps(config),
        "model_instance_kind": kind,
        "model_instance_device_id": "0",
    }


@pytest.fixture
def model(bundle: Path, tmp_path: Path) -> Path:
    words = ("--backend", "python", "--ensemble", "--max-batch", 4, "--max-megapixels", 0.1, "--threads", 1)
    added(bundle, "--out", tmp_path / "models", "--name", "net", *words)
    return tmp_path / "models/net"


def opened(template: Callable[[str], ModuleType], model: Path, **how: Any) -> Any:
    instance = template("model.py").TritonPythonModel()
    instance.initialize(arguments(model, **how))
    return instance


@pytest.mark.parametrize("name", ["model.py", "decode_model.py"])
def test_numpy_2_is_refused_with_the_reason(
    name: str, template: Callable[[str], ModuleType], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With it, Triton's Python backend answers with empty outputs and reports success."""
    monkeypatch.setattr(np, "__version__", "2.0.0")
    with pytest.raises(ModelError, match=r"NumPy 2\.0\.0 is installed.* empty outputs.*Install numpy<2"):
        template(name).TritonPythonModel().initialize(arguments(model))


def test_another_file_than_the_verified_one_is_refused(template: Callable[[str], ModuleType], model: Path) -> None:
    shutil.copyfile(Path(onnx.__file__), model / "1/model.onnx")
    with pytest.raises(ModelError, match="is not the file that was verified"):
        opened(template, model)


def test_a_gpu_that_is_not_there_is_refused(template: Callable[[str], ModuleType], model: Path) -> None:
    with pytest.raises(ModelError, match="install onnxruntime-gpu"):
        opened(template, model, kind="GPU")


def test_requests_of_one_size_are_computed_together(
    template: Callable[[str], ModuleType], model: Path, bundle: Path
) -> None:
    instance, runtime = opened(template, model), OnnxRuntime(bundle, device="cpu", threads=1)
    images = many_images(16)
    requests = [Request(image[None]) for image in images]
    requests[3] = Request(np.stack([images[0], images[1], images[5]]), ("class_map", "confidence"))
    responses = instance.execute(requests)
    assert len(responses) == len(requests)
    for request, response in zip(requests, responses, strict=True):
        names = request.requested_output_names()
        expected = runtime.compute(request.tensors["images"].as_numpy(), names)
        assert response.error is None
        assert set(response.outputs) == set(names)
        assert all(np.array_equal(response.outputs[name], expected[name]) for name in names)


def test_a_request_that_is_refused_does_not_hurt_the_others(template: Callable[[str], ModuleType], model: Path) -> None:
    instance, image = opened(template, model), many_images(1)[0][None]
    bad = [image[:, :0], image[0], image[..., :2], image.astype(np.float32), np.zeros((1, 400, 400, 3), np.uint8)]
    responses = instance.execute([Request(image), *map(Request, bad), Request(image)])
    assert [response.error is None for response in responses] == [True, *[False] * len(bad), True]
    assert all(str(response.error.args[0]) for response in responses[1:-1])
    assert np.array_equal(responses[0].outputs["class_map"], responses[-1].outputs["class_map"])


def test_weights_outside_the_graph(template: Callable[[str], ModuleType], bundle: Path, tmp_path: Path) -> None:
    """As of networks above 2 GB: both files are served, and both are in the digest."""
    file = tmp_path / "large.onnx"
    loaded = onnx.load(bundle / "model.onnx")
    onnx.save(loaded, file, save_as_external_data=True, location="large.onnx.data", size_threshold=1024)
    graph, metadata = open_graph(file)
    assert len(graph.files) == 2
    inputs, outputs = graph_ports(read_graph(file).graph)
    facts = ServiceFacts.of(graph, metadata, "test")
    options = ModelOptions(backend="python", threads=1)
    done = add_model(tmp_path / "models", "net", TritonArtefact(graph, facts, tuple(inputs), tuple(outputs)), options)
    image = many_images(1)[0][None]
    (response,) = opened(template, done.folder).execute([Request(image)])
    assert np.array_equal(response.outputs["class_map"], OnnxRuntime(bundle, device="cpu").predict(image))
    with (done.folder / "1/large.onnx.data").open("r+b") as weights:
        weights.write(b"x")
    with pytest.raises(ModelError, match="is not the file that was verified"):
        opened(template, done.folder)
