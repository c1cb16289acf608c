"""`nsbroker via` with a real container of every engine, and with a network of `ip netns`."""

import hashlib
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nsbroker.namespace import Namespace
from tests.engines.real import Cri, Engine
from tests.via.conftest import need
from tests.world import LINUX, NOBODY, Daemon, run_command

pytestmark = pytest.mark.root

DATA = os.urandom(1 << 20)
PROGRAMS = [["curl", "-sS", "-o", "-"], ["busybox", "wget", "-qO-"]]


@contextmanager
def web_server(ns: Namespace) -> Iterator[str]:
    """Run a web server on the loopback of a network.  It answers every request with DATA in hexadecimal digits.  Yields its URL."""

    def serve() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            with sock:
                sock.recv(65536)
                sock.sendall(b"HTTP/1.0 200 OK\r\n\r\n" + DATA.hex().encode())

    with ns.call(socket.create_server, ("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=serve)
        server.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            server.join()


def check_programs(daemon: Daemon, target: str, ns: Namespace) -> None:
    """Fetch DATA with real programs, which run as NOBODY, and outside of which nothing runs in the container."""
    if LINUX < (5, 14):
        pytest.skip("this kernel is older than 5.14: no program was run via the broker")
    daemon.allow("nobody", who=[f"user:{NOBODY}"], targets=[target], sockets=["inet:stream"], files=["*"])
    with web_server(ns) as url:
        for program in PROGRAMS:
            need(program[0])
            done = run_command("via", target, "--", *program, url, uid=NOBODY, address=daemon.address)
            assert done.returncode == 0, done
            found = hashlib.sha256(bytes.fromhex(done.stdout)).hexdigest()
            assert found == hashlib.sha256(DATA).hexdigest(), program


def test_programs_of_nobody_fetch_bytes_from_the_loopback_of_a_container(engine: Engine, daemon: Daemon) -> None:
    name = "default/via1" if isinstance(engine, Cri) else "via1"
    engine.make(name)
    try:
        pid = engine.pid(name)
        subprocess.run(["nsenter", "--net", "--target", str(pid), "ip", "link", "set", "lo", "up"], check=True)
        with Namespace.from_pid(pid, "net") as ns:
            check_programs(daemon, f"{engine.word}:{name}", ns)
    finally:
        engine.remove(name)


def test_programs_of_nobody_fetch_bytes_from_the_loopback_of_a_named_network(daemon: Daemon, blue: Path) -> None:
    subprocess.run(["ip", "-n", "blue", "link", "set", "lo", "up"], check=True)
    with Namespace.from_path(blue, "net") as ns:
        check_programs(daemon, "name:blue", ns)
