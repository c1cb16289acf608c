"""Removing the file of a Unix socket that nobody listens on, and no other."""

import errno
import os
import socket
from pathlib import Path

import pytest

from nsbroker.linux.stale_socket import BoundFile, remove_stale


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A path that is short enough for the address of a socket."""
    monkeypatch.chdir(tmp_path)
    return Path("here")


def test_a_socket_that_nobody_listens_on_is_removed(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
    remove_stale(path)
    assert not path.exists()
    remove_stale(path)


@pytest.mark.parametrize("clients", [0, 2])
def test_a_socket_that_somebody_listens_on_stays(path: Path, clients: int) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(0)
        waiting = [socket.socket(socket.AF_UNIX) for _ in range(clients)]
        for client in waiting:
            client.setblocking(False)
            client.connect_ex(str(path))
        with pytest.raises(OSError, match="in use") as caught:
            remove_stale(path)
        for client in waiting:
            client.close()
    assert caught.value.errno == errno.EADDRINUSE
    assert path.is_socket()


def test_another_file_stays(path: Path) -> None:
    path.write_text("precious")
    with pytest.raises(FileExistsError):
        remove_stale(path)
    link = Path("link")
    os.symlink(path, link)
    with pytest.raises(FileExistsError):
        remove_stale(link)
    assert path.read_text() == "precious"


def test_the_file_that_was_bound_is_removed_once(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        file = BoundFile(path)
        file.remove()
        assert not path.exists()
        file.remove()


def test_a_file_that_took_the_place_of_the_one_that_was_bound_stays(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock, socket.socket(socket.AF_UNIX) as later:
        sock.bind(str(path))
        file = BoundFile(path)
        path.unlink()
        later.bind(str(path))
        file.remove()
        assert path.is_socket()
        path.unlink()
        os.symlink("/dev/null", path)
        file.remove()
        assert path.is_symlink()


def test_where_there_was_no_file_none_is_removed(path: Path) -> None:
    file = BoundFile(path)
    path.write_text("precious")
    file.remove()
    assert path.read_text() == "precious"
