"""File names of results: equal ones are found whatever the file system, and none is too long."""

import hashlib
import os
import unicodedata

_LONGEST_NAME = 255
"""Bytes of a file name that every common file system takes."""


def folded(name: str) -> str:
    """Equal for names that some file systems hold to be one: upper and lower case, and how accents are encoded."""
    return name.lower() if name.isascii() else unicodedata.normalize("NFC", name).casefold()


def fitted(name: str) -> str:
    """A file name ending in .png, cut where file systems would not take it; a digest of it then tells it from others.

    Args:
        name: without folders.
    """
    encoded = os.fsencode(name)
    if len(encoded) <= _LONGEST_NAME:
        return name
    ending = f"-{hashlib.sha256(encoded).hexdigest()[:16]}.png"
    return encoded[: _LONGEST_NAME - len(ending)].decode(errors="ignore") + ending
