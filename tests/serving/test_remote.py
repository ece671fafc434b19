"""A model on a server as a runtime: the same results as the file, and what happens when servers fail."""

import http.client
import http.server
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from protoseg_deploy.bundles import Bundle
from protoseg_deploy.cli import cli
from protoseg_deploy.errors import ProtosegError, UsageError
from protoseg_deploy.runtimes import OnnxRuntime, open_runtime
from protoseg_deploy.runtimes.remote import RemoteRuntime
from protoseg_deploy.runtimes.server_connections import ServerError
from protoseg_deploy.server_address import is_address, parse_address
from protoseg_deploy.serving.artefact import ArtefactSpec
from tests.serving.bundles import many_images
from tests.serving.embedded import server_thread
from tests.serving.small_bundles import classes_of, write_bundle


@pytest.fixture(scope="module")
def urls(bundle: Path) -> Iterator[dict[str, str]]:
    """Addresses of the int8 graph by protocol."""
    with server_thread(ArtefactSpec(bundle, "mine", precision="int8")) as (http_place, grpc_place):
        yield {"http": f"http://{http_place}/mine", "grpc": f"grpc://{grpc_place}/mine"}


@pytest.fixture(params=["http", "grpc"])
def url(request: pytest.FixtureRequest, urls: dict[str, str]) -> str:
    return urls[request.param]


@pytest.fixture
def folder(bundle: Path) -> Path:
    """With ``images`` and ``masks``."""
    return bundle.parent


def run(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(cli, list(map(str, words)))
    return result.exit_code, result.output


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://host/m", "http://host:8000/m"),
        ("grpc://host/m", "grpc://host:8001/m"),
        ("https://host/m", "https://host:443/m"),
        ("triton+grpcs://host:9/m", "grpcs://host:9/m"),
        ("HTTP://10.0.0.1:80/v2/models/m/versions/3", "http://10.0.0.1:80/m/versions/3"),
        ("http://[::1]:8000/m/", "http://[::1]:8000/m"),
    ],
)
def test_addresses(text: str, expected: str) -> None:
    assert is_address(text)
    assert str(parse_address(text)) == expected == str(parse_address(expected))


@pytest.mark.parametrize(
    "text",
    ["http://host", "http://host/a/b", "http:///m", "http://host:port/m", "http://host:99999/m", "http://h/m?x=1"],
)
def test_what_is_no_address_is_told(text: str) -> None:
    with pytest.raises(UsageError, match="http") as told:
        parse_address(text)
    assert "http://HOST:PORT/MODEL" in told.value.hint


def test_paths_are_no_addresses() -> None:
    assert not any(map(is_address, ["bundles/mine", "C:\\x", "s3://bucket/x", "file:///x", "a@int8", ""]))


def test_it_is_the_file_seen_from_afar(url: str, bundle: Path) -> None:
    remote, local = open_runtime(url), OnnxRuntime(bundle, device="cpu", precision="int8")
    for image in many_images(6):
        np.testing.assert_array_equal(remote.predict(image[None]), local.predict(image[None]))
    for name in ("classes", "ignore_index", "precision", "reading", "masks", "fixed_size", "verified", "parameters"):
        assert getattr(remote.info, name) == getattr(local.info, name), name
    assert remote.info.sha256 == Bundle.open(bundle).graph("int8").digest()
    assert remote.info.path == url
    before = remote.server_times()
    timed = remote.predict_timed(many_images(1)[0][None])
    assert timed.class_map.shape == (1, 96, 128)
    told = remote.server_times().since(before)
    assert told.requests == 1
    assert told.compute_ns > 0
    assert told.queue_ns + told.compute_ns <= timed.arrays_ns


def test_evaluate_gives_the_same_to_the_last_digit(url: str, bundle: Path, folder: Path) -> None:
    options = ("--images", folder / "images", "--masks", folder / "masks", "--json")
    documents = [run("evaluate", runtime, *options) for runtime in (url, f"{bundle}@int8")]
    assert [code for code, _ in documents] == [0, 0]
    there, here = (json.loads(text) for _, text in documents)
    for key in ("miou_percent", "accuracy_percent", "iou_percent", "truth_pixels", "images"):
        assert there[key] == here[key], key
    assert there["runtime"] == url


def test_predict_writes_the_same_pictures(url: str, bundle: Path, folder: Path, tmp_path: Path) -> None:
    for runtime, name in ((url, "there"), (f"{bundle}@int8", "here")):
        code, text = run("predict", runtime, folder / "images", "--out", tmp_path / name)
        assert code == 0, text
    files = sorted(path.relative_to(tmp_path / "here") for path in (tmp_path / "here").rglob("*.png"))
    assert len(files) == 12
    for file in files:
        pictures = [np.asarray(Image.open(tmp_path / name / file)) for name in ("there", "here")]
        np.testing.assert_array_equal(*pictures)
    code, text = run("predict", url, folder / "images", "--out", tmp_path / "there", "--skip-existing")
    assert code == 0
    assert "4 images" in text
    assert "already predicted" in text


def test_verify_against_a_server(url: str, bundle: Path, folder: Path) -> None:
    options = ("--images", folder / "images", "--masks", folder / "masks", "--against", url)
    code, text = run("verify", bundle, *options)
    assert code == 0, text
    assert "4 images: 0 differing pixels" in text
    document = json.loads(run("verify", bundle, *options, "--json")[1])
    assert document["differing_pixels"] == 0
    assert document["miou_server_percent"] == document["miou_bundle_percent"] > 0
    assert document["sha256"] == Bundle.open(bundle).graph("int8").digest()


def test_verify_finds_a_server_that_answers_something_else(urls, bundle, folder, monkeypatch) -> None:
    honest = RemoteRuntime.predict

    def off_by_one_pixel(self, images):
        class_maps = honest(self, images).copy()
        class_maps[0, 0, 0] = (class_maps[0, 0, 0] + 1) % 3
        return class_maps

    monkeypatch.setattr(RemoteRuntime, "predict", off_by_one_pixel)
    code, text = run("verify", bundle, "--images", folder / "images", "--against", urls["http"])
    assert code == 1
    assert "4 pixels differ in 4 of 4 images" in text


def test_verify_finds_a_server_with_another_artefact(urls, bundle, folder, tmp_path) -> None:
    shutil.copytree(bundle, tmp_path / "other")
    manifest = Bundle.open(bundle).manifest
    graphs = {name: info for name, info in manifest.graphs.items() if name != "int8"}
    Bundle.create(tmp_path / "other", manifest.model_copy(update={"graphs": graphs, "verification": None}))
    code, text = run("verify", tmp_path / "other", "--images", folder / "images", "--against", urls["http"])
    assert code == 1
    assert "does not serve" in text


@pytest.mark.parametrize("protocol", ["http", "grpc"])
@pytest.mark.parametrize("between", [1, 0])
def test_results_are_of_one_artefact(protocol: str, between: int, tmp_path: Path) -> None:
    """A bundle that is exchanged while its server is asked, after some answers and before the first one."""
    folder, image = write_bundle(tmp_path / "mine"), many_images(1)[0][None]
    write_bundle(tmp_path / "next", quarter=128)
    with server_thread(ArtefactSpec(folder, "mine")) as (http_place, grpc_place):
        address = f"{protocol}://{http_place if protocol == 'http' else grpc_place}/mine"
        remote = open_runtime(address)
        for _ in range(between):
            np.testing.assert_array_equal(remote.predict(image)[0], classes_of(image[0]))
        first, exchanged = remote.info.sha256, time.monotonic()
        for name in ("model.onnx", "manifest.json"):
            (tmp_path / "next" / name).replace(folder / name)
        while open_runtime(address).info.sha256 == first:
            assert time.monotonic() < exchanged + 60
            time.sleep(0.1)
        for _ in range(2):
            with pytest.raises(ServerError, match="another artefact answers now") as caught:
                remote.predict(image)
        assert "exchanged on the server" in caught.value.hint


def test_bench_measures_requests(urls: dict[str, str]) -> None:
    code, text = run("bench", urls["http"], "--size", "32x40", "--runs", "3", "--json")
    assert code == 0, text
    assert json.loads(text[text.index("{") :])["kind"] == "server"


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_nobody_there(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("protoseg_deploy.runtimes.remote.time.sleep", lambda _: None)
    code, text = run("evaluate", f"{scheme}://127.0.0.1:9/m", "--images", "x", "--masks", "y")
    assert code == 1
    assert f"{scheme}://127.0.0.1:9/m: " in text
    assert "refused" in text.lower()
    assert "Is the server running" in text


def test_a_model_that_is_not_there(urls: dict[str, str]) -> None:
    for address in urls.values():
        with pytest.raises(ServerError, match="there is no model 'absent'"):
            open_runtime(address.replace("/mine", "/absent"))


@pytest.mark.parametrize("options", [{"backend": "openvino"}, {"precision": "fp32"}])
def test_what_the_server_has_decided_cannot_be_asked_for(urls: dict[str, str], options: dict) -> None:
    with pytest.raises(UsageError):
        open_runtime(urls["http"], **options)
    assert open_runtime(urls["http"], precision="int8").info.precision == "int8"


class _Flaky(http.server.BaseHTTPRequestHandler):
    """Stands before a server: fails as often as it is told to, then passes requests on."""

    protocol_version = "HTTP/1.1"
    behind = ""
    failures: list[int]

    def do_GET(self) -> None:
        self.pass_on()

    def do_POST(self) -> None:
        self.pass_on()

    def pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        status = type(self).failures.pop() if type(self).failures else 0
        if status == -1:  # without an answer
            self.close_connection = True
        elif status:
            self._answer(status, b'{"error": "not now"}', {})
        else:
            connection = http.client.HTTPConnection(self.behind)
            connection.request(self.command, self.path, body, dict(self.headers))
            answer = connection.getresponse()
            self._answer(answer.status, answer.read(), dict(answer.getheaders()))

    def _answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            if key.lower() not in ("content-length", "date", "transfer-encoding"):
                self.send_header(key, value)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def flaky(urls: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[type[_Flaky], str]]:
    """A server in front of another, and its address."""
    monkeypatch.setattr("protoseg_deploy.runtimes.remote.time.sleep", lambda _: None)
    handler = type("Handler", (_Flaky,), {"behind": urls["http"].split("/")[2], "failures": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield handler, f"http://127.0.0.1:{server.server_address[1]}/mine"
        server.shutdown()
        thread.join()


def test_what_passes_is_tried_again(flaky, bundle: Path) -> None:
    handler, address = flaky
    image = many_images(1)[0][None]
    handler.failures.extend([503, -1])
    remote = open_runtime(address)
    assert not handler.failures
    handler.failures.extend([503, 502, -1, 503])
    expected = OnnxRuntime(bundle, device="cpu", precision="int8").predict(image)
    np.testing.assert_array_equal(remote.predict(image), expected)
    assert not handler.failures


def test_what_does_not_pass_is_told_with_the_server_s_words(flaky) -> None:
    handler, address = flaky
    remote = open_runtime(address)
    image = many_images(1)[0][None]
    handler.failures.extend([400])
    with pytest.raises(ServerError, match="not now"):
        remote.predict(image)
    handler.failures.extend([503] * 20)
    with pytest.raises(ServerError, match="not now"):
        remote.predict(image)
    assert 0 < len(handler.failures) < 19, "a few tries, and not without an end"
    handler.failures.clear()


@pytest.mark.parametrize("content", [b"<html>", b"[]", b"null", b"", b"\xff", b'{"parameters": [1]}', b"[" * 100_000])
def test_an_answer_that_is_no_configuration_is_told(flaky, content: bytes) -> None:
    handler, address = flaky
    handler.pass_on = lambda self: self._answer(200, content, {})
    with pytest.raises(ServerError, match="not of the Open Inference Protocol"):
        open_runtime(address)


@pytest.mark.parametrize(
    ("output", "length"),
    [
        ({}, None),
        ({"parameters": {"binary_data_size": "x"}}, None),
        ({"data": ["x"] * 16}, None),
        ({"data": [0] * 15}, None),
        ({"data": [0] * 16, "shape": "x"}, None),
        ({"data": [0] * 16}, "x"),
    ],
)
def test_an_answer_that_is_no_class_map_is_told(flaky, output: dict, length: str | None) -> None:
    handler, address = flaky
    remote = open_runtime(address)
    answer = {"outputs": [{"name": "class_map", "datatype": "UINT8", "shape": [1, 4, 4]} | output]}
    headers = {} if length is None else {"Inference-Header-Content-Length": length}
    handler.pass_on = lambda self: self._answer(200, json.dumps(answer).encode(), headers)
    with pytest.raises(ServerError, match="not of the Open Inference Protocol"):
        remote.predict(np.zeros((1, 4, 4, 3), np.uint8))


def test_a_server_of_something_else_is_told(flaky) -> None:
    handler, address = flaky
    handler.pass_on = lambda self: self._answer(200, b'{"name": "mine", "parameters": {}}', {})
    with pytest.raises(ProtosegError, match="does not say which classes"):
        open_runtime(address)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
@pytest.mark.parametrize("scheme", ["https", "grpcs"])
def test_tls(bundle: Path, certificate: tuple[Path, Path], scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    image = many_images(1)[0][None]
    monkeypatch.setattr("protoseg_deploy.runtimes.remote.time.sleep", lambda _: None)
    with server_thread(ArtefactSpec(bundle, "mine"), tls=certificate) as places:
        port = places[scheme == "grpcs"].rpartition(":")[2]
        with pytest.raises(ServerError):  # a certificate that nobody knows
            open_runtime(f"{scheme}://localhost:{port}/mine")
        if scheme == "https":
            with pytest.raises(ServerError, match="A server with TLS has https://"):
                open_runtime(f"http://localhost:{port}/mine")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
        remote = open_runtime(f"{scheme}://localhost:{port}/mine")
        np.testing.assert_array_equal(remote.predict(image), OnnxRuntime(bundle, device="cpu").predict(image))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Certificate and key for localhost."""
    folder = tmp_path_factory.mktemp("tls")
    made = (folder / "cert.pem", folder / "key.pem")
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", *subject]
    subprocess.run([*command, "-out", str(made[0]), "-keyout", str(made[1])], check=True, capture_output=True)
    return made


def test_a_key_with_a_pass_phrase_is_refused_and_nobody_is_asked_for_it(bundle, certificate, tmp_path) -> None:
    key = tmp_path / "key.pem"
    command = ["openssl", "rsa", "-aes256", "-passout", "pass:abcd", "-in", str(certificate[1]), "-out", str(key)]
    subprocess.run(command, check=True, capture_output=True)
    command = [sys.executable, "-m", "protoseg_deploy", "serve", str(bundle), "--port", "0"]
    command += ["--tls-certificate", str(certificate[0]), "--tls-key", str(key)]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert ended.returncode == 2
    assert "without a pass phrase" in ended.stderr
    assert "Enter PEM" not in ended.stdout + ended.stderr
