"""Which backbones of timm can be exported, and how long it takes: docs/backbones.md.

    python -m benchmarks.backbone_families RESULTS.jsonl [--markdown docs/backbones.md]

Of each module of timm the smallest network that a segmentation network can be built of is exported, and a few more:
with random weights, for images of any size, or bound to one where that fails. ONNX Runtime has to compute the class
maps that PyTorch computes, at two sizes. Each network has a process with one thread; its processor time is counted,
which other processes disturb less than the time on the clock. What is in RESULTS.jsonl already is not tried again.
"""

import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import timm
import torch

from protoseg_deploy.errors import ProtosegError
from protoseg_deploy.models.backbones import timm_module
from tests.exporting.one_family import class_maps_agree, deployable_spec, export_network, random_network

MORE = (
    "caformer_s18",
    "coatnet_nano_rw_224",
    "convformer_s18",
    "convnextv2_atto",
    "fastvit_mci0",
    "ghostnetv2_100",
    "ghostnetv3_050",
    "hgnet_tiny",
    "mambaout_femto",
    "maxvit_rmlp_pico_rw_256",
    "maxvit_tiny_tf_224",
    "mixnet_s",
    "mobilenetv2_100",
    "mobilenetv3_small_050",
    "mobilenetv4_conv_small_050",
    "mobilenetv4_hybrid_medium",
    "mobileone_s0",
    "poolformer_s12",
    "repvgg_a0",
    "resnet50",
    "resnext50_32x4d",
    "swinv2_tiny_window8_256",
    "tf_efficientnet_b0",
    "tf_efficientnet_lite0",
    "tf_mixnet_s",
    "vit_small_patch14_dinov2",
    "vit_small_patch16_dinov3",
)
"""Networks that differ from the smallest one of their module."""
_SIZES = ((97, 131), (160, 96))
_BOUND = (128, 160)
_TABLES = "## Measured"
"""Heading of the tables in the page."""


def candidates(known: set[tuple[str, str]]) -> Iterator[tuple[str, str, str]]:
    """Module, network, and why none of the module can be built, or nothing; without those that are known."""
    modules: dict[str, list[str]] = {}
    for name in timm.list_models():
        modules.setdefault(timm_module(name), []).append(name)
    done = {module for module, _ in known}
    for module, names in sorted(modules.items()):
        if module not in done:
            yield (module, *_smallest(names))
    yield from ((timm_module(name), name, "") for name in MORE if (timm_module(name), name) not in known)


def _smallest(names: list[str]) -> tuple[str, str]:
    """The smallest network that can be built, or the smallest of all and why it cannot."""
    first = ("", "")
    for name in sorted(names, key=_parameters):
        try:
            deployable_spec(name)
        except ProtosegError as error:
            first = first if first[0] else (name, error.message)
        else:
            return name, ""
    return first


def _parameters(name: str) -> float:
    try:
        with torch.device("meta"):
            model: Any = timm.create_model(name, pretrained=False, num_classes=0)
    except Exception:  # of any kind: code of a thousand models
        return float("inf")
    return float(sum(parameter.numel() for parameter in model.parameters()))


def try_network(name: str) -> dict[str, Any]:
    """What happens to one network; run in a process of its own."""
    torch.set_num_threads(1)
    row: dict[str, Any] = {}
    try:
        spec = deployable_spec(name)
    except ProtosegError as error:
        return {"fault": error.message}
    segmenter = random_network(spec)
    for size in (None, _BOUND):
        begin = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "network.onnx"
            try:
                export_network(segmenter, spec, path, size)
                seconds = time.process_time() - begin
                agreement = min(class_maps_agree(path, segmenter, each) for each in ([size] if size else _SIZES))
            except Exception as error:  # of any kind: ONNX Runtime has its own
                reason = error.message if isinstance(error, ProtosegError) else str(error)
                row["fault"] = (reason.splitlines() or [type(error).__name__])[0][:300]
                continue
        return row | {"size": "one" if size else "any", "seconds": round(seconds, 1), "agreement": agreement}
    return row


def _in_a_process(name: str, limit_s: int) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.backbone_families", "--one", name, "-"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (limit_s, limit_s)),
    )
    if done.returncode == 0:
        row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return row
    if done.returncode < 0:
        return {"fault": f"ended by signal {-done.returncode}; the limit is {limit_s} s of processor time"}
    return {"fault": (done.stderr.strip().splitlines() or ["ended without a word"])[-1][:300]}


@click.command()
@click.argument("results", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--one", metavar="NETWORK", help="Try one network and print what happened.")
@click.option("--limit", default=200, show_default=True, help="Seconds of processor time for one network.")
@click.option("--markdown", type=click.Path(path_type=Path), help="Write the page here.")
def main(results: Path, one: str | None, limit: int, markdown: Path | None) -> None:
    """Try what RESULTS lacks."""
    if one is not None:
        click.echo(json.dumps(try_network(one)))
        return
    rows = [json.loads(line) for line in results.read_text().splitlines()] if results.is_file() else []
    for module, name, fault in candidates({(row["module"], row["network"]) for row in rows}):
        told = {"fault": fault} if fault else _in_a_process(name, limit)
        rows.append({"module": module, "network": name, **told})
        with results.open("a") as file:
            file.write(json.dumps(rows[-1]) + "\n")
        click.echo(json.dumps(rows[-1]))
    if markdown is not None:
        head = markdown.read_text(encoding="utf-8").partition(_TABLES)[0]
        markdown.write_text(head + _TABLES + _tables(rows), encoding="utf-8")


def _tables(rows: list[dict[str, Any]]) -> str:
    exported = ["| timm module | network | image sizes | export (s) | equal pixels (%) |", "|---|---|---|---|---|"]
    refused = ["| timm module | network | why |", "|---|---|---|"]
    for row in sorted(rows, key=lambda row: (row["module"], row["network"])):
        start = f"| {row['module']} | `{row['network']}` |"
        if "seconds" in row:
            equal = math.floor(row["agreement"] * 1e4) / 100
            exported.append(f"{start} {row['size']} | {row['seconds']} | {equal:.2f} |")
        else:
            refused.append(f"{start} {row['fault'].removeprefix('model.backbone: ')} |")
    slowest = max(row.get("seconds", 0.0) for row in rows)
    modules = len({row["module"] for row in rows if "seconds" in row})
    intro = [
        "Of every module of timm the smallest network that can be built, and a few more, with random weights and the",
        "decoder `lraspp` (`fpn` on plain ViTs): processor time of the export with one thread, and the pixels of two",
        "images of 97×131 and 160×96 to which ONNX Runtime and PyTorch give the same class. Networks of",
        f"{modules} modules can be exported, all in less than {math.ceil(slowest + 1e-9)} s.",
    ]
    return "\n".join(["", "", *intro, "", "### Exported", "", *exported, "", "### Refused", "", *refused, ""])


if __name__ == "__main__":
    main()
