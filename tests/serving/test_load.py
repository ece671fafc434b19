"""``protoseg load`` against a server."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from protoseg_deploy.bundles.bundle import Bundle
from protoseg_deploy.cli import cli
from protoseg_deploy.serving.artefact import ArtefactSpec
from tests.serving.embedded import server_thread
from tests.serving.small_bundles import write_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("load") / "small")


@pytest.fixture(scope="module")
def places(bundle: Path) -> Iterator[tuple[str, str]]:
    with server_thread(ArtefactSpec(bundle, "small")) as found:
        yield found


def run(*arguments: object):
    return CliRunner().invoke(cli, ["load", *map(str, arguments)])


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_both_protocols(places: tuple[str, str], bundle: Path, tmp_path: Path, protocol: str) -> None:
    url = f"{protocol}://{places[protocol == 'grpc']}/small"
    plot = tmp_path / "load.svg"
    options = ("--rates", "20,40", "--duration", 0.5, "--size", "6x8", "--clients", 2, "--plot", plot, "--json")
    result = run(url, *options)
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["digest"] == Bundle.open(bundle).graph("fp32").digest()
    assert [point["offered_per_second"] for point in document["open"]] == [20, 40]
    assert document["closed"]["clients"] == 2
    assert all(point["failed"] == point["wrong"] == 0 for point in (document["closed"], *document["open"]))
    assert "<svg" in plot.read_text()
    assert f"-i {protocol} -u {places[protocol == 'grpc']} --shape images:6,8,3" in result.stderr


def test_images_of_a_folder_and_the_knee(places: tuple[str, str], tmp_path: Path) -> None:
    for number in range(3):
        Image.new("RGB", (8 + number, 6), (80 * number, 0, 0)).save(tmp_path / f"{number}.png")
    result = run(f"http://{places[0]}/small", "--images", tmp_path, "--duration", 0.2, "--clients", 2, "--find-knee")
    assert result.exit_code == 0, result.output
    assert result.stdout.count("/s ") >= 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bundles/mine"], "not the address of a model on a server"),
        (["http://127.0.0.1:9/m", "--rates", "10,x"], "--rates x"),
        (["http://127.0.0.1:9/m", "--rates", "-1"], "--rates -1"),
        (["http://127.0.0.1:9/m", "--rates", "nan"], "--rates nan"),
        (["http://127.0.0.1:9/m", "--plot", "x.pdf"], ".png or .svg"),
        (["{url}", "--images", "absent"], "no such folder: absent"),
        (["{url}", "--images", ".", "--size", "8"], "--size is of random images"),
    ],
)
def test_wrong_arguments(places: tuple[str, str], arguments: list[str], message: str) -> None:
    result = run(*(text.format(url=f"http://{places[0]}/small") for text in arguments))
    assert result.exit_code == 2, result.output
    assert message in result.stderr


def test_nobody_there() -> None:
    result = run("http://127.0.0.1:9/m", "--rates", "10")
    assert result.exit_code == 1
    assert "no answer" in result.stderr
