"""A stand-in for journald."""

import socket
from collections.abc import Iterator

import pytest

from nsbroker.daemon.systemd import journal as journal_module
from tests.world import PATIENCE


@pytest.fixture
def journal() -> Iterator[socket.socket]:
    """A socket at journald's path.  A real journald needs a booted systemd, but what is sent to it is the same."""
    journal_module.PLACE.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(journal_module.PLACE))
        sock.settimeout(PATIENCE)
        yield sock
    journal_module.PLACE.unlink()
    journal_module.PLACE.parent.rmdir()
    journal_module.PLACE.parent.parent.rmdir()
