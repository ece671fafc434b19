"""Networks of other packages as their own exporters write them, with random weights, for `compare.py`.

    python -m venv peers && peers/bin/pip install -r benchmarks/peers/requirements.txt
    peers/bin/python benchmarks/peers/export_peers.py PEERS

Runs in an environment of its own: nothing of these packages is needed, or kept, anywhere else. Beside each graph lies a
JSON file that says how a program has to prepare images and read the output.
"""

import json
import os
import sys
import warnings
from pathlib import Path

import torch

SIZE, CLASSES = 512, 11
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
UNIT = {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}
SMP = {
    "smp-deeplabv3plus-mobilenetv2": ("DeepLabV3Plus", "mobilenet_v2"),
    "smp-fpn-mobilenetv2": ("FPN", "mobilenet_v2"),
    "smp-unet-mobilenetv2": ("Unet", "mobilenet_v2"),
}
ULTRALYTICS = {"ultralytics-yolo26n-sem": "yolo26n-sem.yaml"}


def export_smp(folder: Path) -> None:
    """Networks of segmentation_models_pytorch, by PyTorch's exporter: logits at the size of the image."""
    import segmentation_models_pytorch as smp

    for name, (kind, encoder) in SMP.items():
        torch.manual_seed(0)
        network = getattr(smp, kind)(encoder, encoder_weights=None, classes=CLASSES).eval()
        torch.onnx.export(
            network,
            (torch.zeros(1, 3, SIZE, SIZE),),
            folder / f"{name}.onnx",
            dynamo=True,
            opset_version=18,
            input_names=["images"],
            output_names=["logits"],
            verbose=False,
        )
        _describe(folder, name, network, smp.__version__, IMAGENET)


def export_ultralytics(folder: Path) -> None:
    """Semantic models of Ultralytics, by their own exporter."""
    os.environ["YOLO_AUTOINSTALL"] = "false"
    import ultralytics

    for name, config in ULTRALYTICS.items():
        torch.manual_seed(0)
        model = ultralytics.YOLO(config, task="semantic")
        made = Path(model.export(format="onnx", imgsz=SIZE, opset=18, simplify=False, device="cpu"))
        made.replace(folder / f"{name}.onnx")
        _describe(folder, name, model.model, ultralytics.__version__, UNIT)


def _describe(folder: Path, name: str, network: torch.nn.Module, version: str, scaling: dict[str, list[float]]) -> None:
    parameters = sum(parameter.numel() for parameter in network.parameters())
    described = {"size": SIZE, "parameters": parameters, "version": version, **scaling}
    (folder / f"{name}.json").write_text(json.dumps(described, indent=1) + "\n")
    sys.stdout.write(f"{name}: {parameters / 1e6:.2f} M parameters\n")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    export_smp(target)
    export_ultralytics(target)
