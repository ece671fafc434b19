"""Bodies of HTTP requests that are no inference requests."""

import json
from typing import Any

import numpy as np


def random_body(random: np.random.Generator, number: int) -> tuple[dict[str, str], bytes]:
    """Noise; a header of JSON with another length than it says; JSON that is no request, or is cut off."""
    noise = random.bytes(int(random.integers(0, 400)))
    tensor = {"name": "images", "datatype": "UINT8", "shape": [1, 4, 4, 3]}
    kind = number % 5
    if kind == 0:
        return {}, noise
    if kind == 1:
        return {"Inference-Header-Content-Length": str(int(random.integers(0, 10_000)))}, noise
    if kind == 2:
        tensor["parameters"] = {"binary_data_size": int(random.integers(-5, 47))}
        header = json.dumps({"inputs": [tensor]}).encode()
        return {"Inference-Header-Content-Length": str(len(header))}, header + noise[:40]
    if kind == 3:
        wrong: list[Any] = [None, [], "", -1, {}, [[1]], 2**70, [0, -1], ["a"], True]
        key = ("name", "datatype", "shape")[int(random.integers(3))]
        broken = tensor | {key: wrong[int(random.integers(len(wrong)))], "data": [0] * 48}
        return {}, json.dumps({"inputs": [broken]}).encode()
    whole = json.dumps({"inputs": [tensor | {"data": [7] * 48}]}).encode()
    return {}, whole[: int(random.integers(1, len(whole) - 1))]
