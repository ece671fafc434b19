"""Names for trackers of a test, and an event that frees those that block."""

import threading

import pytest

from protoseg_deploy.registry import TRACKERS


@pytest.fixture
def known(monkeypatch):
    """Gives names to classes for the time of a test: ``known(bad=raising("start"))``."""
    monkeypatch.setattr(TRACKERS, "registered", dict(TRACKERS.registered))

    def register(**classes):
        TRACKERS.registered.update(classes)
        return list(classes)

    return register


@pytest.fixture
def release():
    event = threading.Event()
    yield event
    event.set()
