"""The command that tests write repositories with, and what lies in one afterwards."""

from pathlib import Path
from typing import Any

import onnx
from click.testing import CliRunner, Result
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from protoseg_deploy.cli import cli


def serve_repo(*words: object) -> Result:
    """``protoseg serve-repo`` with these words."""
    return CliRunner().invoke(cli, ["serve-repo", *(str(word) for word in words)])


def added(*words: object) -> None:
    """The same, where it has to succeed."""
    done = serve_repo(*words)
    assert done.exit_code == 0, done.output


def config_of(model: Path) -> Any:
    """``ModelConfig`` of the folder of a model."""
    return text_format.Parse((model / "config.pbtxt").read_text("utf-8"), model_config_pb2.ModelConfig())


def parameters_of(model: Path) -> dict[str, str]:
    return {key: value.string_value for key, value in config_of(model).parameters.items()}


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file below a folder, with its number and its time: equal where nothing was written."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): (p.stat().st_ino, p.stat().st_mtime_ns) for p in files}


def graph_shapes(file: Path) -> dict[str, tuple[int, list[int]]]:
    """Element type and shape, -1 for any length, of the inputs and outputs of an ONNX file, by the library alone."""
    graph = onnx.load(file, load_external_data=False).graph
    return {
        value.name: (
            value.type.tensor_type.elem_type,
            [dim.dim_value if dim.HasField("dim_value") else -1 for dim in value.type.tensor_type.shape.dim],
        )
        for value in (*graph.input, *graph.output)
    }
