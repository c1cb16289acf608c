"""`from_docker`: namespaces of docker's containers without the broker."""

import http.server
import os
import socket
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsbroker.errors import (
    AmbiguousTarget,
    EngineUnavailable,
    InvalidTarget,
    InvalidType,
    NoSuchTarget,
    PermissionDenied,
)
from nsbroker.namespace.docker import from_docker
from tests.engines.conftest import started
from tests.engines.real import IMAGE, SLEEP, Docker
from tests.world import ALICE, Sleeper, as_user

pytestmark = pytest.mark.root

ID = "ab" * 32


@pytest.fixture(scope="module")
def docker() -> Iterator[Docker]:
    for engine in started(Docker):
        assert isinstance(engine, Docker)
        yield engine


@pytest.fixture
def place() -> Iterator[Path]:
    """The path for a socket.  The folder of a test can have a path that is too long for one."""
    path = Path(f"/run/docker-{os.getpid()}")
    yield path
    path.unlink(missing_ok=True)


def inode(pid: int, ns_type: str) -> int:
    return os.stat(f"/proc/{pid}/ns/{ns_type}").st_ino


def test_a_container_opens_by_its_name_its_id_and_a_prefix_of_its_id(docker: Docker) -> None:
    docker.make("web")
    identifier = docker.id("web")
    for word in ("web", identifier, identifier[:12], identifier[:20]):
        for ns_type in ("net", "uts", "mnt"):
            with from_docker(word, ns_type) as ns:
                assert (ns.type, ns.inode) == (ns_type, inode(docker.pid("web"), ns_type))
    with from_docker("web") as ns:
        assert ns.type == "net"
    docker.remove("web")
    with pytest.raises(NoSuchTarget, match="no container with that name"):
        from_docker("web")


def test_an_exact_name_beats_a_prefix(docker: Docker) -> None:
    docker.make("web")
    prefix = docker.id("web")[:6]
    docker.make(prefix)
    with from_docker(prefix) as ns:
        assert ns.inode == inode(docker.pid(prefix), "net")
    docker.remove(prefix)
    with from_docker(prefix) as ns:
        assert ns.inode == inode(docker.pid("web"), "net")
    docker.remove("web")


def test_a_prefix_of_several_ids_is_refused_with_the_candidates(docker: Docker) -> None:
    """Of seventeen ids, two begin with the same digit."""
    names = [f"many{number}" for number in range(17)]
    for name in names:
        docker.make(name)
    ids = [docker.id(name) for name in names]
    first = [identifier[0] for identifier in ids]
    digit = next(digit for digit in first if first.count(digit) > 1)
    with pytest.raises(AmbiguousTarget) as caught:
        from_docker(digit)
    assert caught.value.candidates == sorted(f"docker:{identifier}" for identifier in ids if identifier[0] == digit)
    for name in names:
        docker.remove(name)


@pytest.mark.parametrize("word", ["", "*", "web*", "w?b", "[ab]", "../web", "a b", "web/..", "x" * 300, "shop/web"])
def test_what_cannot_be_a_name_or_an_id_is_refused_before_docker_is_asked(word: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidTarget):
        from_docker(word, socket=tmp_path / "missing")


def test_a_container_without_a_process_is_an_error_that_says_why(docker: Docker) -> None:
    docker.make("web")
    docker.docker("stop", "-t0", "web")
    with pytest.raises(NoSuchTarget, match="the container has ended: start it first"):
        from_docker("web")
    docker.docker("create", "--name", "created", "--network", "none", IMAGE, *SLEEP)
    with pytest.raises(NoSuchTarget, match="not started yet"):
        from_docker("created")
    docker.docker("rm", "created")
    docker.remove("web")


def test_a_paused_container_opens_and_after_a_restart_it_is_the_new_process(docker: Docker) -> None:
    docker.make("web")
    docker.pause("web")
    from_docker("web").close()
    docker.unpause("web")
    for _ in range(3):
        docker.restart("web")
        with from_docker("web") as ns:
            assert ns.inode == inode(docker.pid("web"), "net")
    docker.remove("web")


def test_whoever_may_not_use_the_socket_is_told_so(docker: Docker) -> None:
    def ask() -> None:
        with pytest.raises(PermissionDenied, match="the broker may open it for you"):
            from_docker("web")

    as_user(ALICE, ask)


def test_a_socket_on_which_nothing_listens_is_an_unavailable_engine(place: Path) -> None:
    with pytest.raises(EngineUnavailable, match="No such file"):
        from_docker("web", socket=place)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(place))
    with pytest.raises(EngineUnavailable, match="refused"):
        from_docker("web", socket=place)
    with pytest.raises(EngineUnavailable, match="path too long"):
        from_docker("web", socket=f"/run/{'x' * 200}")
    with pytest.raises(InvalidType):
        from_docker("web", "network", socket=place)


class Liar(socketserver.ThreadingUnixStreamServer):
    """A false docker, because the real one does not lie: every answer is `status` and `body`."""

    def __init__(self, place: Path, status: int, body: bytes) -> None:
        class Answer(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def address_string(self) -> str:
                return "client"

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(str(place), Answer)
        self._thread = threading.Thread(target=self.serve_forever)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()


def test_a_process_that_is_not_the_containers_is_refused(place: Path, sleeper: Sleeper) -> None:
    body = f'{{"Id": "{ID}", "Name": "/web", "State": {{"Status": "running", "Pid": {sleeper.pid}}}}}'
    with Liar(place, 200, body.encode()), pytest.raises(NoSuchTarget, match=f"process {sleeper.pid}, which docker names, is not"):
        from_docker("web", socket=place)


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (200, b"nonsense", "makes no sense"),
        (200, b"[" * 100_000, "makes no sense"),
        (200, b'{"Id": "x", "State": {"Pid": "1"}}', "makes no sense"),
        (200, b"\xff", "makes no sense"),
        (500, b"{}", "answered with status 500"),
        (500, b"[]", "answered with status 500"),
    ],
)
def test_an_answer_that_makes_no_sense_is_an_unavailable_engine(place: Path, status: int, body: bytes, says: str) -> None:
    with Liar(place, status, body), pytest.raises(EngineUnavailable, match=says):
        from_docker("web", socket=place)


@pytest.mark.parametrize("pid", [2**31 - 1, 2**40, -5])
def test_a_process_number_that_nobody_has_is_no_target(place: Path, pid: int) -> None:
    body = f'{{"Id": "{ID}", "Name": "/web", "State": {{"Status": "running", "Pid": {pid}}}}}'
    with Liar(place, 200, body.encode()), pytest.raises(NoSuchTarget):
        from_docker("web", socket=place)


def test_a_server_of_another_user_is_not_believed() -> None:
    folder = Path(f"/run/docker-{os.getpid()}.folder")
    folder.mkdir()
    os.chown(folder, ALICE, ALICE)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setresgid(ALICE, ALICE, ALICE)
            os.setresuid(ALICE, ALICE, ALICE)
            served = socket.socket(socket.AF_UNIX)
            served.bind(str(folder / "socket"))
            served.listen()
            os.write(write, b"!")
            served.accept()
        finally:
            os._exit(0)
    os.read(read, 1)
    with pytest.raises(EngineUnavailable, match=f"served by uid {ALICE}, not by root"):
        from_docker("web", socket=folder / "socket")
    os.waitpid(child, 0)
    os.close(read)
    os.close(write)
    (folder / "socket").unlink()
    folder.rmdir()
