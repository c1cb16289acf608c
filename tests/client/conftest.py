"""A fake broker that never replies."""

import os
import socket
from collections.abc import Iterator

import pytest


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a fake broker that never replies, because the real one does."""
    path = f"/run/silent-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        yield f"unix:{path}"
    os.unlink(path)
