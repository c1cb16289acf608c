"""Attacks through container engines: a user's own engines reply whatever the user likes, and names can lie."""

import contextlib
import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nsbroker.errors import EngineUnavailable, NoSuchTarget, NsbrokerError, PermissionDenied
from nsbroker.linux.process import Process
from tests.engines.conftest import started
from tests.engines.real import Docker, Lxc
from tests.world import ALICE, BOB, ENGINE_DEADLINE, PATIENT, SLOWNESS, Daemon, Sleeper, as_user, check_below, run_command

pytestmark = pytest.mark.root


@pytest.fixture
def session() -> Iterator[Path]:
    """Make a home for alice, and the folder where her own engines would run."""
    place = Path(f"/run/user/{ALICE}")
    home = Path("/run/home/alice")
    for folder in (place, home):
        folder.mkdir(parents=True)
        os.chown(folder, ALICE, ALICE)
    users = Path("/etc/passwd")
    known = users.read_text()
    users.write_text(f"{known}alice:x:{ALICE}:{ALICE}::{home}:/bin/sh\n")
    yield place
    users.write_text(known)
    subprocess.run(["rm", "-rf", str(place), str(home)], check=True)


def as_alice(function: Callable[[], None]) -> None:
    as_user(ALICE, function)


def serve(path: Path, answer: Callable[[socket.socket], None]) -> tuple[socket.socket, threading.Thread]:
    """Serve an engine of alice's own at `path`.  It calls `answer` with each connection."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    os.chown(path, ALICE, ALICE)
    listener.listen(100)

    def run() -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = listener.accept()
                with sock, contextlib.suppress(OSError):
                    sock.recv(65536)
                    answer(sock)

    thread = threading.Thread(target=run)
    thread.start()
    return listener, thread


@contextlib.contextmanager
def served(path: Path, answer: Callable[[socket.socket], None]) -> Iterator[None]:
    listener, thread = serve(path, answer)
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
        path.unlink()


def body(data: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(data) + data


def slowest_of_others(daemon: Daemon, ask: Callable[[], object]) -> float:
    """Return the seconds of the slowest call of another user while `ask` runs."""
    slowest = 0.0
    busy = threading.Thread(target=ask)
    with daemon.connect() as broker:
        busy.start()
        while busy.is_alive():
            start = time.monotonic()
            broker.open("self", "net").close()
            slowest = max(slowest, time.monotonic() - start)
            time.sleep(0.005)
        busy.join()
    return slowest


def check_others_are_served(daemon: Daemon) -> None:
    """Check that calls of another user are answered while the broker queries alice's own engines."""

    def measure() -> float:
        return slowest_of_others(daemon, lambda: run_command("containers", uid=ALICE, address=daemon.address))

    check_below(SLOWNESS, measure, "the slowest call of another user")


@pytest.mark.parametrize(
    "answer",
    [
        lambda sock: sock.sendall(body(b"[" + b",".join(b'{"Id":"%d"}' % number for number in range(250_000)) + b"]")),
        lambda sock: sock.sendall(body(b"[" * 3_000_000)),
        lambda sock: sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\n \r\n" * 2_000_000),
        lambda sock: time.sleep(3),
    ],
    ids=["a quarter of a million containers", "deep", "one byte at a time", "silence"],
)
def test_a_users_own_engine_costs_nobody_else_anything(
    daemon: Daemon, session: Path, answer: Callable[[socket.socket], None]
) -> None:
    before, memory = daemon.snapshot(), daemon.memory()
    with served(session / "docker.sock", answer):
        check_others_are_served(daemon)
        asked = run_command("show", "docker:web", uid=ALICE, address=daemon.address)
        assert (asked.returncode, asked.stdout) == (1, "")
    assert daemon.memory() < memory + 30_000_000
    daemon.settles_at(before)


def test_a_users_own_files_cost_nobody_else_anything(daemon: Daemon, session: Path) -> None:
    storage = Path("/run/home/alice/.local/share/containers/storage")

    def prepare() -> None:
        first = storage / "0-containers/containers.json"
        first.parent.mkdir(parents=True)
        first.write_text(json.dumps([{"id": "a"}] * 200_000))
        for number in range(1, 200):
            (storage / f"{number}-containers").mkdir()
            os.link(first, storage / f"{number}-containers/containers.json")

    as_alice(prepare)
    before, memory = daemon.snapshot(), daemon.memory()
    check_others_are_served(daemon)
    assert daemon.memory() < memory + 30_000_000
    daemon.settles_at(before)


def test_links_in_a_users_home_reveal_nothing_that_the_user_may_not_see(session: Path, tmp_path: Path) -> None:
    secret = Path("/run/secret")
    (secret / "there").mkdir(parents=True)
    secret.chmod(0o700)
    storage = Path("/run/home/alice/.local/share/containers/storage")
    answers = set()
    # The deadline is long, so that the result does not depend on how busy the machine is.
    with Daemon(tmp_path, limits=PATIENT) as daemon:
        for place in (secret / "there", secret / "missing"):

            def make_link(place: Path = place) -> None:
                storage.parent.mkdir(parents=True, exist_ok=True)
                storage.unlink(missing_ok=True)
                storage.symlink_to(place)

            as_alice(make_link)
            listed = run_command("containers", uid=ALICE, address=daemon.address)
            asked = run_command("show", "podman:web", uid=ALICE, address=daemon.address)
            answers.add((listed.stdout, listed.stderr, listed.returncode, asked.stderr))
    assert len(answers) == 1, answers
    subprocess.run(["rm", "-rf", str(secret)], check=True)


def test_a_user_without_a_rule_causes_no_query_to_an_engine_of_root(daemon: Daemon, sleeper: Sleeper) -> None:
    asked = []
    path = Path("/run/fake-docker.sock")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    listener.setblocking(False)
    (daemon.config / "nsbroker.d/engines.toml").write_text(f'[engines]\ndocker = ["{path}"]\n')
    daemon.reload()
    for arguments in (("containers",), ("show", "docker:web"), ("show", "container:web")):
        run_command(*arguments, uid=BOB, address=daemon.address)
        with contextlib.suppress(BlockingIOError):
            asked.append(listener.accept()[0])
    listener.close()
    path.unlink()
    assert asked == []


@pytest.fixture(scope="module")
def lxc() -> Iterator[Lxc]:
    for engine in started(Lxc):
        assert isinstance(engine, Lxc)
        yield engine


COMMAND_SOCKET = "\0/var/lib/lxc/web/command"
"""Where the monitor of lxc's container `web` listens while the container runs."""


@contextlib.contextmanager
def squatting(*, fills: bool) -> Iterator[None]:
    """Have alice listen on COMMAND_SOCKET, with a queue that is full if `fills`."""
    with contextlib.ExitStack() as pipes:
        (told, tell), (ended, end) = os.pipe(), os.pipe()
        for fd in (told, tell, ended, end):
            pipes.callback(os.close, fd)

        def squat() -> None:
            with contextlib.ExitStack() as held:
                sock = held.enter_context(socket.socket(socket.AF_UNIX))
                sock.bind(COMMAND_SOCKET)
                sock.listen(0 if fills else 100)
                with contextlib.suppress(BlockingIOError):
                    while fills:
                        filler = held.enter_context(socket.socket(socket.AF_UNIX))
                        filler.setblocking(False)
                        filler.connect(COMMAND_SOCKET)
                os.write(tell, b"!")
                os.read(ended, 1)

        squatter = threading.Thread(target=lambda: as_user(ALICE, squat))
        squatter.start()
        try:
            os.read(told, 1)
            yield
        finally:
            os.write(end, b"!")
            squatter.join()


def test_a_user_who_listens_in_the_place_of_a_stopped_container_is_not_queried(lxc: Lxc, daemon: Daemon) -> None:
    daemon.allow("web", who=[f"user:{ALICE}"], targets=["lxc:web"], namespaces=["net"])
    lxc.make("web")
    lxc.make("web-1")
    other = lxc.pid("web-1")
    subprocess.run(["lxc-stop", "-k", "-n", "web"], check=True)

    def squat() -> str:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(COMMAND_SOCKET)
            sock.listen()
            with daemon.connect() as broker:
                try:
                    broker.open("lxc:web", "net").close()
                except NsbrokerError as error:
                    return type(error).__name__
        return "opened"

    assert other
    assert as_user(ALICE, squat) == "NoSuchTarget"

    with squatting(fills=False), daemon.connect() as broker:
        assert [one.names for one in broker.containers().containers] == [["web-1"]]
        assert broker.containers().unavailable == []
    lxc.remove("web-1")
    lxc.remove("web")


def test_a_full_socket_of_a_stopped_container_holds_up_only_calls_for_that_container(lxc: Lxc, daemon: Daemon) -> None:
    for name in ("web", "web-1"):
        lxc.make(name)
    subprocess.run(["lxc-stop", "-k", "-n", "web"], check=True)

    def ask() -> float:
        start = time.monotonic()
        broker.open("lxc:web-1", "net").close()
        assert [one.names for one in broker.containers().containers] == [["web-1"]]
        # The broker cannot see who monitors the container, so it refuses, and does so at once.
        with pytest.raises(EngineUnavailable, match="web: Resource temporarily unavailable"):
            broker.open("lxc:web", "net")
        return time.monotonic() - start

    with squatting(fills=True), daemon.connect() as broker:
        check_below(ENGINE_DEADLINE, ask, "seconds for three calls")
    lxc.remove("web-1")
    lxc.remove("web")


@pytest.fixture(scope="module")
def docker() -> Iterator[Docker]:
    for engine in started(Docker):
        assert isinstance(engine, Docker)
        yield engine


def test_no_pattern_for_names_fits_an_id_or_a_label_of_an_image(docker: Docker, daemon: Daemon) -> None:
    daemon.allow("shop", who=[f"user:{ALICE}"], targets=["docker:shop/*", "container:*/*"], namespaces=["net"])
    for digit in "0123456789abcdef":
        daemon.allow(f"id-{digit}", who=[f"user:{ALICE}"], targets=[f"docker:{digit}*"], namespaces=["net"])
    labels = ["--label", "com.docker.compose.project=shop", "--label", "com.docker.compose.service=web"]
    docker.docker("run", "-d", "--network", "none", "--name", "zoo", *labels, "localhost/bb:1", "/bin/busybox", "sleep", "1000")
    identifier = docker.id("zoo")

    def look() -> list[str]:
        found = []
        with daemon.connect() as broker:
            for target in (
                f"docker:{identifier}",
                f"docker:{identifier[:8]}",
                "docker:shop/web",
                "docker:zoo",
                "container:shop/web",
            ):
                try:
                    broker.open(target, "net").close()
                    found.append(target)
                except (NoSuchTarget, PermissionDenied):
                    continue
            return found + [one.names[0] for one in broker.containers().containers]

    assert as_user(ALICE, look) == []
    docker.docker("rm", "-f", "zoo")


def test_a_users_engine_cannot_claim_a_process_in_a_user_namespace_of_others(
    daemon: Daemon, session: Path, sleeper: Sleeper
) -> None:
    with Process.open(sleeper.pid) as process:
        start = process.start_time()

    def claim() -> None:
        (session / "crun/mine").mkdir(parents=True)
        (session / "crun/mine/status").write_text(f'{{"pid":{sleeper.pid},"process-start-time":{start}}}')

    as_alice(claim)
    asked = run_command("show", "crun:mine", uid=ALICE, address=daemon.address)
    assert (asked.returncode, asked.stdout) == (1, "")
    assert run_command("containers", uid=ALICE, address=daemon.address).stdout.count("\n") == 1
