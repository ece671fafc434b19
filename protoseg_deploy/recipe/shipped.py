"""Recipes and deployment kits that come with the package."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import protoseg_deploy
from protoseg_deploy.errors import UsageError
from protoseg_deploy.exchange import LOCK_FILE, replacing
from protoseg_deploy.files import resolved

_PACKAGE = Path(protoseg_deploy.__file__).parent
_MADE_HERE = shutil.ignore_patterns("__pycache__", "build")
_PARTS = {
    "edge": (
        "benchmarking/__init__.py",
        "benchmarking/distribution.py",
        "benchmarking/energy/__init__.py",
        "benchmarking/energy/jetson.py",
        "benchmarking/energy/measuring.py",
        "benchmarking/energy/rapl.py",
        "benchmarking/energy/source.py",
        "benchmarking/energy/tegrastats.py",
    )
}
"""Modules of this package that a kit takes along: they need NumPy alone, and Python 3.10."""
_PART_OF = '"""The parts of protoseg that this kit needs; they need NumPy alone."""\n'


def shipped_folder(name: str) -> Path:
    """``recipes`` or ``export``: inside an installed wheel, or beside the package in a source tree."""
    installed = _PACKAGE / "shipped" / name
    return installed if installed.is_dir() else _PACKAGE.parent / name


def shipped_recipe_names() -> list[str]:
    return sorted(path.stem for path in shipped_folder("recipes").glob("*.yaml"))


def shipped_recipe_path(name: str) -> Path:
    return shipped_folder("recipes") / f"{name}.yaml"


def shipped_kits() -> dict[str, str]:
    """Names of the deployment kits, each with the heading of its ``README.md``."""
    kits = sorted(path.parent for path in shipped_folder("export").glob("*/README.md"))
    return {kit.name: (kit / "README.md").read_text(encoding="utf-8").splitlines()[0].lstrip("# ") for kit in kits}


def copy_kit(name: str, folder: Path) -> list[Path]:
    """Copy a kit into a new or empty folder, which appears as a whole.

    Args:
        name: see `shipped_kits`.
        folder: where to.

    Returns:
        The files that were written.

    Raises:
        UsageError: there is no such kit, or something is in that place.
        WriteError: it cannot be written.
    """
    if name not in shipped_kits():
        raise UsageError(f"no kit {name!r}; there are {', '.join(shipped_kits())}")
    _require_vacant(folder)
    with replacing(folder, _require_empty) as replacement:
        shutil.copytree(shipped_folder("export") / name, replacement.folder, ignore=_MADE_HERE, dirs_exist_ok=True)
        if name in _PARTS:
            _take_along(_PARTS[name], replacement.folder)
        replacement.put_in_place()
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _take_along(modules: Sequence[str], folder: Path) -> None:
    """Copy the runner, and modules of this package as a package of the same name."""
    shutil.copy(shipped_folder("export") / "runner" / "protoseg_runner.py", folder)
    package = folder / _PACKAGE.name
    for module in modules:
        (package / module).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(_PACKAGE / module, package / module)
    (package / "__init__.py").write_text(_PART_OF, encoding="utf-8")


def _require_vacant(folder: Path) -> None:
    """Raises UsageError where a file, or a folder with something in it, is."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file", "Choose another --out; nothing was written.")
    if folder.is_dir():
        _require_empty(resolved(folder))


def _require_empty(folder: Path) -> None:
    names = [path.name for path in folder.iterdir() if path.name != LOCK_FILE]
    if names:
        raise UsageError(f"{folder} is not empty: it holds {names[0]}", "Choose another --out; nothing was written.")
