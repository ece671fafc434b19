"""What was found: one line each, with what to do about it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["ok", "missing", "problem"]
"""``missing``: something optional is not there. ``problem``: what is there does not work as it should."""


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    name: str
    state: State
    fact: str
    fix: str = ""
    """The command that adds what is missing, or what to change; empty: nothing can be done, or need be."""
    core: bool = False
    """A problem with it keeps training and export from working."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Values for ``--json``, with units in their names."""

    def as_document(self, section: str) -> dict[str, Any]:
        """JSON values; `section` is the title it stands under."""
        document: dict[str, Any] = {"section": section, "name": self.name, "state": self.state, "fact": self.fact}
        return document | {"fix": self.fix or None, "core": self.core, "details": dict(self.details)}


@dataclass(frozen=True)
class Section:
    """Findings that belong together."""

    title: str
    findings: tuple[Finding, ...]


def works(sections: Iterable[Section]) -> bool:
    """Whether training and export can work at all."""
    return not any(finding.core and finding.state == "problem" for section in sections for finding in section.findings)


def gib(size_bytes: float) -> str:
    """A size as people read it, in GiB, or in MiB below one."""
    return f"{size_bytes / 2**30:.1f} GiB" if size_bytes >= 2**30 else f"{size_bytes / 2**20:.0f} MiB"
