"""What tests of conversions share: the command, and what it has written."""

import json
from pathlib import Path

import numpy as np
from click.testing import CliRunner, Result
from PIL import Image

from protoseg_deploy.cli import cli


def run_convert(source: Path, out: Path, *arguments: object, exit_code: int | None = 0) -> Result:
    result = CliRunner().invoke(cli, ["convert", str(source), "--out", str(out), *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert exit_code is None or result.exit_code == exit_code, result.output
    return result


def read_mask(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == "L"
        return np.array(image)


def names_of(out: Path) -> list[str]:
    return json.loads((out / "classes.json").read_text(encoding="utf-8"))["names"]


def problems_of(out: Path, kind: str) -> list[dict]:
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    found = [problem for problem in report["problems"] if problem["kind"] == kind]
    assert len(found) == report["records"][kind]
    return found


def reasons_of(out: Path, kind: str) -> list[str]:
    return [problem["reason"] for problem in problems_of(out, kind)]
