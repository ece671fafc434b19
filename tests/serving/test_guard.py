"""Who is let in, and how much at a time."""

import socket
import time
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc

from protoseg_deploy.serving import connections
from protoseg_deploy.serving.artefact import ArtefactSpec
from protoseg_deploy.serving.guard import Guard
from protoseg_deploy.serving.limits import Limits
from protoseg_deploy.serving.requests import RequestError
from tests.serving.embedded import server_thread
from tests.serving.small_bundles import write_bundle
from tests.serving.test_server import exchange, infer_body

IMAGE = np.full((4, 5, 3), 130, np.uint8)
HEAD = b"POST /v2/models/small/infer HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "small")


def test_what_is_under_way_is_limited_and_let_go() -> None:
    guard = Guard("", Limits(pending_bytes=100))
    with guard.admission() as first:
        first.add(60)
        with guard.admission() as second:
            second.add(40)
            with pytest.raises(RequestError) as refused:
                second.add(1)
        assert refused.value.kind == "busy"
        assert guard.held_bytes == 60
    assert guard.held_bytes == 0
    with guard.admission() as alone:  # its own limit is another one
        alone.add(1000)


def test_bodies_that_come_together_are_refused_before_they_fill_the_memory(small: Path) -> None:
    body = infer_body(IMAGE)
    with server_thread(ArtefactSpec(small, "small"), limits=Limits(pending_bytes=3000)) as (place, rpc):
        host, port = place.split(":")
        with socket.create_connection((host, int(port))) as slow:
            slow.sendall(HEAD % 5000 + bytes(2990))
            deadline = time.monotonic() + 60
            while (answer := exchange(place, "POST", "/v2/models/small/infer", body))[0] == 200:
                assert time.monotonic() < deadline
            assert answer[0] == 503
            assert answer[1]["retry-after"] == "1"
            tensor = tritonclient.grpc.InferInput("images", [1, *IMAGE.shape], "UINT8")
            tensor.set_data_from_numpy(IMAGE[None])
            refused = pytest.raises(tritonclient.grpc.InferenceServerException, match="under way already")
            with tritonclient.grpc.InferenceServerClient(rpc) as client, refused:
                client.infer("small", [tensor])
        while exchange(place, "POST", "/v2/models/small/infer", body)[0] != 200:
            assert time.monotonic() < deadline


@pytest.mark.parametrize("sent", [b"", b"POST /v2/models/small/infer HTTP/1.1\r\nhost: x\r\n"])
@pytest.mark.parametrize("after_an_answer", [False, True])
def test_headers_that_do_not_come_are_given_up(small: Path, monkeypatch, sent: bytes, after_an_answer: bool) -> None:
    monkeypatch.setattr(connections, "HEADER_SECONDS", 0.3)
    with server_thread(ArtefactSpec(small, "small")) as (place, _):
        host, port = place.split(":")
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            if after_an_answer:
                connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n")
                assert connection.recv(65536).startswith(b"HTTP/1.1 200")
                sent = sent or b"GET"
            connection.sendall(sent)
            assert connection.recv(1) == b""


def test_requests_longer_than_headers_may_take_are_answered(small: Path, monkeypatch) -> None:
    monkeypatch.setattr(connections, "HEADER_SECONDS", 0.2)
    body = infer_body(IMAGE)
    with server_thread(ArtefactSpec(small, "small")) as (place, _):
        host, port = place.split(":")
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            connection.sendall(HEAD % len(body) + body[:10])
            time.sleep(0.5)
            connection.sendall(body[10:])
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")


def test_a_connection_that_is_in_use_is_kept(small: Path, monkeypatch) -> None:
    """Also between its requests, however long it has been there."""
    monkeypatch.setattr(connections, "HEADER_SECONDS", 0.2)
    with server_thread(ArtefactSpec(small, "small")) as (place, _):
        client = HTTPConnection(place, timeout=60)
        client.connect()
        client.auto_open = False  # a connection that was closed is an error
        for _ in range(3):
            client.request("GET", "/v2/health/live")
            answer = client.getresponse()
            assert (answer.status, answer.read()) == (200, b"")
            time.sleep(0.4)
        client.close()


def test_a_client_that_would_rather_speak_http_2_is_answered_in_http_1(small: Path) -> None:
    headers = {"connection": "Upgrade, HTTP2-Settings", "upgrade": "h2c", "http2-settings": "AAEAAEAAAAIAAAABAAMAAABk"}
    with server_thread(ArtefactSpec(small, "small")) as (place, _):
        client = HTTPConnection(place, timeout=60)
        for _ in range(2):
            client.request("POST", "/v2/models/small/infer", infer_body(IMAGE), headers)
            answer = client.getresponse()
            assert answer.status == 200
            answer.read()
        client.close()
