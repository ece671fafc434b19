"""Clients, files and pipes that would hold the server up, take it down, or make it lose a request."""

import asyncio
import json
import logging
import os
import shutil
import socket
import threading
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc
from PIL import Image

from protoseg_deploy.serving import model as model_module
from protoseg_deploy.serving.access_log import AccessLog
from protoseg_deploy.serving.artefact import ArtefactSpec, open_artefact
from protoseg_deploy.serving.batching import Batching
from protoseg_deploy.serving.catalog import Catalog
from protoseg_deploy.serving.limits import Limits
from protoseg_deploy.serving.metrics import Metrics
from protoseg_deploy.serving.model import Model
from protoseg_deploy.serving.requests import InferRequest, InputTensor
from tests.serving.embedded import embedded_server, server_thread
from tests.serving.small_bundles import classes_of, write_bundle
from tests.serving.test_server import exchange, infer_body

IMAGE = np.full((4, 5, 3), 130, np.uint8)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "small")


def raw_exchange(place: str, request: bytes) -> bytes:
    """What comes until the server closes the connection."""
    host, port = place.split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(request)
        answer = b""
        while part := connection.recv(65536):
            answer += part
        return answer


def test_a_request_that_is_being_decoded_is_answered_by_the_model_that_is_unloaded(small: Path, monkeypatch) -> None:
    decoding, unloading = threading.Event(), threading.Event()
    images_of = model_module.images_of

    def slow(*arguments):
        decoding.set()
        assert unloading.wait(60)
        return images_of(*arguments)

    monkeypatch.setattr(model_module, "images_of", slow)
    file = BytesIO()
    Image.fromarray(IMAGE).save(file, "PNG")
    content = len(file.getvalue()).to_bytes(4, "little") + file.getvalue()

    async def scenario():
        model = Model(open_artefact(ArtefactSpec(small, "small")), 1, Limits(), Batching(1, 0.0, None), Metrics())
        asked = asyncio.create_task(model.infer(InferRequest((InputTensor("images", "BYTES", (1,), content),))))
        await asyncio.to_thread(decoding.wait, 60)
        closing = asyncio.create_task(model.close())
        for _ in range(10):
            await asyncio.sleep(0)
        unloading.set()
        await closing
        return await asked

    class_map = asyncio.run(scenario()).outputs[0].values
    assert np.array_equal(class_map, classes_of(IMAGE)[None])


def test_a_body_that_does_not_come_is_given_up(small: Path) -> None:
    with server_thread(ArtefactSpec(small, "small"), limits=Limits(request_seconds=0.5)) as (place, _):
        answer = raw_exchange(
            place, b"POST /v2/models/small/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\nabc"
        )
        assert answer.startswith(b"HTTP/1.1 504")
        assert b"has not come within 0.5 s" in answer
        assert b"\r\nconnection: close\r\n" in answer


def test_zeros_before_a_length_are_no_error_of_the_server(small: Path) -> None:
    body = infer_body(IMAGE)
    head = b"POST /v2/models/small/infer HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: "
    with server_thread(ArtefactSpec(small, "small")) as (place, _):
        assert raw_exchange(place, head + b"%05000d\r\n\r\n" % len(body) + body).startswith(b"HTTP/1.1 200")
        assert raw_exchange(place, head + b"0" * 5000 + b"999999999\r\n\r\n").startswith(b"HTTP/1.1 413")


def test_a_client_that_goes_leaves_no_stack_trace(small: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), server_thread(ArtefactSpec(small, "small")) as (place, _):
        host, port = place.split(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(b"POST /v2/models/small/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\nabc")
        name = 'protoseg_requests_total{model="small",protocol="http",status="invalid"} 1.0'
        while name not in exchange(place, "GET", "/metrics")[2].decode():
            pass
    assert not [record for record in caplog.records if record.exc_info]


def test_a_call_that_is_cancelled_is_no_error_of_the_server(small: Path, monkeypatch) -> None:
    decoding, gone = threading.Event(), threading.Event()

    def slow(*_):
        decoding.set()
        gone.wait(60)
        raise AssertionError("nobody waits for it")

    monkeypatch.setattr(model_module, "images_of", slow)
    with server_thread(ArtefactSpec(small, "small")) as (place, rpc):
        tensor = tritonclient.grpc.InferInput("images", [1], "BYTES")
        tensor.set_data_from_numpy(np.array([b"x"], dtype=object))
        with tritonclient.grpc.InferenceServerClient(rpc) as client:
            call = client.async_infer("small", [tensor], callback=lambda *_: None)
            assert decoding.wait(60)
            call.cancel()
            counted = 'protoseg_requests_total{model="small",protocol="grpc",status='
            while counted not in (text := exchange(place, "GET", "/metrics")[2].decode()):
                pass
            gone.set()
    assert counted + '"invalid"} 1.0' in text


def test_a_pipe_that_nobody_reads_does_not_hold_the_server_up(small: Path) -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream, os.fdopen(reading, "rb") as reader:
        log = AccessLog(stream, Catalog([ArtefactSpec(small, "small")], Limits(), Metrics()))

        def answer() -> None:
            for number in range(12_000):
                log.add("http", "small", str(number), 0.0, 0, None, None, "")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        thread.join(60)
        assert not thread.is_alive()
        assert json.loads(reader.readline())["id"] == "0"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has it")
def test_a_full_disk_is_told_and_does_not_change_the_exit_code(small: Path) -> None:
    with embedded_server(small, options=["--access-log", "/dev/full"]) as server:
        for _ in range(3):
            assert exchange(server.http, "POST", "/v2/models/small/infer", infer_body(IMAGE))[0] == 200
        assert server.stop() == 0
        assert server.standard_error.read_text().count("lines of the access log are left out") == 1


def test_a_bundle_that_is_copied_manifest_first_is_taken_once_it_is_whole(small: Path, tmp_path: Path) -> None:
    other = write_bundle(tmp_path / "other", quarter=52)
    with server_thread(ArtefactSpec(small, "small")) as (place, _), Logged("version 1 stays") as stays:
        shutil.copy(other / "manifest.json", small / "manifest.json")
        assert stays.seen.wait(60)
        shutil.copy(other / "model.onnx", small / "model.onnx")
        while json.loads(exchange(place, "GET", "/v2/models/small")[2])["versions"] != ["2"]:
            pass


class Logged(logging.Handler):
    """Waits for a record of the catalog with a text in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.seen = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if self.text in record.getMessage():
            self.seen.set()

    def __enter__(self) -> "Logged":
        logging.getLogger("protoseg_deploy.serving.catalog").addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("protoseg_deploy.serving.catalog").removeHandler(self)
