"""One verified bundle for the tests of servers."""

from pathlib import Path

import pytest

from tests.serving.bundles import shared_bundle


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Verified fp32 and int8 graphs of any size, with all outputs; whoever changes it takes a copy."""
    return shared_bundle(tmp_path_factory)
