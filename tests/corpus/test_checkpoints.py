"""Checkpoints that are torn, altered or somebody else's: a run resumes to the bit, or says which file is damaged."""

import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.corpus.judging import Case, Place
from tests.corpus.kits import interrupted
from tests.corpus.launching import Ended
from tests.corpus.spoiling import NASTY, flipped

Spoil = Callable[[Path], object]


def _resume(spoil: Spoil) -> Callable[[Place], list[object]]:
    """The only checkpoint spoilt."""

    def make(place: Place) -> list[object]:
        run = interrupted(place.kits.run(), place.output("run"))
        spoil(run / "checkpoints" / "step-00000002.pt")
        return ["train", "--run", run, "--resume"]

    return make


def _resume_with_an_older_one(spoil: Spoil) -> Callable[[Place], list[object]]:
    """The newer of two checkpoints spoilt."""

    def make(place: Place) -> list[object]:
        run = interrupted(place.kits.run(), place.output("run"))
        newer = run / "checkpoints" / "step-00000004.pt"
        newer.write_bytes((place.kits.run() / "checkpoints" / newer.name).read_bytes())
        spoil(newer)
        return ["train", "--run", run, "--resume"]

    return make


def _is_the_same(place: Place, ended: Ended) -> None:
    """What an uninterrupted run had come to."""
    for name in ("last.safetensors", "best.safetensors"):
        assert (place / "run" / name).read_bytes() == (place.kits.run() / name).read_bytes(), name


def either(name: str, spoil: Spoil) -> Case:
    return Case(name, _resume(spoil), ("step-00000002.pt",), right=_is_the_same)


def refuses(name: str, spoil: Spoil) -> Case:
    return Case(name, _resume(spoil), ("step-00000002.pt",))


def goes_back(name: str, spoil: Spoil) -> Case:
    """The run resumes from the older checkpoint and says so."""

    def check(place: Place, ended: Ended) -> None:
        _is_the_same(place, ended)
        assert b"step-00000004.pt" in ended.out + ended.err

    return Case(f"an-older-one-and-{name}", _resume_with_an_older_one(spoil), right=check, must_pass=True)


def _state(change: Callable[[dict[str, Any]], object]) -> Spoil:
    def spoil(path: Path) -> None:
        state = torch.load(path, weights_only=True)
        changed = change(state)
        torch.save(state if changed is None or isinstance(changed, torch.Tensor) else changed, path)

    return spoil


def _set(key: str, value: Any) -> Spoil:
    return _state(lambda state: state.update({key: value}))


class _Command:
    """What a hostile pickle runs when it is read."""

    def __reduce__(self) -> Any:
        return os.system, ("touch pwned",)


def _rewritten(change: Callable[[bytes], bytes]) -> Spoil:
    return lambda path: path.write_bytes(change(path.read_bytes()))


def _cut(size: int) -> Spoil:
    return _rewritten(lambda content: content[:size])


def _zeroed(content: bytes) -> bytes:
    return content[:300_000] + bytes(64) + content[300_064:]


def _flip(seed: int) -> Spoil:
    return _rewritten(lambda content: flipped(content, seed))


def _pickle_flipped(seed: int) -> Spoil:
    """Bits of the pickle inside the archive flipped, checksums made right."""

    def spoil(path: Path) -> None:
        with zipfile.ZipFile(path) as archive:
            entries = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in entries:
                archive.writestr(name, flipped(content, seed, 2) if name.endswith("data.pkl") else content)

    return spoil


def _first_weight(value: float) -> Spoil:
    def change(state: dict[str, Any]) -> None:
        first = next(tensor for tensor in state["student"].values() if tensor.ndim == 4)
        first[0, 0, 0, 0] = value

    return _state(change)


def _one_weight_shorter(state: dict[str, Any]) -> None:
    name = next(name for name, tensor in state["student"].items() if tensor.ndim == 4)
    state["student"][name] = state["student"][name][:-1].clone()


_KEYS = (
    "step", "student", "teacher", "method_name", "method", "optimizer", "schedule", "scaler", "best", "latest",
    "seconds", "random",
)  # fmt: skip


def _spoilt_states() -> Iterator[Case]:
    kinds = [name for name in NASTY if name not in ("nan", "infinity", "surrogate", "long")]
    for number, key in enumerate(_KEYS):
        yield either(f"{key}-missing", _state(lambda state, key=key: state.pop(key) and None))
        name = kinds[(5 * number) % len(kinds)]
        yield either(f"{key}={name}", _set(key, NASTY[name]))


STATES = [
    *_spoilt_states(),
    refuses("an-empty-map", _state(lambda state: {"x": {}})),
    refuses("a-list", _state(lambda state: [state])),
    refuses("a-number", _state(lambda state: 5)),
    refuses("step-below-0", _set("step", -1)),
    refuses("step-behind-the-last", _set("step", 10**6)),
    refuses("step-a-fraction", _set("step", 2.5)),
    Case("of-another-method", _resume(_set("method_name", "corrmatch")), ("corrmatch",)),
    refuses("best-of-other-keys", _set("best", {"a": 1})),
    refuses("student-of-other-names", _set("student", {"a": torch.zeros(3)})),
    refuses("student-of-text", _state(lambda state: state["student"].update(dict.fromkeys(state["student"], "x")))),
    refuses("student-a-weight-shorter", _state(_one_weight_shorter)),
    refuses("student-a-weight-missing", _state(lambda state: state["student"].popitem() and None)),
    refuses("student-nan", _first_weight(float("nan"))),
    refuses("student-infinite", _first_weight(float("inf"))),
    refuses("optimizer-without-groups", _state(lambda state: state["optimizer"].update(param_groups=[]))),
    refuses("random-of-noise", _set("random", {"torch": torch.zeros(5, dtype=torch.uint8)})),
]
FILES = [
    refuses("empty", lambda path: path.write_bytes(b"")),
    refuses("text", lambda path: path.write_bytes(b"no checkpoint")),
    refuses("zeros", lambda path: path.write_bytes(bytes(10_000))),
    refuses("folder", lambda path: (path.unlink(), path.mkdir())),
    refuses("named-pipe", lambda path: (path.unlink(), os.mkfifo(path))),
    refuses("link-to-a-device", lambda path: (path.unlink(), path.symlink_to("/dev/zero"))),
    refuses("link-to-nowhere", lambda path: (path.unlink(), path.symlink_to("nowhere"))),
    refuses("hostile", lambda path: torch.save({"step": _Command()}, path)),
    refuses("an-archive-of-nothing", lambda path: zipfile.ZipFile(path, "w").close()),
    *(refuses(f"cut-to-{size}", _cut(size)) for size in (1, 1000, 500_000)),
    refuses("cut-by-1", _rewritten(lambda content: content[:-1])),
    refuses("bytes-in-the-middle-zeroed", _rewritten(_zeroed)),
    *(either(f"bits-flipped-{seed}", _flip(seed)) for seed in range(4)),
    *(either(f"bits-of-the-pickle-flipped-{seed}", _pickle_flipped(seed)) for seed in range(8)),
    goes_back("empty", lambda path: path.write_bytes(b"")),
    goes_back("cut", _rewritten(lambda content: content[:500_000])),
    goes_back("noise", lambda path: path.write_bytes(bytes(range(256)) * 50)),
    goes_back("hostile", lambda path: torch.save({"step": _Command()}, path)),
    goes_back("a-named-pipe", lambda path: (path.unlink(), os.mkfifo(path))),
    goes_back("no-state", _state(lambda state: {"x": {}})),
]  # fmt: skip


@pytest.mark.parametrize("case", [*STATES, *FILES], ids=lambda case: case.name)
def test_checkpoint(case: Case, try_case: Callable[[Case], Ended]) -> None:
    assert try_case(case).code in case.codes


def _replay(name: str, write: Spoil) -> Case:
    """Skipped steps that a run has kept are read with the same care."""

    def make(place: Place) -> list[object]:
        write(place / "skipped-step-00000001.pt")
        return ["train", "--replay", place / "skipped-step-00000001.pt"]

    return Case(f"replay-{name}", make, ("skipped-step-00000001.pt",))


REPLAYS = [
    _replay("missing", lambda path: None),
    _replay("empty", lambda path: path.write_bytes(b"")),
    _replay("text", lambda path: path.write_bytes(b"no step")),
    _replay("a-number", lambda path: torch.save(5, path)),
    _replay("a-map", lambda path: torch.save({"batch": 1, "recipe": "data: {}"}, path)),
    _replay("hostile", lambda path: torch.save(_Command(), path)),
    _replay("named-pipe", os.mkfifo),
]


@pytest.mark.parametrize("case", REPLAYS, ids=lambda case: case.name)
def test_replay(case: Case, try_case: Callable[[Case], Ended]) -> None:
    assert try_case(case).code in case.codes
