"""Which backbones of timm can be exported, and how long it takes: docs/backbones.md.

    python benchmarks/backbone_families.py RESULTS.jsonl [--markdown docs/backbones.md]

Of each module of timm the smallest network that a segmentation network can be built of is exported, and a few more:
with random weights, for images of any size, or bound to one where that fails. ONNX Runtime has to compute the class
maps that PyTorch computes, at two sizes. Each network has a process with one thread; its processor time is counted,
which other processes disturb less than the time on the clock. What is in RESULTS.jsonl already is not tried again.
"""

import json
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
from tests.exporting.families import Family
from tests.exporting.one_family import buildable_model, class_maps_agree, export_family

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


def modules() -> dict[str, list[str]]:
    """Networks of each module of timm, the smallest first."""
    found: dict[str, list[tuple[int, str]]] = {}
    for name in timm.list_models():
        try:
            with torch.device("meta"):
                model: Any = timm.create_model(name, pretrained=False, num_classes=0)
        except Exception:  # noqa: S112 - of any kind: code of a thousand models
            continue
        found.setdefault(_module(name), []).append((sum(p.numel() for p in model.parameters()), name))
    return {module: [name for _, name in sorted(names)] for module, names in sorted(found.items())}


def _module(name: str) -> str:
    return timm.model_entrypoint(name).__module__.rpartition(".")[2]


def candidates(known: set[tuple[str, str]]) -> Iterator[tuple[str, str, str]]:
    """Module, network, and why none of the module can be built, or nothing; without those that are known."""
    tried = {module for module, _ in known}
    for module, names in modules().items():
        if module in tried:
            continue
        fault = ""
        for name in names:
            try:
                buildable_model(Family(name, "lraspp"))
            except ProtosegError as error:
                fault = fault or error.message
            else:
                yield module, name, ""
                break
        else:
            yield module, names[0], fault
    yield from ((_module(name), name, "") for name in MORE if (_module(name), name) not in known)


def try_network(name: str) -> dict[str, Any]:
    """What happens to one network; run in a process of its own."""
    torch.set_num_threads(1)
    row: dict[str, Any] = {}
    for size in (None, _BOUND):
        begin = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "network.onnx"
            try:
                deployed = export_family(Family(name, "lraspp", size), path)
                seconds = time.process_time() - begin
                agreement = min(class_maps_agree(path, deployed, each) for each in ([size] if size else _SIZES))
            except Exception as error:  # of any kind: ONNX Runtime has its own
                reason = error.message if isinstance(error, ProtosegError) else str(error)
                row["fault"] = (reason.splitlines() or [type(error).__name__])[0][:300]
                continue
        return row | {"size": "one" if size else "any", "seconds": round(seconds, 1), "agreement": agreement}
    return row


def _in_a_process(name: str, limit_s: int) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, __file__, "--one", name, "-"],
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
        markdown.write_text(page(rows), encoding="utf-8")


def page(rows: list[dict[str, Any]]) -> str:
    """What was found, as a page."""
    done = ["| timm module | network | image sizes | processor seconds | equal pixels (%) |", "|---|---|---|---|---|"]
    refused = ["| timm module | network | why |", "|---|---|---|"]
    for row in sorted(rows, key=lambda row: (row["module"], row["network"])):
        name = f"| {row['module']} | {row['network']} |"
        if "seconds" in row:
            size = row["size"] if row["size"] == "any" else f"one; any: {row.get('fault', '')}"
            done.append(f"{name} {size} | {row['seconds']} | {100 * row['agreement']:.2f} |")
        else:
            refused.append(f"{name} {str(row.get('fault', '')).removeprefix('model.backbone: ')} |")
    head = (
        "# Backbones\n\nOf each module of timm the smallest network that a segmentation network can be built of, and a "
        "few more, exported\nwith random weights by `python benchmarks/backbone_families.py RESULTS --markdown "
        "docs/backbones.md`: processor time\nof the export with one thread, and the pixels to which ONNX Runtime and "
        "PyTorch give the same class, at two sizes.\n\n## Exported\n\n"
    )
    rest = "\n\n## Refused by `check` and before training\n\n"
    return head + "\n".join(done) + rest + "\n".join(refused) + "\n"


if __name__ == "__main__":
    main()
