"""Triton's own definition of ``config.pbtxt``, by which every configuration is written and read."""

from typing import Any

from google.protobuf import text_format

from protoseg_deploy.errors import ProtosegError
from protoseg_deploy.extras import require_library

CONFIG_FILE = "config.pbtxt"


def config_types() -> Any:
    """Module with the messages of model configurations, from `tritonclient`.

    Raises:
        UsageError: the library is not installed.
    """
    return require_library("tritonclient.grpc.model_config_pb2", "triton", "model repositories need")


def config_text(config: Any) -> bytes:
    """A configuration as the content of ``config.pbtxt``."""
    text: str = text_format.MessageToString(config, as_utf8=True)
    return text.encode()


def parse_config(content: bytes, source: str) -> Any:
    """A ``ModelConfig`` from the content of ``config.pbtxt``.

    Args:
        content: of the file.
        source: its path, for messages.

    Raises:
        ProtosegError: it is none.
        UsageError: `tritonclient` is not installed.
    """
    types = config_types()
    try:
        return text_format.Parse(content.decode(), types.ModelConfig())
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise ProtosegError(
            f"{source} is no configuration of a Triton model: {error}",
            "Repair it, or remove the model's folder and add the bundle again.",
        ) from None
