"""Which backbone families of timm can be exported, and how long it takes: docs/backbones.md.

    python benchmarks/backbone_families.py RESULTS.jsonl [--markdown docs/backbones.md]

One network of each module of timm is exported, the smallest that a segmentation network can be built of: with random
weights, for images of any size, or bound to one where that fails. ONNX Runtime has to compute the class maps that
PyTorch computes, at two sizes. Each network is tried in a process of its own with a limit of its own; what is in
RESULTS.jsonl already is not tried again.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import timm
import torch

from protoseg_deploy.errors import ProtosegError
from protoseg_deploy.exporting.tracing.onnx_export import GraphOptions
from tests.exporting.families import Family
from tests.exporting.one_family import class_maps_agree, export_family

_SIZES = ((97, 131), (160, 96))
_BOUND = (128, 160)
_TRIED = 5
"""Networks of a module, the smallest first, until one can be built."""


def modules() -> dict[str, list[str]]:
    """Networks of each module of timm, the smallest first."""
    found: dict[str, list[tuple[int, str]]] = {}
    for name in timm.list_models():
        module = timm.model_entrypoint(name).__module__.rpartition(".")[2]
        try:
            with torch.device("meta"):
                model: Any = timm.create_model(name, pretrained=False, num_classes=0)
        except Exception:  # noqa: S112 - of any kind: code of a thousand models
            continue
        found.setdefault(module, []).append((sum(p.numel() for p in model.parameters()), name))
    return {module: [name for _, name in sorted(names)] for module, names in sorted(found.items())}


def try_network(name: str) -> dict[str, Any]:
    """What happens to one network; run in a process of its own."""
    row: dict[str, Any] = {"network": name}
    for size in (None, _BOUND):
        begin = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "network.onnx"
            try:
                family = Family(name, "lraspp", size)
                deployed = export_family(family, path, GraphOptions(size))
            except ProtosegError as error:
                row["fault"] = error.message
                continue
            row["seconds"] = round(time.perf_counter() - begin, 1)
            row["size"] = "one" if size else "any"
            row["agreement"] = min(class_maps_agree(path, deployed, each) for each in ([size] if size else _SIZES))
            return row
    return row


def _in_a_process(name: str, limit_s: float) -> dict[str, Any]:
    try:
        done = subprocess.run(
            [sys.executable, __file__, "--one", name, "-"], capture_output=True, text=True, timeout=limit_s, check=False
        )
    except subprocess.TimeoutExpired:
        return {"network": name, "fault": f"not done after {limit_s:.0f} s"}
    if done.returncode == 0:
        row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return row
    return {"network": name, "fault": (done.stderr.strip().splitlines() or ["ended without a word"])[-1][:200]}


@click.command()
@click.argument("results", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--one", metavar="NETWORK", help="Try one network and print what happened.")
@click.option("--limit", default=240.0, show_default=True, help="Seconds for one network.")
@click.option("--markdown", type=click.Path(path_type=Path), help="Write the page here.")
def main(results: Path, one: str | None, limit: float, markdown: Path | None) -> None:
    """Try what RESULTS lacks."""
    if one is not None:
        click.echo(json.dumps(try_network(one)))
        return
    rows = [json.loads(line) for line in results.read_text().splitlines()] if results.is_file() else []
    known = {row["module"] for row in rows}
    for module, names in modules().items():
        if module in known:
            continue
        row: dict[str, Any] = {}
        for name in names[:_TRIED]:
            row = {"module": module, **_in_a_process(name, limit)}
            if "seconds" in row or "not done" in row.get("fault", ""):
                break
        rows.append(row)
        with results.open("a") as file:
            file.write(json.dumps(row) + "\n")
        click.echo(json.dumps(row))
    if markdown is not None:
        markdown.write_text(_page(rows), encoding="utf-8")


def _page(rows: list[dict[str, Any]]) -> str:
    lines = ["| timm module | network | image sizes | seconds | equal pixels |", "|---|---|---|---|---|"]
    refused = ["| timm module | network | why |", "|---|---|---|"]
    for row in sorted(rows, key=lambda row: str(row["module"])):
        if "seconds" in row:
            agreement = f"{100 * np.floor(row['agreement'] * 1e4) / 1e4:.2f} %"
            size = "any" if row["size"] == "any" else f"one; any: {row['fault']}"
            lines.append(f"| {row['module']} | {row['network']} | {size} | {row['seconds']} | {agreement} |")
        else:
            refused.append(f"| {row['module']} | {row['network']} | {row['fault']} |")
    return "\n".join([*lines, "", *refused, ""])


if __name__ == "__main__":
    main()
