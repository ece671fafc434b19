"""A real tritonserver with the Python backend answers exactly what the bundle on this machine does."""

from dataclasses import replace
from pathlib import Path

import pytest

from protoseg_deploy.choices import Precision
from tests.serving import client_suite
from tests.serving.client_suite import PROTOCOLS, Protocol, Served
from tests.serving.triton.conftest import MOST_IMAGES, MOST_PIXELS
from tests.serving.triton.server import TritonAddress

PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")


@pytest.fixture(scope="module", params=PRECISIONS)
def served(request: pytest.FixtureRequest, server: TritonAddress, bundle: Path) -> Served:
    name: Precision = request.param
    return Served(server.http, server.grpc, name, bundle, name, f"{name}_encoded", MOST_PIXELS, MOST_IMAGES)


@pytest.fixture(scope="module")
def fp32(server: TritonAddress, bundle: Path) -> Served:
    return Served(server.http, server.grpc, "fp32", bundle, "fp32", "fp32_encoded", MOST_PIXELS, MOST_IMAGES)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_pixel_differs(served: Served, protocol: Protocol) -> None:
    client_suite.check_pixels(served, protocol)
    client_suite.check_outputs(served, protocol)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_the_server_says_of_itself(served: Served, protocol: Protocol) -> None:
    client_suite.check_description(served, protocol)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_concurrent_requests_are_computed_together(fp32: Served, protocol: Protocol) -> None:
    client_suite.check_batches(replace(fp32, model="waiting"), protocol)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_is_no_request_is_refused(fp32: Served, protocol: Protocol) -> None:
    client_suite.check_refusals(fp32, protocol)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_encoded_images(served: Served, protocol: Protocol) -> None:
    client_suite.check_encoded(served, protocol)


def test_random_bodies_are_refused(fp32: Served) -> None:
    client_suite.check_random_bodies(fp32)
