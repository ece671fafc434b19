"""Addresses of models on servers: ``http://host:port/model``, ``grpc://host:port/model``."""

from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from protoseg_deploy.errors import UsageError

_SCHEMES = ("http", "https", "grpc", "grpcs")
_DEFAULT_PORTS = {"http": 8000, "https": 443, "grpc": 8001, "grpcs": 443}
FORM = "An address is http://HOST:PORT/MODEL or grpc://HOST:PORT/MODEL; https:// and grpcs:// use TLS."


@dataclass(frozen=True)
class ModelAddress:
    """A model on a server."""

    protocol: Literal["http", "grpc"]
    secure: bool
    host: str
    """With its port."""
    model: str
    version: str = ""
    """Empty: the one the server chooses."""

    def __str__(self) -> str:
        version = f"/versions/{self.version}" if self.version else ""
        return f"{self.protocol}{'s' if self.secure else ''}://{self.host}/{self.model}{version}"


def is_address(text: str) -> bool:
    """Whether a text names a server rather than a file."""
    scheme, separator, _ = text.removeprefix("triton+").partition("://")
    return bool(separator) and scheme.lower() in _SCHEMES


def parse_address(text: str) -> ModelAddress:
    """Read the address of a model; ``triton+http://`` means ``http://``, and ``/v2/models/`` may stand before the name.

    Raises:
        UsageError: it is none.
    """
    try:
        parts = urlsplit(text.removeprefix("triton+"))
        port, host = parts.port, parts.hostname
    except ValueError as error:
        raise UsageError(f"{text}: not the address of a server: {error}", FORM) from None
    places = [place for place in parts.path.split("/") if place]
    if places[:2] == ["v2", "models"]:
        places = places[2:]
    version = ""
    if len(places) == 3 and places[1] == "versions":
        places, version = places[:1], places[2]
    if not host or len(places) != 1 or parts.query or parts.fragment or parts.username or parts.password:
        reason = "it names no model" if host and not places else "not the address of a model on a server"
        raise UsageError(f"{text}: {reason}", FORM)
    scheme = parts.scheme.lower()
    shown = f"[{host}]" if ":" in host else host
    place = f"{shown}:{_DEFAULT_PORTS[scheme] if port is None else port}"
    protocol: Literal["http", "grpc"] = "http" if scheme.startswith("http") else "grpc"
    return ModelAddress(protocol, scheme.endswith("s"), place, places[0], version)
