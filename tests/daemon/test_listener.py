import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsbroker.daemon.listener import own_socket, passed_socket
from nsbroker.errors import ConfigurationError
from tests.world import ALICE


@pytest.fixture
def place() -> Iterator[Path]:
    folder = Path(f"/run/listen-{os.getpid()}")
    yield folder / "socket"
    if folder.exists():
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()


def test_the_socket_is_open_to_all_and_its_folder_to_root_alone(place: Path) -> None:
    listener = own_socket(place)
    assert stat.S_IMODE(place.stat().st_mode) == 0o666
    assert stat.S_IMODE(place.parent.stat().st_mode) == 0o755
    listener.close()
    assert not place.exists()


def test_a_stale_socket_is_replaced(place: Path) -> None:
    place.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(place))
    own_socket(place).close()


def test_a_running_broker_is_left_alone(place: Path) -> None:
    listener = own_socket(place)
    with pytest.raises(ConfigurationError, match="already running"):
        own_socket(place)
    assert place.exists()
    listener.close()


def test_a_socket_of_a_later_broker_is_left_alone(place: Path) -> None:
    listener = own_socket(place)
    place.unlink()
    later = own_socket(place)
    listener.close()
    assert place.is_socket()
    later.close()
    assert not place.exists()


def test_something_else_than_a_socket_is_left_alone(place: Path) -> None:
    place.parent.mkdir()
    place.write_text("precious")
    with pytest.raises(ConfigurationError, match="a file that is not a socket"):
        own_socket(place)
    assert place.read_text() == "precious"


@pytest.mark.parametrize("mode", [0o777, 0o775])
def test_a_folder_that_others_can_write_is_refused(place: Path, mode: int) -> None:
    place.parent.mkdir()
    place.parent.chmod(mode)
    with pytest.raises(ConfigurationError, match="their own socket"):
        own_socket(place)


@pytest.mark.root
def test_a_folder_of_somebody_else_is_refused(place: Path) -> None:
    place.parent.mkdir()
    os.chown(place.parent, ALICE, ALICE)
    with pytest.raises(ConfigurationError, match="their own socket"):
        own_socket(place)


def test_a_path_that_cannot_exist_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot listen there"):
        own_socket(tmp_path / "file" / "socket")


def test_only_one_listening_unix_stream_socket_is_taken_from_the_service_manager() -> None:
    good = socket.socket(socket.AF_UNIX)
    good.bind(f"\0nsbroker-test-{os.getpid()}")
    good.listen()
    listener = passed_socket([os.dup(good.fileno())])
    assert not os.get_inheritable(listener.sock.fileno())
    listener.close()
    with socket.socket(socket.AF_UNIX) as deaf, socket.socket(socket.AF_INET) as inet:
        for fds in ([deaf.fileno()], [inet.fileno()], [good.fileno(), deaf.fileno()]):
            with pytest.raises(ConfigurationError, match="exactly one"):
                passed_socket([os.dup(fd) for fd in fds])
    good.close()
