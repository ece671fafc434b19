"""Trackers that tests register: they note, raise or block."""

import threading
from typing import ClassVar

from protoseg_deploy.training.trackers import Tracker


class Noting(Tracker):
    """Keeps what it is told, in a list of the class."""

    told: ClassVar[list] = []

    def start(self, facts):
        self.told.append(("start", facts))

    def scalars(self, values, step):
        self.told.append(("scalars", step, dict(values)))

    def finish(self, outcome):
        self.told.append(("finish", outcome))


def noting():
    """A class with a list of its own."""
    return type("Noting", (Noting,), {"told": []})


def raising(where):
    def fail(self, *arguments):
        raise ConnectionError("no route to host\nsecond line \x1b[31m")

    return type("Raising", (noting(),), {where: fail})


def blocking(where, release: threading.Event):
    """Waits until it is released."""

    def block(self, *arguments):
        release.wait(60)

    return type("Blocking", (noting(),), {where: block})
