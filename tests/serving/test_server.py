"""The server of this program, through the unchanged clients of Triton and through plain HTTP."""

import gzip
import http.client
import json
import os
import re
import shutil
import signal
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
import tritonclient.grpc
import tritonclient.http
from click.testing import CliRunner
from tritonclient.utils import InferenceServerException

from protoseg_deploy.bundles import Bundle
from protoseg_deploy.bundles.bundle import file_entry
from protoseg_deploy.cli import cli
from protoseg_deploy.errors import UsageError
from protoseg_deploy.runtimes import OnnxRuntime
from protoseg_deploy.serving.artefact import ArtefactSpec
from protoseg_deploy.serving.limits import Limits
from protoseg_deploy.serving.running import Address
from tests.serving import client_suite
from tests.serving.bundles import many_images
from tests.serving.client_suite import PROTOCOLS, Served, ask
from tests.serving.embedded import EmbeddedServer, embedded_server, server_thread

MOST_PIXELS, MOST_IMAGES = 2_000_000, 64


@pytest.fixture(scope="module")
def server(bundle: Path):
    """fp32 and int8 of one bundle, with batches of up to eight."""
    options = ("--max-megapixels", "1", "--max-batch", "8", "--max-queue", "200")
    models = (f"{bundle}@fp32", f"{bundle}@int8")
    with embedded_server(*models, options=("--name", "full", "--name", "small", *options)) as running:
        yield running


def served_by(server: EmbeddedServer, bundle: Path, model: str) -> Served:
    precision = "fp32" if model == "full" else "int8"
    return Served(server.http, server.grpc, model, bundle, precision, model, MOST_PIXELS, MOST_IMAGES)


@pytest.fixture(params=["full", "small"])
def served(request: pytest.FixtureRequest, server: EmbeddedServer, bundle: Path) -> Served:
    return served_by(server, bundle, request.param)


@pytest.mark.parametrize("protocol", PROTOCOLS)
class TestClients:
    """The suite that every server has to pass."""

    def test_no_pixel_differs(self, served, protocol):
        client_suite.check_pixels(served, protocol)

    def test_outputs(self, served, protocol):
        client_suite.check_outputs(served, protocol)

    def test_description(self, served, protocol):
        client_suite.check_description(served, protocol)

    def test_batches(self, served, protocol):
        client_suite.check_batches(served, protocol)

    def test_refusals(self, served, protocol):
        client_suite.check_refusals(served, protocol)

    def test_encoded_images(self, served, protocol):
        client_suite.check_encoded(served, protocol)


def test_random_bodies_are_refused(server: EmbeddedServer, bundle: Path) -> None:
    client_suite.check_random_bodies(served_by(server, bundle, "full"), 300)


def exchange(place: str, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, dict, bytes]:
    connection = http.client.HTTPConnection(place, timeout=60)
    try:
        connection.request(method, path, body, {key.replace("_", "-"): value for key, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def infer_body(image: np.ndarray, outputs: list | None = None) -> bytes:
    tensor = {"name": "images", "datatype": "UINT8", "shape": [1, *image.shape], "data": image.ravel().tolist()}
    return json.dumps({"inputs": [tensor], **({"outputs": outputs} if outputs is not None else {})}).encode()


def test_plain_json_is_enough(server: EmbeddedServer, bundle: Path) -> None:
    image = many_images(1)[0][:20, :30]
    expected = OnnxRuntime(bundle, device="cpu").predict(image[None])
    body = infer_body(image, [{"name": "class_map"}])
    for content, headers in ((body, {}), (gzip.compress(body), {"content_encoding": "gzip"})):
        status, found, answer = exchange(server.http, "POST", "/v2/models/full/infer", content, **headers)
        assert (status, found["content-type"]) == (200, "application/json")
        (output,) = json.loads(answer)["outputs"]
        assert np.array_equal(np.reshape(output["data"], output["shape"]), expected)


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status"),
    [
        ("GET", "/v2/health/live", b"", {}, 200),
        ("GET", "/v2/health/ready", b"", {}, 200),
        ("GET", "/v2/models/full/ready", b"", {}, 200),
        ("GET", "/v2/models/full/versions/1", b"", {}, 200),
        ("GET", "/v2/models/full/versions/2", b"", {}, 404),
        ("GET", "/v2/models/absent", b"", {}, 404),
        ("GET", "/v2/models/../../etc/passwd", b"", {}, 404),
        ("GET", "/absent", b"", {}, 404),
        ("DELETE", "/v2/models/full", b"", {}, 405),
        ("POST", "/v2/repository/index", b"{", {}, 400),
        ("POST", "/v2/models/full/infer", b"\x1f\x8b", {"content_encoding": "gzip"}, 400),
        ("POST", "/v2/models/full/infer", gzip.compress(b"\0" * 10**9, 1), {"content_encoding": "gzip"}, 413),
        ("POST", "/v2/models/full/infer", b"{}", {"content_length": str(10**12)}, 413),
    ],
)
def test_statuses(server: EmbeddedServer, method: str, path: str, body: bytes, headers: dict, status: int) -> None:
    found, headers, answer = exchange(server.http, method, path, body, **headers)
    assert found == status
    if status >= 400:
        assert json.loads(answer)["error"]
        assert b"Traceback" not in answer
        assert str(Path.cwd()).encode() not in answer
    assert "access-control-allow-origin" not in headers


def test_metrics_and_access_log_count_what_was_answered(server: EmbeddedServer) -> None:
    image = many_images(1)[0][:8, :8]
    exchange(server.http, "POST", "/v2/models/full/infer", infer_body(image))
    exchange(server.http, "POST", "/v2/models/full/infer", b"noise")
    exchange(server.http, "POST", "/v2/models/made-up/infer", b"noise")
    status, headers, text = exchange(server.http, "GET", "/metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain")
    samples = dict(line.rsplit(" ", 1) for line in text.decode().splitlines() if not line.startswith("#"))
    assert float(samples['protoseg_requests_total{model="full",protocol="http",status="ok"}']) >= 1
    assert float(samples['protoseg_requests_total{model="full",protocol="http",status="invalid"}']) >= 1
    assert float(samples['protoseg_request_seconds_count{model="full",protocol="http"}']) >= 2
    assert samples['protoseg_queue_requests{model="full",version="1"}'] == "0.0"
    assert any(name.startswith("protoseg_batch_images_bucket") for name in samples)
    assert "made-up" not in text.decode()

    def lines() -> list[dict]:
        return [
            json.loads(line) for line in server.standard_output.read_text().splitlines(keepends=True) if "\n" in line
        ]

    _wait_until(lambda: {"made-up"} <= {line["model"] for line in lines()})
    assert {"ok", "invalid"} <= {line["status"] for line in lines()}
    assert all({"time", "protocol", "client", "model", "ms", "bytes"} <= line.keys() for line in lines())


def test_sixteen_clients_get_the_answers_to_their_own_images(server: EmbeddedServer, bundle: Path) -> None:
    """Of mixed sizes, over both protocols: nothing is lost, nothing swapped."""
    images = many_images(24)
    runtime = OnnxRuntime(bundle, device="cpu", threads=1)
    expected = [runtime.predict(image[None]) for image in images]

    def client_of(number: int) -> int:
        protocol = PROTOCOLS[number % 2]
        right = 0
        with served_by(server, bundle, "full").client(protocol) as client:
            for turn in range(10):
                mine = (7 * number + turn) % len(images)
                found = ask(client, protocol, "full", images[mine][None])["class_map"]
                right += np.array_equal(found, expected[mine])
        return right

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(client_of, range(16))) == 160


def test_memory_goes_back_after_a_large_request(bundle: Path) -> None:
    with embedded_server(bundle, options=("--name", "full")) as server:
        process = psutil.Process(server.process.pid)
        served = Served(server.http, server.grpc, "full", bundle, "fp32", "full", 80_000_000, 64)
        with served.client("http") as client:
            ask(client, "http", "full", many_images(1)[0][None])
            before = process.memory_info().rss
            ask(client, "http", "full", np.zeros((1, 2000, 2500, 3), np.uint8))
            ask(client, "http", "full", many_images(1)[0][None])
            after = process.memory_info().rss
    assert after - before < 200 * 2**20, "such a request needs half a gigabyte while it is computed"


def test_a_token_is_asked_for_everywhere_but_health(bundle: Path) -> None:
    image = many_images(1)[0]
    with server_thread(ArtefactSpec(bundle, "m"), token="secret") as (place, rpc):
        closed = {"/v2": "GET", "/metrics": "GET", "/v2/models/m": "GET", "/v2/models/m/infer": "POST"}
        for path, method in closed.items():
            assert exchange(place, method, path, b"{}")[0] == 401
            assert exchange(place, method, path, b"{}", authorization="Bearer wrong")[0] == 401
            assert exchange(place, method, path, b"{}", authorization="Bearer secret")[0] in (200, 400)
        assert exchange(place, "GET", "/v2/health/ready")[0] == 200
        right = {"authorization": "Bearer secret"}
        for module, address in ((tritonclient.http, place), (tritonclient.grpc, rpc)):
            with module.InferenceServerClient(address) as client:
                assert client.is_server_live()
                tensor = module.InferInput("images", [1, *image.shape], "UINT8")
                tensor.set_data_from_numpy(image[None])
                with pytest.raises(InferenceServerException, match="token"):
                    client.infer("m", [tensor])
                with pytest.raises(InferenceServerException, match="token"):
                    client.get_model_metadata("m")
                assert client.infer("m", [tensor], headers=dict(right)).as_numpy("class_map").shape == (
                    1,
                    *image.shape[:2],
                )
        metrics = exchange(place, "GET", "/metrics", **right)[2].decode()
        assert 'protoseg_requests_total{model="m",protocol="http",status="unauthorized"}' in metrics
        assert 'protoseg_requests_total{model="m",protocol="grpc",status="unauthorized"} 1.0' in metrics


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False), ("gpu-7", False)],
)
def test_addresses_that_others_reach_are_known(host: str, local: bool) -> None:
    assert Address(host, 8000).is_local is local


def test_a_bare_image_is_told_where_it_belongs(server: EmbeddedServer) -> None:
    status, _, answer = exchange(server.http, "POST", "/v2/models/full/infer", b"\xff\xd8\xff\xe0")
    assert status == 400
    assert b"datatype BYTES" in answer


def test_a_queue_that_is_full_says_when_to_come_back(bundle: Path) -> None:
    tensor = _tensor(np.zeros((900, 900, 3), np.uint8))
    body, length = tritonclient.http.InferenceServerClient.generate_request_body([tensor])
    header = {"inference_header_content_length": str(length)}
    with server_thread(ArtefactSpec(bundle, "m", threads=1), limits=Limits(queued_requests=1)) as (place, _):

        def send(_: int) -> tuple[int, dict, bytes]:
            return exchange(place, "POST", "/v2/models/m/infer", body, **header)

        with ThreadPoolExecutor(12) as pool:
            found = list(pool.map(send, range(12)))
        assert {status for status, _, _ in found} == {200, 503}
        assert all("retry-after" in headers for status, headers, _ in found if status == 503)
        assert send(0)[0] == 200


def _tensor(image: np.ndarray) -> tritonclient.http.InferInput:
    tensor = tritonclient.http.InferInput("images", [1, *image.shape], "UINT8")
    tensor.set_data_from_numpy(image[None])
    return tensor


@pytest.mark.skipif(os.name == "nt", reason="SIGTERM cannot be caught on Windows")
def test_requests_under_way_are_answered_when_the_server_is_told_to_stop(bundle: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (1200, 1200, 3), dtype=np.uint8)
    expected = OnnxRuntime(bundle, device="cpu", threads=1).predict(image[None])
    with embedded_server(bundle, options=("--name", "m", "--threads", "1")) as server:
        served = Served(server.http, server.grpc, "m", bundle, "fp32", "m", 80_000_000, 64)
        answers = []

        def client_of(protocol) -> None:
            with suppress(InferenceServerException), served.client(protocol) as client:
                answers.append(ask(client, protocol, "m", image[None])["class_map"])

        threads = [threading.Thread(target=client_of, args=(protocol,)) for protocol in (*PROTOCOLS, *PROTOCOLS)]
        for thread in threads:
            thread.start()
        _wait_until(lambda: _under_way(server) >= 4)
        server.process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        assert server.process.wait(30) == 0
        assert time.monotonic() - began < 10
        for thread in threads:
            thread.join(30)
        assert len(answers) == 4
        assert all(np.array_equal(answer, expected) for answer in answers)


def _under_way(server: EmbeddedServer) -> int:
    """Requests that were answered, wait, or are computed: while one waits, one is computed."""
    answered = _statistics(server)["inference_count"]
    text = exchange(server.http, "GET", "/metrics")[2].decode()
    waiting = int(float(re.search(r'protoseg_queue_requests{model="m",version="1"} (\S+)', text)[1]))
    return answered + waiting + (waiting > 0)


def _statistics(server: EmbeddedServer) -> dict:
    return json.loads(exchange(server.http, "GET", "/v2/models/m/stats")[2])["model_stats"][0]


def _wait_until(what) -> None:
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_bundle_that_is_exchanged_takes_over_without_a_lost_request(bundle: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(bundle, mine)
    before = Bundle.open(bundle).graph("fp32").digest()
    other = tmp_path / "other"
    shutil.copytree(bundle, other)
    _rewrite(other)
    image = many_images(1)[0]
    with server_thread(ArtefactSpec(mine, "mine")) as (place, _):
        stop, failures, versions = threading.Event(), [], set()

        def ask_on() -> None:
            with tritonclient.http.InferenceServerClient(place) as client:
                while not stop.is_set():
                    try:
                        versions.add(client.infer("mine", [_tensor(image)]).get_response()["model_version"])
                    except Exception as error:  # any is a lost request
                        failures.append(error)

        thread = threading.Thread(target=ask_on)
        thread.start()
        try:
            _wait_until(lambda: versions == {"1"})
            # a damaged bundle in its place: the old one stays
            (mine / "manifest.json").write_text("{")
            time.sleep(1.5)
            assert exchange(place, "GET", "/v2/models/mine/versions/1")[0] == 200
            shutil.rmtree(mine)
            other.rename(mine)
            _wait_until(lambda: "2" in versions)
        finally:
            stop.set()
            thread.join(60)
        assert not failures
        metadata = json.loads(exchange(place, "GET", "/v2/models/mine")[2])
        assert metadata["versions"] == ["2"]
        assert metadata["parameters"]["sha256"] == Bundle.open(mine).graph("fp32").digest() != before


def _rewrite(folder: Path) -> None:
    """The same network in an fp32 graph of another digest, with verdicts about that one."""
    model = onnx.load(folder / "model.onnx")
    model.doc_string = "exported once more"
    onnx.save(model, folder / "model.onnx")
    manifest = Bundle.open(folder).manifest
    entry = file_entry(folder / "model.onnx")
    stages = []
    for stage in manifest.verification.stages:
        renewed = {"artefact_sha256": entry.sha256} if stage.artefact == "model.onnx" else {}
        renewed |= {"against_sha256": entry.sha256} if stage.against == "onnx fp32" else {}
        stages.append(stage.model_copy(update=renewed))
    verification = manifest.verification.model_copy(update={"stages": tuple(stages)})
    files = {**manifest.files, "model.onnx": entry}
    Bundle.create(folder, manifest.model_copy(update={"files": files, "verification": verification}))


def test_what_was_not_verified_is_refused_unless_allowed(bundle: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(bundle, mine)
    manifest = Bundle.open(mine).manifest
    Bundle.create(mine, manifest.model_copy(update={"verification": None}))
    with pytest.raises(UsageError, match="was never verified"), server_thread(ArtefactSpec(mine, "mine")):
        pass
    with server_thread(ArtefactSpec(mine, "mine", allow_unverified=True)) as (place, _):
        metadata = json.loads(exchange(place, "GET", "/v2/models/mine")[2])
        assert metadata["parameters"]["verified"] == "not verified"


def test_a_verdict_that_changes_while_the_model_is_served_is_told(bundle: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(bundle, mine)
    manifest = Bundle.open(mine).manifest

    def parameters() -> dict[str, str]:
        return json.loads(exchange(place, "GET", "/v2/models/mine")[2])["parameters"]

    with server_thread(ArtefactSpec(mine, "mine")) as (place, _):
        assert parameters()["verified"] == "passed"
        answered = exchange(place, "POST", "/v2/models/mine/infer", infer_body(many_images(1)[0]))
        assert answered[0] == 200
        Bundle.create(mine, manifest.model_copy(update={"verification": None}))
        _wait_until(lambda: parameters()["verified"] == "not verified")
        assert exchange(place, "POST", "/v2/models/mine/infer", infer_body(many_images(1)[0]))[0] == 200
        shown = [line for line in exchange(place, "GET", "/metrics")[2].decode().splitlines() if "sha256=" in line]
        assert len(shown) == 1
        assert 'verified="not verified"' in shown[0]
        Bundle.create(mine, manifest)
        _wait_until(lambda: parameters()["verified"] == "passed")
        assert json.loads(exchange(place, "GET", "/v2/models/mine")[2])["versions"] == ["1"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["absent"], "there is no absent"),
        (["{bundle}", "{bundle}"], "two models would be called 'colours'"),
        (["{bundle}", "--name", "a/b"], "names are letters"),
        (["{bundle}", "--name", "a", "--name", "b"], "2 names for 1 bundles"),
        (["{bundle}", "--tls-key", "key.pem"], "TLS needs"),
        (["{bundle}", "--token", ""], "is empty"),
        (["{bundle}", "--token", "geheim\n"], "a line break"),
        (["{bundle}", "--token", "schlüssel"], "outside ASCII"),
        (["{bundle}", "--tls-key", "no.pem", "--tls-certificate", "no.pem"], "no.pem"),
        (["{bundle}", "--host", "256.0.0.1"], "--host 256.0.0.1"),
        (["{tmp}"], "not a bundle"),
    ],
)
def test_a_wrong_command_line_is_told(bundle: Path, tmp_path: Path, arguments: list[str], reason: str) -> None:
    filled = [text.format(bundle=bundle, tmp=tmp_path) for text in arguments]
    result = CliRunner().invoke(cli, ["serve", *filled, "--port", "0", "--no-access-log"])
    assert result.exit_code == 2
    assert reason in result.output


def test_a_port_that_is_taken_is_told(bundle: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        result = CliRunner().invoke(cli, ["serve", str(bundle), "--port", str(taken.getsockname()[1])])
    assert result.exit_code == 2
    assert "cannot listen on 127.0.0.1" in result.output


def test_a_client_that_goes_away_in_the_middle_of_a_request_is_forgotten(server: EmbeddedServer, bundle: Path) -> None:
    host, port = server.http.split(":")
    for content in (b"", b"{", infer_body(many_images(1)[0])[:500]):
        with socket.create_connection((host, int(port))) as connection:
            head = b"POST /v2/models/full/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n"
            connection.sendall(head + content)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client_suite.check_alive(served_by(server, bundle, "full"))
