"""timm's pretrained weights: from the cache where they lie there, else over the network, which is asked for first."""

import contextlib
import socket
import threading
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import timm
import torch
from huggingface_hub import constants, try_to_load_from_cache

from protoseg_deploy.errors import UsageError

_ANSWER_S = 3.0
"""The longest to wait for a host to answer at all."""


def pretrained_source(name: str) -> dict[str, Any]:
    """What to tell timm about the weights of a model, so that creating it tries nothing in vain.

    Weights that have been fetched before are taken from the cache, without any network. For others their host has to
    answer now: the hub's own attempts go on for a minute.

    Args:
        name: a timm model, with or without the tag of its weights.

    Raises:
        UsageError: there are no such weights, or they cannot be fetched.
    """
    config: Any = timm.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        raise UsageError(
            f"model.weights: timm has no pretrained weights for {name!r}",
            "Set model.weights to a file (.safetensors or .pth) or to `none`, or choose another model.backbone.",
        )
    cached = _cached(config)
    if cached is not None:
        return {"pretrained_cfg_overlay": {"file": str(cached)}}
    if not constants.HF_HUB_OFFLINE:  # else the hub says so itself, at once
        url = constants.ENDPOINT if config.hf_hub_id else config.url
        reason = _unreachable(url) if isinstance(url, str) else ""
        if reason:
            raise cannot_fetch(name, reason)
    return {}


def cannot_fetch(name: str, reason: str) -> UsageError:
    return UsageError(
        f"model.weights: the pretrained weights of {name!r} cannot be fetched: {reason}",
        "Without a network, set model.weights to a file (.safetensors or .pth) or to `none`.",
    )


def _cached(config: Any) -> Path | None:
    """The file of a model's weights, if it has been fetched before; those that timm reads in a way of its own are not
    looked for.
    """
    if config.custom_load == "hf":
        return None
    if config.hf_hub_id:
        repository, _, revision = config.hf_hub_id.partition("@")
        names = [config.hf_hub_filename] if config.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]
        for file in names:
            found = try_to_load_from_cache(repository, file, revision=revision or None)
            if isinstance(found, str):
                return Path(found)
        return None
    if not isinstance(config.url, str):
        return None
    file = Path(torch.hub.get_dir(), "checkpoints", Path(urlsplit(config.url).path).name)
    return file if file.is_file() else None


def _unreachable(url: str) -> str:
    """Why nobody answers at an address, or at the proxy on the way there; empty: somebody does."""
    target = urlsplit(url)
    host, port = target.hostname or "", target.port or (80 if target.scheme == "http" else 443)
    proxy = urllib.request.getproxies().get(target.scheme)
    if proxy and not urllib.request.proxy_bypass(host):
        via = urlsplit(proxy if "//" in proxy else f"//{proxy}")
        host, port = via.hostname or "", via.port or 80
    answer = [f"{host} does not answer"]

    def connect() -> None:
        try:
            with contextlib.closing(socket.create_connection((host, port), timeout=_ANSWER_S)):
                answer[0] = ""
        except OSError as error:
            answer[0] = f"{host}: {error.strerror or error}"

    # Looking up a name has no limit of its own.
    asking = threading.Thread(target=connect, daemon=True)
    asking.start()
    asking.join(_ANSWER_S)
    return answer[0]
