"""Machines that are nothing but a folder of files."""

from pathlib import Path

from protoseg_deploy.diagnostics.machine import Machine


def machine(root: Path, files: dict[str, str] | None = None, **facts) -> Machine:
    """A Linux machine with these files below its root."""
    for path, text in (files or {}).items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    known = {"environment": {}, "usable_cores": 8, "logical_cores": 8, "system": "Linux", "architecture": "x86_64"}
    return Machine(root=root, **(known | facts))
