"""The state directory of a crun with one container, and the path of the socket of a made-up engine."""

import os
from pathlib import Path

import pytest


@pytest.fixture
def place(tmp_path: Path) -> Path:
    place = tmp_path / "crun"
    (place / "web").mkdir(parents=True)
    return place


@pytest.fixture
def path() -> Path:
    # pytest's temporary paths can be too long for a socket's address.
    return Path(f"/run/fake-{os.getpid()}")
