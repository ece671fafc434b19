"""The HTTP form of requests and answers, against what Triton's client library makes and reads, and against noise."""

import gzip
import json
import tracemalloc
import zlib

import numpy as np
import pytest
import tritonclient.http
from hypothesis import given, settings
from hypothesis import strategies as st

from protoseg_deploy.recipe import ImageReading
from protoseg_deploy.serving.http_tensors import MOST_JSON_BYTES, decompressed, read_request, write_response
from protoseg_deploy.serving.images import images_of
from protoseg_deploy.serving.limits import Limits
from protoseg_deploy.serving.requests import InferResponse, OutputTensor, RequestError

Client = tritonclient.http.InferenceServerClient


def request_of(array: np.ndarray, *, binary: bool, outputs=(), datatype: str = "UINT8") -> tuple[bytes, str | None]:
    tensor = tritonclient.http.InferInput("images", list(array.shape), datatype)
    tensor.set_data_from_numpy(array, binary_data=binary)
    wanted = [tritonclient.http.InferRequestedOutput(name, binary_data=as_binary) for name, as_binary in outputs]
    body, length = Client.generate_request_body([tensor], outputs=wanted or None, request_id="seven")
    return (body if isinstance(body, bytes) else body.encode()), None if length is None else str(length)


@pytest.mark.parametrize("binary", [True, False])
def test_requests_of_the_client_library_are_read(binary: bool) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), dtype=np.uint8)
    request, wanted = read_request(*request_of(images, binary=binary, outputs=[("class_map", True), ("logits", False)]))
    assert request.outputs == ("class_map", "logits")
    assert (request.id, wanted) == ("seven", {"class_map"})
    assert np.array_equal(images_of(request.inputs[0], ImageReading(), None, Limits()), images)


def test_answers_are_read_by_the_client_library() -> None:
    class_map = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    logits = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    wide = np.array([[[70_000]]], np.int32)
    outputs = (
        OutputTensor("class_map", "UINT8", class_map.shape, class_map),
        OutputTensor("logits", "FP32", logits.shape, logits),
        OutputTensor("wide", "INT32", wide.shape, wide),
        OutputTensor("png", "BYTES", (2,), (b"one", b"\0two\xff")),
    )
    for binary in (None, frozenset({"class_map", "png"}), frozenset({"logits", "wide", "png"})):
        body, headers = write_response(InferResponse("m", "3", "seven", outputs), binary)
        length = headers.get("inference-header-content-length")
        result = Client.parse_response_body(body, header_length=None if length is None else int(length))
        assert np.array_equal(result.as_numpy("class_map"), class_map)
        assert np.array_equal(result.as_numpy("logits"), logits)
        assert np.array_equal(result.as_numpy("wide"), wide)
        assert result.as_numpy("png").tolist() == [b"one", b"\0two\xff"]
        assert result.get_response()["id"] == "seven"


@given(st.binary(max_size=200), st.none() | st.text(max_size=6) | st.integers(-5, 300).map(str))
@settings(max_examples=100, deadline=None)
def test_noise_is_refused(body: bytes, header_length: str | None) -> None:
    with pytest.raises(RequestError) as refused:
        read_request(body, header_length)
    assert refused.value.kind == "invalid"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
tensors = st.fixed_dictionaries(
    {"name": st.just("images") | json_values, "datatype": st.sampled_from(["UINT8", "BYTES", "FP32"]) | json_values},
    optional={
        "shape": st.lists(st.integers(-1, 5), max_size=5) | json_values,
        "data": st.lists(st.integers(-1, 300) | st.text(max_size=4), max_size=8) | json_values,
        "parameters": st.fixed_dictionaries({"binary_data_size": json_values}) | json_values,
    },
)


@given(tensors, st.binary(max_size=100))
@settings(max_examples=200, deadline=None)
def test_documents_of_the_right_form_are_images_or_refused(tensor: dict, rest: bytes) -> None:
    header = json.dumps({"inputs": [tensor]}).encode()
    try:
        request, _ = read_request(header + rest, str(len(header)))
        images = images_of(request.inputs[0], ImageReading(), None, Limits())
    except RequestError:
        return
    assert (images.dtype, images.ndim, images.shape[3]) == (np.uint8, 4, 3)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"shape": [1, 2, 2, 3], "data": [0] * 11}, "12 whole numbers"),
        ({"shape": [1, 2, 2, 3], "data": [0] * 11 + [256]}, "outside 0 to 255"),
        ({"shape": [1, 2, 2, 3], "data": [0.5] * 12}, "12 whole numbers"),
        ({"shape": [1, 2, 2, 3], "data": [True] + [0] * 11}, "12 whole numbers"),
        ({"shape": [1, 2, 2, 3], "data": [[0] * 5, [0] * 7]}, "12 whole numbers"),
        ({"shape": [1, 2, 2, 3], "data": [2**70] + [0] * 11}, "outside 0 to 255"),
        ({"shape": [1, 2, 2, 4], "data": [0] * 16}, r"\[N,H,W,3\]"),
        ({"shape": [0, 2, 2, 3], "data": []}, "at least 1"),
        ({"shape": [2**31, 2, 2, 3], "data": []}, "inputs.0.shape"),
        ({"shape": [65, 1, 1, 3], "data": [0] * 195}, "at most 64"),
        ({"shape": [1, 9000, 9000, 3], "data": [0]}, "at most 40,000,000 pixels"),
        ({"shape": [1, 2, 2, 3], "parameters": {"binary_data_size": 12}}, "beyond the body"),
        ({"shape": [1, 2, 2, 3]}, "neither data nor"),
        ({"shape": [1], "datatype": "BYTES", "data": ["not base64!"]}, "base64"),
        ({"shape": [1], "datatype": "BYTES", "data": ["AAAA"]}, "image 0: not an image"),
        ({"shape": [1], "datatype": "FP32", "data": [1.0]}, "not FP32"),
        ({"shape": [1], "parameters": {"shared_memory_region": "x"}, "data": [1]}, "not supported"),
        ({"name": "pictures", "shape": [1], "data": [1]}, "no input 'pictures'"),
    ],
)
def test_a_refusal_says_what_is_wrong(changes: dict, reason: str) -> None:
    body = json.dumps({"inputs": [{"name": "images", "datatype": "UINT8"} | changes]}).encode()
    with pytest.raises(RequestError, match=reason):
        images_of(read_request(body, None)[0].inputs[0], ImageReading(), None, Limits())


def test_a_long_text_among_short_ones_takes_no_more_memory_than_they_do() -> None:
    """NumPy would make 10,000 texts of 200,000 signs each of it."""
    data = ["x" * 200_000] + [""] * 9_999
    body = json.dumps({"inputs": [{"name": "images", "datatype": "UINT8", "shape": [1, 50, 50, 3], "data": data}]})
    request, _ = read_request(body.encode(), None)
    tracemalloc.start()
    try:
        with pytest.raises(RequestError, match="whole numbers"):
            images_of(request.inputs[0], ImageReading(), None, Limits())
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_numbers_may_be_nested_as_the_axes_are(depth: int) -> None:
    image = np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3)
    data = image.reshape((-1, *image.shape[5 - depth :])).tolist()
    tensor = {"name": "images", "datatype": "UINT8", "shape": list(image.shape), "data": data}
    request, _ = read_request(json.dumps({"inputs": [tensor]}).encode(), None)
    assert np.array_equal(images_of(request.inputs[0], ImageReading(), None, Limits()), image)


def test_nesting_without_an_end_is_refused() -> None:
    deep = b'{"inputs": [{"name": "images", "datatype": "UINT8", "shape": [1], "data": ' + b"[" * 100_000
    with pytest.raises(RequestError):
        read_request(deep, None)


@pytest.mark.parametrize(("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_compressed_bodies(encoding: str, compress) -> None:
    body = b"a" * 1000
    assert decompressed(compress(body), encoding, 1000) == body
    for most, content, reason in [
        (999, compress(body), "more than 999 bytes"),
        (1000, compress(b"\0" * 10**8), "more than 1,000 bytes"),
        (1000, compress(body)[:-4], "cut off"),
        (1000, compress(body) + b"x", "follows"),
        (1000, b"noise", "damaged"),
    ]:
        with pytest.raises(RequestError, match=reason):
            decompressed(content, encoding, most)
    with pytest.raises(RequestError, match="Content-Encoding"):
        decompressed(body, "br", 1000)


def test_json_is_limited_more_than_binary_data() -> None:
    with pytest.raises(RequestError, match="binary data") as refused:
        read_request(b" " * (MOST_JSON_BYTES + 1), None)
    assert refused.value.kind == "too large"
