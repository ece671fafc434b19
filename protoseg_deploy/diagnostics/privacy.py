"""A report that people attach to a public bug report says nothing about who they are and where it was made."""

import re
from collections.abc import Iterable
from typing import Any

_OF_NOBODY = frozenset({"root", "user", "ubuntu", "runner", "docker", "app", "admin", "nobody", "localhost", "build"})
"""Names of accounts and hosts that tell nothing, and are words of messages."""
_SHORTEST = 3
_OTHER_HOMES = re.compile(r"(?P<above>/home/|/Users/|\\Users\\)(?P<name>[^/\\\s:'\"]+)")


class Scrubber:
    """Takes home folders, the user and the host out of texts.

    Args:
        homes: home folders, as paths; the user's, also where it is a link, and where it leads to.
        users: names of the user.
        hosts: names of the machine, with and without its domain.
    """

    def __init__(self, homes: Iterable[str], users: Iterable[str], hosts: Iterable[str]) -> None:
        folders = {home.rstrip("/\\") for home in homes}
        self._homes = sorted((home for home in folders if home.count("/") + home.count("\\") > 0), key=len)[::-1]
        self._words = [(_pattern(name), "USER") for name in _telling(users)]
        self._words += [(_pattern(name), "HOST") for name in _telling(hosts)]

    def text(self, text: str) -> str:
        """The text with ``~`` for a home folder, ``USER`` and ``HOST`` for names."""
        for home in self._homes:
            text = re.sub(re.escape(home) + r"(?![\w.-])", "~", text)
        text = _OTHER_HOMES.sub(lambda match: f"{match['above']}USER", text)
        for pattern, replacement in self._words:
            text = pattern.sub(replacement, text)
        return text

    def value(self, value: Any) -> Any:
        """The same for all texts in a JSON value, keys included."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.text(str(key)): self.value(item) for key, item in value.items()}
        return [self.value(item) for item in value] if isinstance(value, (list, tuple)) else value


def _telling(names: Iterable[str]) -> list[str]:
    """The names worth replacing, the longest first: one may be part of another."""
    kept = {name for name in names if len(name) >= _SHORTEST and name.lower() not in _OF_NOBODY}
    return sorted(kept, key=len, reverse=True)


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w]){re.escape(name)}(?![\w])", re.IGNORECASE)
