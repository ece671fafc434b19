"""Recipes and deployment kits that come with the package."""

from pathlib import Path

import protoseg_deploy

_PACKAGE = Path(protoseg_deploy.__file__).parent


def shipped_folder(name: str) -> Path:
    """``recipes`` or ``export``: inside an installed wheel, or beside the package in a source tree."""
    installed = _PACKAGE / "shipped" / name
    return installed if installed.is_dir() else _PACKAGE.parent / name


def shipped_recipe_names() -> list[str]:
    return sorted(path.stem for path in shipped_folder("recipes").glob("*.yaml"))


def shipped_recipe_path(name: str) -> Path:
    return shipped_folder("recipes") / f"{name}.yaml"
