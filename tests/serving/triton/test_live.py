"""A repository that changes while a real tritonserver runs, and what it does not start with."""

from pathlib import Path

import numpy as np
import pytest
import tritonclient.http

from protoseg_deploy.bundles.service import ServiceFacts
from protoseg_deploy.choices import Precision
from protoseg_deploy.runtimes import OnnxRuntime, open_runtime
from tests.serving.bundles import many_images
from tests.serving.triton.server import ServerFailedError, is_ready, triton_server
from tests.serving.triton.writing import added

WORDS = ("--name", "net", "--backend", "python", "--threads", "1", "--warmup-size", "64", "--cache")


def facts_of(client: "tritonclient.http.InferenceServerClient", version: int | None = None) -> ServiceFacts:
    parameters = client.get_model_config("net")["parameters"]
    key = "protoseg" if version is None else f"protoseg.{version}"
    return ServiceFacts.from_parameters({"protoseg": parameters[key]["string_value"]}, "net")


def test_a_new_version_beside_the_old_one(has_triton: None, bundle: Path, tmp_path: Path) -> None:
    models, image = tmp_path / "models", many_images(2)[1][None]
    precisions: tuple[Precision, ...] = ("fp32", "int8")
    expected = {str(n): OnnxRuntime(bundle, threads=1, precision=p).predict(image) for n, p in enumerate(precisions, 1)}
    assert not np.array_equal(expected["1"], expected["2"])
    tensor = tritonclient.http.InferInput("images", list(image.shape), "UINT8")
    tensor.set_data_from_numpy(image)
    options = ("--model-control-mode=explicit", "--load-model=net", "--cache-config=local,size=10000000")
    added(bundle, "--out", models, *WORDS)
    with (
        triton_server(models, tmp_path / "log.txt", options) as address,
        tritonclient.http.InferenceServerClient(address.http) as client,
    ):
        assert np.array_equal(client.infer("net", [tensor]).as_numpy("class_map"), expected["1"])
        added(f"{bundle}@int8", "--out", models, *WORDS)
        client.load_model("net")
        answer = client.infer("net", [tensor])
        assert answer.get_response()["model_version"] == "2"
        assert np.array_equal(answer.as_numpy("class_map"), expected["2"])
        for version, class_map in expected.items():
            found = client.infer("net", [tensor], model_version=version).as_numpy("class_map")
            assert np.array_equal(found, class_map)
        assert facts_of(client) == facts_of(client, 2)
        for place, version in (("net", 2), ("net/versions/1", 1), ("net/versions/2", 2)):
            for scheme, host in (("http", address.http), ("grpc", address.grpc)):
                remote = open_runtime(f"{scheme}://{host}/{place}")
                assert remote.info.sha256 == facts_of(client, version).sha256
                assert np.array_equal(remote.predict(image), expected[str(version)])
        assert facts_of(client, 1).metadata.precision == "fp32"
        assert facts_of(client, 2).metadata.precision == "int8"
        statistics = client.get_inference_statistics("net", "2")["model_stats"][0]["inference_stats"]
        assert int(statistics["cache_hit"]["count"]) >= 1


def test_a_file_that_was_not_verified_is_not_served(has_triton: None, bundle: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    added(bundle, "--out", models, *WORDS)
    with (models / "net/1/model.onnx").open("ab") as file:
        file.write(b"\0")
    log = tmp_path / "log.txt"
    with pytest.raises(ServerFailedError), triton_server(models, log):
        pass
    assert "net, version 1: " in log.read_text()
    assert "is not the file that was verified" in log.read_text()


def test_the_server_ends_with_its_block(has_triton: None, bundle: Path, tmp_path: Path) -> None:
    added(bundle, "--out", tmp_path / "models", *WORDS)
    with triton_server(tmp_path / "models", tmp_path / "log.txt") as address:
        assert is_ready(address.http)
    assert not is_ready(address.http)
    assert not Path(f"/proc/{address.pid}").exists()
