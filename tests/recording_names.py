"""A program: run a command where every name it looks up is recorded, in whatever language that is done.

    python tests/recording_names.py OUT COMMAND...

Namespaces of its own (see `recorded`) hold no network but a name server on the loopback device, which answers that no
name exists and writes what it was asked for to OUT, one name a line.
"""

import ctypes
import fcntl
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP, _MS_BIND = 0x8913, 0x8914, 0x1, 0x1000


def recorded(command: list[str], out: Path, **options) -> tuple[subprocess.CompletedProcess, list[str]]:
    """What a command came to and the names that it looked up; skips the test where that cannot be recorded."""
    separate = next((words for words in _ways_to_separate() if _works(words)), None)
    if separate is None:
        pytest.skip("recording name look-ups needs `unshare` and the right to separate network and mounts")
    done = subprocess.run(
        [*separate, sys.executable, __file__, str(out), *command], capture_output=True, text=True, **options
    )
    return done, out.read_text().split()


def _ways_to_separate() -> list[list[str]]:
    if not sys.platform.startswith("linux") or shutil.which("unshare") is None:
        return []
    return [["unshare", "-mn"], ["unshare", "-mn", "--map-root-user"]]


def _works(separate: list[str]) -> bool:
    probe = [*separate, sys.executable, __file__, os.devnull, "true"]
    return subprocess.run(probe, capture_output=True).returncode == 0


def _main(out: str, command: list[str]) -> int:
    _bring_up_loopback()
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 53))
    folder = Path(tempfile.mkdtemp())
    for name, text in (("resolv.conf", "nameserver 127.0.0.1\n"), ("nsswitch.conf", "hosts: files dns\n")):
        (folder / name).write_text(text)
        _bind(folder / name, Path("/etc", name).resolve())
    with Path(out).open("w", buffering=1) as asked:
        threading.Thread(target=_answer, args=(server, asked), daemon=True).start()
        return subprocess.run(command).returncode


def _bring_up_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        (flags,) = struct.unpack("16xh6x", fcntl.ioctl(control, _SIOCGIFFLAGS, struct.pack("16s8x", b"lo")))
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh6x", b"lo", flags | _IFF_UP))


def _bind(source: Path, target: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(os.fsencode(source), os.fsencode(target), None, _MS_BIND, None):
        raise OSError(ctypes.get_errno(), "cannot mount", str(target))


def _answer(server: socket.socket, asked) -> None:
    while True:
        query, client = server.recvfrom(4096)
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1 : at + 1 + query[at]].decode(errors="replace"))
            at += 1 + query[at]
        print(".".join(labels), file=asked)
        no_such_name = struct.pack(">HHHHH", 0x8183, 1, 0, 0, 0)
        server.sendto(query[:2] + no_such_name + query[12 : at + 5], client)


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1], sys.argv[2:]))
