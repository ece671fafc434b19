"""What holds for every call, whatever it was given: a right result or one error, nothing harmed, no hang."""

import hashlib
import os
import re
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.corpus.kits import Kits
from tests.corpus.launching import LIMIT_S, MEMORY_MIB, Ended, Launcher


@dataclass
class Place:
    """Where a case makes its inputs, and where alone the command may write."""

    root: Path
    kits: Kits
    outputs: list[Path] = field(default_factory=list)
    """Files and folders that the command was given to write to."""

    def output(self, name: str) -> Path:
        """A path for the command to write to."""
        path = self.root / name
        self.outputs.append(path)
        return path

    def __truediv__(self, name: str) -> Path:
        return self.root / name


Make = Callable[[Place], Sequence[object]]
"""Makes the inputs of a case; returns the command line."""
Check = Callable[[Place, Ended], None]
"""Raises AssertionError where the result of a call that ended well is not right."""


@dataclass(frozen=True)
class Case:
    """One broken or hostile input."""

    name: str
    make: Make
    names: tuple[str, ...] = ()
    """The error names one of these: a file, a key, an option."""
    right: Check | None = None
    """What is right where the call ends well; None: it must not."""
    must_pass: bool = False
    """It looks odd and is fine: an error would be wrong."""
    after: Check | None = None
    """What holds after an error, too: that good neighbours of a bad image are done."""
    encoding: str = "utf-8"
    memory_mib: int = MEMORY_MIB
    limit_s: float = LIMIT_S
    most_characters: int = 4000
    """An error is read by people: it is no longer than this."""

    @property
    def codes(self) -> tuple[int, ...]:
        """Exit codes that are right."""
        if self.right is None:
            return 1, 2
        return (0,) if self.must_pass else (0, 1, 2)


def judge(case: Case, place: Place, launcher: Launcher) -> Ended:
    """Make the inputs of a case, call the command, and hold the call to all that is asked of it."""
    for name in ("tmp", "home"):
        (place / name).mkdir()
    arguments = [str(word) for word in case.make(place)]
    before = tree_digest(place.root, place.outputs)
    there = {path: tree_digest(path, []) for path in place.outputs}
    environment = {"TMPDIR": str(place / "tmp"), "HOME": str(place / "home"), "PROTOSEG_CACHE": str(place / "cache")}
    ended = launcher.call(
        arguments,
        place.root,
        environment,
        encoding=case.encoding,
        limit_s=case.limit_s,
        memory_mib=case.memory_mib,
    )
    told = (
        f"\n$ protoseg {' '.join(arguments)[:600]}\nexit {ended.code}\n{ended.out.decode(errors='replace')[-3000:]}\n"
        + (ended.err.decode(errors="replace")[-6000:])
    )
    assert not ended.hung, f"hung{told}"
    assert b"Traceback (most recent call last)" not in ended.out + ended.err, f"a traceback{told}"
    assert ended.code >= 0, f"crashed{told}"
    assert ended.code in case.codes, f"exit code {ended.code}, not one of {case.codes}{told}"
    changed = _differences(before, tree_digest(place.root, place.outputs))
    assert not changed, f"inputs changed, or files elsewhere than in the output: {changed}{told}"
    if ended.code == 0 and case.right is not None:
        case.right(place, ended)
    else:
        for path, content in there.items():
            lost = [name for name in content if name not in _kept(content, path)]
            assert not lost, f"lost or changed in {path}: {lost}{told}"
        _judge_error(case, ended, told)
        if case.after is not None:
            case.after(place, ended)
    left = [str(path) for output in place.outputs for path in _leftovers(output)]
    assert not left, f"left behind: {left}{told}"
    return ended


def _judge_error(case: Case, ended: Ended, told: str) -> None:
    """One error, for people: it can be read, and names what is wrong."""
    text = ended.err.decode(case.encoding)
    errors = re.findall(r"^Error: ", text, re.MULTILINE)
    assert len(errors) == 1, f"{len(errors)} errors instead of one{told}"
    assert len(text) <= case.most_characters, f"an error of {len(text)} characters{told}"
    control = re.search(r"[\x00-\x08\x0b-\x1f\x7f]", text)
    assert control is None, f"control characters on the screen: {control}{told}"
    assert not re.search(r"\.py:\d+|<class '|object at 0x", text), f"internals on the screen{told}"
    assert any(name in text for name in case.names), f"names none of {case.names}{told}"


def tree_digest(root: Path, leave_out: Sequence[Path]) -> dict[str, str]:
    """Everything below a folder by its path: kind and permissions, content or where a link leads."""
    content: dict[str, str] = {}
    pending = [root] if root.is_symlink() or root.exists() else []
    while pending:
        path = pending.pop()
        if path in leave_out or path.name == "cache":
            continue
        status = path.lstat()
        name = os.fsencode(path.relative_to(root)).decode(errors="backslashreplace")
        mode = status.st_mode
        content[name] = f"{mode:o}"
        if stat.S_ISLNK(mode):
            content[name] += os.fsencode(path.readlink()).hex()
        elif stat.S_ISREG(mode):
            content[name] += hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
        elif stat.S_ISDIR(mode):
            pending += path.iterdir()
    return content


def _differences(before: dict[str, str], after: dict[str, str]) -> list[str]:
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def _kept(content: dict[str, str], path: Path) -> set[str]:
    now = tree_digest(path, [])
    return {name for name, digest in content.items() if now.get(name) == digest}


def _leftovers(output: Path) -> list[Path]:
    """Scratch files and locks in an output, for which a call that has ended has no use."""
    found = output.rglob(".*") if output.is_dir() and not output.is_symlink() else ()
    return [path for path in found if path.suffix in {".tmp", ".old", ".lock"}]
