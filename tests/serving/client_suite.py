"""What every server of a bundle has to do, asked through the unchanged clients of Triton, over HTTP and gRPC.

The functions take a `Served`, whichever server it is; fixtures start the servers.
"""

import functools
import http.client
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import tritonclient.grpc
import tritonclient.http
from numpy.typing import NDArray
from PIL import Image
from tritonclient.utils import InferenceServerException

from protoseg_deploy.bundles.finding import open_graph
from protoseg_deploy.bundles.service import ServiceFacts
from protoseg_deploy.choices import Precision
from protoseg_deploy.data.images import decode_image
from protoseg_deploy.runtimes import OnnxRuntime
from tests.serving.bundles import many_images
from tests.serving.random_bodies import random_body

Protocol = Literal["http", "grpc"]
PROTOCOLS: tuple[Protocol, ...] = ("http", "grpc")
CLIENTS: dict[Protocol, ModuleType] = {"http": tritonclient.http, "grpc": tritonclient.grpc}


@dataclass(frozen=True)
class Served:
    """A model of a running server, and what it has to answer like."""

    http: str
    """``host:port``"""
    grpc: str
    model: str
    bundle: Path
    precision: Precision
    encoded: str
    """Model that takes encoded images as ``BYTES [N]``; may be `model` itself."""
    most_pixels: int
    """Of a request."""
    most_images: int
    """Of a request."""

    def client(self, protocol: Protocol) -> Any:
        """A client; closed by ``with``."""
        return CLIENTS[protocol].InferenceServerClient(self.http if protocol == "http" else self.grpc)

    def runtime(self) -> OnnxRuntime:
        """The bundle on this machine."""
        return OnnxRuntime(self.bundle, device="cpu", threads=1, precision=self.precision)


def ask(
    client: Any,
    protocol: Protocol,
    model: str,
    array: NDArray[Any],
    outputs: tuple[str, ...] = ("class_map",),
    **how: Any,
) -> dict[str, NDArray[Any]]:
    """Outputs of a model for one array; `how` says another ``name``, ``datatype`` or ``shape`` than the array's."""
    module = CLIENTS[protocol]
    datatype = how.get("datatype") or ("BYTES" if array.dtype == object else "UINT8")
    tensor = module.InferInput(how.get("name", "images"), list(array.shape), datatype)
    tensor.set_data_from_numpy(array)
    if "shape" in how:
        tensor.set_shape(list(how["shape"]))
    wanted = [module.InferRequestedOutput(name) for name in outputs]
    result = client.infer(model, [tensor], outputs=wanted)
    return {name: result.as_numpy(name) for name in outputs}


def encoded(*contents: bytes) -> NDArray[Any]:
    """``[N]`` for a ``BYTES`` tensor."""
    array = np.empty(len(contents), dtype=object)
    array[:] = contents
    return array


def check_alive(served: Served, protocol: Protocol = "http") -> None:
    """Ready, and answers an image as the bundle does."""
    image = many_images(1)[0][None]
    with served.client(protocol) as client:
        assert client.is_server_ready()
        assert client.is_model_ready(served.model)
        found = ask(client, protocol, served.model, image)["class_map"]
    assert np.array_equal(found, served.runtime().predict(image))


def check_pixels(served: Served, protocol: Protocol) -> None:
    """64 images of many sizes, alone and two at a time: no pixel differs from the bundle's on this machine."""
    runtime, images = served.runtime(), many_images()
    differing, several = 0, 0
    with served.client(protocol) as client:
        for image in images:
            expected = runtime.predict(image[None])
            found = ask(client, protocol, served.model, image[None])["class_map"]
            assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
            differing += int((found != expected).sum())
            several += len(np.unique(found)) > 1
        pair = np.stack([images[0], images[1]])
        differing += int((ask(client, protocol, served.model, pair)["class_map"] != runtime.predict(pair)).sum())
    assert len(images) == 64
    assert several > 48, "class maps of one class show nothing"
    assert differing == 0


def check_outputs(served: Served, protocol: Protocol) -> None:
    """All outputs of the graph, and those alone that are asked for."""
    runtime, images = served.runtime(), many_images(2)
    expected = runtime.compute(np.stack(images), runtime.outputs)
    with served.client(protocol) as client:
        found = ask(client, protocol, served.model, np.stack(images), runtime.outputs)
        one = ask(client, protocol, served.model, np.stack(images), runtime.outputs[-1:])
    assert {name: array.dtype for name, array in found.items()} == {n: a.dtype for n, a in expected.items()}
    assert all(np.array_equal(found[name], expected[name]) for name in runtime.outputs)
    assert np.array_equal(one[runtime.outputs[-1]], expected[runtime.outputs[-1]])


def check_description(served: Served, protocol: Protocol) -> None:
    """Inputs and outputs are those of the graph, and the configuration says which artefact answers."""
    graph, metadata = open_graph(served.bundle, served.precision)
    with served.client(protocol) as client:
        if protocol == "http":
            config, shown = client.get_model_config(served.model), client.get_model_metadata(served.model)
            index = client.get_model_repository_index()
        else:
            config = client.get_model_config(served.model, as_json=True)["config"]
            shown = client.get_model_metadata(served.model, as_json=True)
            index = client.get_model_repository_index(as_json=True)["models"]
    parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
    facts = ServiceFacts.from_parameters(parameters, served.model)
    assert facts.sha256 == graph.digest() == parameters["sha256"]
    assert facts.verified is True
    assert facts.metadata == metadata
    assert served.model in {model["name"] for model in index}
    tensors = {t["name"]: (t["datatype"], [int(n) for n in t["shape"]]) for t in (*shown["inputs"], *shown["outputs"])}
    classes = len(metadata.classes.names)
    assert tensors["images"] == ("UINT8", [-1, -1, -1, 3])
    assert tensors["class_map"] == ("UINT8", [-1, -1, -1])
    assert tensors["confidence"] == ("UINT8", [-1, -1, -1])
    assert tensors["logits"] == ("FP32", [-1, classes, -1, -1])


def check_batches(served: Served, protocol: Protocol, clients: int = 8, rounds: int = 6) -> None:
    """Requests of concurrent clients are computed together, and each gets the answer to its own image."""
    runtime = served.runtime()
    images = [np.tile(image, (8, 8, 1))[None, :256, :320].copy() for image in many_images(clients)]
    expected = [runtime.predict(image) for image in images]
    assert len({array.tobytes() for array in expected}) > 1
    barrier = threading.Barrier(clients)

    def client_of(number: int) -> int:
        """Differing pixels; nothing but asking happens between two requests."""
        module, turns = CLIENTS[protocol], [(number + turn) % clients for turn in range(rounds)]
        tensors = [module.InferInput("images", list(images[turn].shape), "UINT8") for turn in turns]
        for tensor, turn in zip(tensors, turns, strict=True):
            tensor.set_data_from_numpy(images[turn])
        with served.client(protocol) as client:
            barrier.wait()
            answers = [client.infer(served.model, [tensor]).as_numpy("class_map") for tensor in tensors]
        return sum(int((answer != expected[turn]).sum()) for answer, turn in zip(answers, turns, strict=True))

    before = _statistics(served)
    with ThreadPoolExecutor(clients) as pool:
        wrong = sum(pool.map(client_of, range(clients)))
    computed, runs = _computed_since(served, before, clients * rounds)
    assert wrong == 0
    assert computed == clients * rounds
    assert computed / runs >= 2, f"{computed} images in {runs} runs"


def check_refusals(served: Served, protocol: Protocol) -> None:
    """What is no request is refused with a reason, and the server goes on."""
    image = many_images(1)[0][None]
    side = int(served.most_pixels**0.5) + 1
    requests: dict[str, Callable[[Any], object]] = {
        "type": lambda c: ask(c, protocol, served.model, image.astype(np.float32), datatype="FP32"),
        "rank": lambda c: ask(c, protocol, served.model, image[0]),
        "channels": lambda c: ask(c, protocol, served.model, image[..., :2].copy()),
        "zero size": lambda c: ask(c, protocol, served.model, image[:, :0].copy()),
        "no images": lambda c: ask(c, protocol, served.model, image[:0].copy()),
        "batch": lambda c: ask(c, protocol, served.model, np.repeat(image[:, :8, :8], served.most_images + 1, 0)),
        "pixels": lambda c: ask(c, protocol, served.model, np.zeros((1, side, side, 3), np.uint8)),
        "size": lambda c: ask(c, protocol, served.model, image, shape=(1, 200, 200, 3)),
        "input": lambda c: ask(c, protocol, served.model, image, name="pictures"),
        "output": lambda c: ask(c, protocol, served.model, image, ("depth",)),
        "model": lambda c: ask(c, protocol, "absent", image),
    }
    with served.client(protocol) as client:
        for what, request in requests.items():
            message = _refusal(what, functools.partial(request, client))
            assert "Traceback" not in message, what
            assert str(served.bundle) not in message, what
    check_alive(served, protocol)


def check_encoded(served: Served, protocol: Protocol) -> None:
    """JPEG and PNG give what their pixels give; what is truncated, no image, or too large is refused."""
    runtime, image = served.runtime(), many_images(2)[1]
    rgba = np.dstack([image, np.full(image.shape[:2], 90, np.uint8)])
    turned = Image.Exif()
    turned[0x0112] = 6
    good = {
        "jpeg": _file(image, "JPEG"),
        "png": _file(image, "PNG"),
        "grey": _file(image[..., 0], "PNG"),
        "transparent": _file(rgba, "PNG"),
        "turned": _file(image, "JPEG", exif=turned),
    }
    side = int(served.most_pixels**0.5) + 1
    bad = {
        "truncated": good["jpeg"][: len(good["jpeg"]) // 2],
        "truncated png": good["png"][: len(good["png"]) // 2],
        "header": good["jpeg"][:20],
        "text": b"no image at all",
        "nothing": b"",
        "large": _file(np.zeros((side, side), np.uint8), "PNG"),
    }
    with served.client(protocol) as client:
        for what, content in good.items():
            expected = runtime.predict(decode_image(content, what)[None])
            found = ask(client, protocol, served.encoded, encoded(content))["class_map"]
            assert np.array_equal(found, expected), what
        two = ask(client, protocol, served.encoded, encoded(good["png"], good["transparent"]))["class_map"]
        assert np.array_equal(two[:1], runtime.predict(decode_image(good["png"], "png")[None]))
        for what, content in bad.items():
            message = _refusal(what, functools.partial(ask, client, protocol, served.encoded, encoded(content)))
            assert "Traceback" not in message, what
    check_alive(served, protocol)


def check_random_bodies(served: Served, count: int = 1000) -> None:
    """Bodies that are no requests get an error each, and the server goes on."""
    random = np.random.default_rng(0)
    connection = http.client.HTTPConnection(served.http, timeout=60)
    statuses = []
    for number in range(count):
        headers, body = random_body(random, number)
        connection.request("POST", f"/v2/models/{served.model}/infer", body, headers)
        answer = connection.getresponse()
        content = answer.read()
        statuses.append(answer.status)
        assert b"Traceback" not in content
    connection.close()
    assert len(statuses) == count
    assert all(400 <= status < 600 for status in statuses)
    check_alive(served)


def _refusal(what: str, request: Callable[[], object]) -> str:
    """The reason why a request is refused."""
    try:
        request()
    except InferenceServerException as error:
        return f"{error.message()} ({error.status()})"
    raise AssertionError(f"{what}: not refused")


def _file(array: NDArray[np.uint8], kind: str, **options: Any) -> bytes:
    file = BytesIO()
    Image.fromarray(array).save(file, kind, **options)
    return file.getvalue()


def _statistics(served: Served) -> tuple[int, int]:
    """Images computed, and runs."""
    with served.client("http") as client:
        (model,) = client.get_inference_statistics(served.model)["model_stats"]
    return int(model["inference_count"]), int(model["execution_count"])


def _computed_since(served: Served, before: tuple[int, int], expected: int) -> tuple[int, int]:
    """Images and runs since then; a server may count a request after it has answered it."""
    deadline = time.monotonic() + 10
    while True:
        images, runs = _statistics(served)
        if images - before[0] >= expected or time.monotonic() > deadline:
            return images - before[0], runs - before[1]
        time.sleep(0.05)
