"""What several files of this folder use."""

import dataclasses
from pathlib import Path

import pytest

from protoseg_deploy.runtimes import opening
from tests.fake_runtime import FakeRuntime


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeRuntime:
    """What every path opens: the red channel is the class."""
    (tmp_path / "weights").write_bytes(b"weights")
    fake = FakeRuntime(lambda images: images[..., 0] % 4)
    fake.info = dataclasses.replace(fake.info, files=(tmp_path / "weights",))
    monkeypatch.setattr(opening, "open_runtime", lambda *_, **__: fake)
    return fake
