"""One writer at a time, named; a dead one keeps nobody out."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from protoseg_deploy.errors import ProtosegError
from protoseg_deploy.locks import LockedError, Owner, owner_of, sole_writer

_HOLD = """
import sys, time
from pathlib import Path
from protoseg_deploy.locks import sole_writer
with sole_writer(Path(sys.argv[1]), "run a"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / ".lock"


@pytest.fixture
def holder(lock: Path):
    process = subprocess.Popen([sys.executable, "-c", _HOLD, str(lock)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_writer_is_refused_with_the_name_of_the_first(lock: Path, holder) -> None:
    assert owner_of(lock) == Owner(host=socket.gethostname(), pid=holder.pid)
    with (
        pytest.raises(LockedError, match=f"run a is being written by process {holder.pid} on {socket.gethostname()}"),
        sole_writer(lock, "run a"),
    ):
        pass
    assert owner_of(lock) is not None, "looking and being refused leave the lock with its owner"


def test_a_killed_writer_keeps_nobody_out(lock: Path, holder) -> None:
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert lock.is_file()
    assert owner_of(lock) is None
    with sole_writer(lock, "run a"):
        assert Owner.model_validate_json(lock.read_bytes()).pid == os.getpid()
    assert not lock.exists()


def test_a_lock_can_be_waited_for(lock: Path, holder) -> None:
    killer = subprocess.Popen(["sh", "-c", f"sleep 0.3; kill -9 {holder.pid}"])
    with sole_writer(lock, "run a", wait_s=30):
        pass
    killer.wait()


def test_forked_processes_do_not_inherit_it(lock: Path) -> None:
    """A data-loader worker lives on for a while when its parent is killed."""
    program = _HOLD.replace("print(", "import os; os.fork() or time.sleep(600); print(")
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(lock)], stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline(), "printed once it holds the lock and has forked"
        assert owner_of(lock) is not None
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        with sole_writer(lock, "run a"):
            pass
    finally:
        os.killpg(process.pid, signal.SIGKILL)


def test_a_process_is_kept_from_itself(lock: Path) -> None:
    with sole_writer(lock, "run a"):
        with pytest.raises(LockedError, match="this process"), sole_writer(lock, "run a"):
            pass
        assert lock.exists()


def test_a_writer_on_another_host_is_gone_after_a_minute_without_a_sign_of_life(lock: Path) -> None:
    lock.write_text(Owner(host="elsewhere", pid=7).model_dump_json())
    os.utime(lock, (time.time() - 20, time.time() - 20))
    with (
        pytest.raises(LockedError, match=r"process 7 on another host, elsewhere.* 2\d s ago") as raised,
        sole_writer(lock, "run a", take_over_option="--take-over"),
    ):
        pass
    assert "--take-over" in raised.value.hint
    assert Owner.model_validate_json(lock.read_bytes()).host == "elsewhere"
    with sole_writer(lock, "run a", take_over=True):
        pass
    lock.write_text(Owner(host="elsewhere", pid=7).model_dump_json())
    os.utime(lock, (time.time() - 100, time.time() - 100))
    with sole_writer(lock, "run a"):
        pass


def test_a_restart_of_the_same_job_owns_what_it_owned(lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job-1")
    lock.write_text(Owner(host="elsewhere", pid=7, job="job-1").model_dump_json())
    with sole_writer(lock, "run a"):
        pass
    lock.write_text(Owner(host="elsewhere", pid=7, job="job-2").model_dump_json())
    with pytest.raises(LockedError), sole_writer(lock, "run a"):
        pass


def test_a_lock_file_that_says_nothing_is_nobodys(lock: Path) -> None:
    lock.write_bytes(b"\xff{")
    with sole_writer(lock, "run a"):
        pass


def test_a_lock_that_cannot_be_written(lock: Path, tmp_path: Path) -> None:
    with pytest.raises(ProtosegError, match="nowhere"), sole_writer(tmp_path / "nowhere" / ".lock", "run a"):
        pass
    lock.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ProtosegError, match=r"\.lock"), sole_writer(lock, "run a"):
        pass
    assert not (tmp_path / "elsewhere").exists(), "a lock is no way out of the folder"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe_is_no_lock(lock: Path) -> None:
    os.mkfifo(lock)
    with pytest.raises(ProtosegError, match=r"cannot write .*\.lock"), sole_writer(lock, "run a"):
        pass
    assert lock.is_fifo()
