"""Load of other programs, told apart from one's own."""

import subprocess
import sys
import time

from protoseg_deploy.benchmarking.neighbours import NeighbourLoad

BUSY = "import time\nend = time.monotonic() + 60\nwhile time.monotonic() < end: pass"


def test_another_program_is_seen() -> None:
    with subprocess.Popen([sys.executable, "-c", BUSY]) as other:
        try:
            load = NeighbourLoad()
            time.sleep(1.5)
            assert load.cores() > 0.1
        finally:
            other.kill()


def test_a_moment_tells_nothing() -> None:
    assert NeighbourLoad().cores() is None
