"""Bundles and pictures that the tests of kits share; whoever changes one takes a copy."""

from pathlib import Path

import pytest

from tests.kits.making import hash_bundle, network_bundles, write_common_pictures
from tests.made_once import made_once, session_folder


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See `network_bundles`; made once for all processes of a session."""
    return made_once(session_folder(tmp_path_factory) / "kits-network", network_bundles)


@pytest.fixture(scope="session")
def hashing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See `hash_bundle`."""
    return hash_bundle(tmp_path_factory.mktemp("kits") / "hashing")


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See `write_common_pictures`."""
    folder = tmp_path_factory.mktemp("kits") / "pictures"
    write_common_pictures(folder)
    return folder
