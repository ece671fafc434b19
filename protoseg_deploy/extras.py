"""Libraries that only some commands need, each with the command that installs it."""

from importlib import import_module
from typing import Any

from protoseg_deploy.errors import UsageError


def require_library(name: str, extra: str, purpose: str) -> Any:
    """An optional library, imported.

    Args:
        name: of the module.
        extra: of this package that installs it.
        purpose: what needs it, with the verb: ``paths like s3://a need``.

    Raises:
        UsageError: it, or a library that it needs, is not installed or cannot be imported.
    """
    try:
        return import_module(name)
    except ImportError as error:
        missing = (error.name or name).partition(".")[0]
        state = "is not installed" if isinstance(error, ModuleNotFoundError) else f"cannot be imported: {error}"
        raise UsageError(f"{purpose} {missing}, which {state}", f"pip install 'protoseg-deploy[{extra}]'") from None
