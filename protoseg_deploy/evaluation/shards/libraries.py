"""Libraries that only sharded prediction needs, each with the command that installs it."""

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
        UsageError: it is not installed.
    """
    try:
        return import_module(name)
    except ImportError:
        raise UsageError(
            f"{purpose} {name.partition('.')[0]}, which is not installed", f"pip install 'protoseg-deploy[{extra}]'"
        ) from None


pa: Any = require_library("pyarrow", "batch", "sharded prediction needs")
pq: Any = require_library("pyarrow.parquet", "batch", "sharded prediction needs")
