"""Text from outside, such as file names, class names and what libraries say, made fit for terminals and for JSON."""

import re
from typing import Any

_SURROGATES = re.compile("[\ud800-\udfff]+")
_CONTROLS = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Control characters but tab and line feed, and those that reverse or hide what stands around them."""
_LONGEST_SHOWN = 80


def readable(text: str) -> str:
    r"""Text that is valid Unicode: bytes of a file name that are not UTF-8 become ``\xHH``.

    Python holds such bytes as lone surrogates, which UTF-8 cannot express and many JSON readers refuse.
    """
    return _SURROGATES.sub(lambda match: _readable_bytes(match[0]), text)


def printable(text: str) -> str:
    r"""Readable text that cannot steer a terminal: control characters become ``\xHH`` or ``\uHHHH``."""
    return _CONTROLS.sub(_escaped, readable(text))


def one_line(text: str) -> str:
    """Printable text without line breaks."""
    return printable(text).replace("\n", "\\n")


def shown(value: Any) -> str:
    """A short representation of any value for an error message."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**_LONGEST_SHOWN:
        return "a number of more than 80 digits"  # Python refuses to write out those of 4,300 digits
    if isinstance(value, str):
        text = repr(value[: _LONGEST_SHOWN + 1])
    elif isinstance(value, (dict, list, tuple, set)):
        text = _shown_items(value)
    else:
        text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN + 2 else f"{text[:_LONGEST_SHOWN]}…"


def _shown_items(value: Any) -> str:
    items = list(value.items() if isinstance(value, dict) else value)[:4]
    if isinstance(value, dict):
        text = ", ".join(f"{_leaf(key)}: {_leaf(item)}" for key, item in items)
    else:
        text = ", ".join(_leaf(item) for item in items)
    more = ", …" if len(value) > len(items) else ""
    return f"{{{text}{more}}}" if isinstance(value, dict) else f"[{text}{more}]"


def _leaf(value: Any) -> str:
    return "…" if isinstance(value, (dict, list, tuple, set)) and value else shown(value)


def _readable_bytes(text: str) -> str:
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # surrogates that stand for no byte
        return text.encode("utf-8", "backslashreplace").decode()


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
