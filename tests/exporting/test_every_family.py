"""Backbones are exported or refused as docs/backbones.md says; `make test-families` tries all networks of that page."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import timm

from protoseg_deploy.errors import UsageError
from protoseg_deploy.models.backbones import timm_module
from tests.exporting.one_family import class_maps_agree, deployable_spec, export_network, random_network

PAGE = Path(__file__).parents[2] / "docs/backbones.md"
EVERY = os.environ.get("PROTOSEG_EVERY_FAMILY") == "1"
CHEAP = {"test_resnet", "levit_128s"}
SIZES = ((97, 131), (160, 96))


@dataclass(frozen=True)
class Row:
    """A network of the page."""

    module: str
    network: str
    sizes: str
    """``any``, or why it is refused."""

    def __str__(self) -> str:
        return self.network


ROWS = [Row(*cells) for cells in re.findall(r"^\| (\w+) \| `(\w+)` \| ([^|]+) \|", PAGE.read_text("utf-8"), re.M)]


@pytest.mark.skipif(not EVERY, reason="another version of timm may have others")
def test_every_module_of_timm_is_on_the_page() -> None:
    assert {timm_module(name) for name in timm.list_models()} == {row.module for row in ROWS}


@pytest.mark.parametrize("row", [row for row in ROWS if EVERY or row.network in CHEAP], ids=str)
def test_network(row: Row, tmp_path: Path) -> None:
    if row.sizes != "any":
        with pytest.raises(UsageError, match=rf"^model\.backbone: {re.escape(row.sizes)}"):
            deployable_spec(row.network)
        return
    spec = deployable_spec(row.network)
    segmenter, path = random_network(spec), tmp_path / "model.onnx"
    export_network(segmenter, spec, path)
    for size in SIZES:
        assert class_maps_agree(path, segmenter, size) > 0.99
