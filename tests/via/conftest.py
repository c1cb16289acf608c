"""A network that only root can enter, with a web server in it, and a rule that lets NOBODY have sockets there."""

import contextlib
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.world import LINUX, NOBODY, Daemon, listen_inside, run_command, start_command

ADDRESS = "10.9.8.7"
"""An address that exists only inside."""
KINDS = ["inet:stream", "inet:dgram", "inet6:stream", "inet6:dgram", "inet:raw", "netlink:raw", "netlink:dgram"]
KINDS += ["packet:raw", "packet:dgram"]
PAGE = b"from inside\n"


class Network(NamedTuple):
    """The network `name:blue`: its inode, the port of its web server, and the broker that makes sockets in it."""

    daemon: Daemon
    inode: int
    port: int

    @property
    def url(self) -> str:
        """The address of the page on the web server."""
        return f"http://127.0.0.1:{self.port}/"

    def via(self, *command: str, uid: int = NOBODY, prefix: Sequence[str] = ()) -> "subprocess.CompletedProcess[str]":
        """Run `nsbroker via name:blue -- COMMAND` to its end."""
        return run_command("via", "name:blue", "--", *prefix, *command, uid=uid, address=self.daemon.address)

    def start(self, *command: str, uid: int = NOBODY, **options: Any) -> "subprocess.Popen[bytes]":
        """Start `nsbroker via name:blue -- COMMAND`."""
        return start_command("via", "name:blue", "--", *command, uid=uid, address=self.daemon.address, **options)


@pytest.fixture
def network(daemon: Daemon, blue: Path) -> Iterator[Network]:
    """The network blue with ADDRESS and a web server."""
    if LINUX < (5, 14):
        pytest.skip("this kernel is older than 5.14: no program was run via the broker")
    daemon.allow("nobody", who=[f"user:{NOBODY}"], targets=["name:blue"], sockets=KINDS)
    with listen_inside("blue") as listener:
        subprocess.run(["ip", "-n", "blue", "address", "add", f"{ADDRESS}/32", "dev", "lo"], check=True)
        server = threading.Thread(target=serve, args=(listener,))
        server.start()
        yield Network(daemon, blue.stat().st_ino, listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)
        server.join()


def serve(listener: socket.socket) -> None:
    """Answer every connection with PAGE, until the listener is shut down."""
    listener.settimeout(None)
    while True:
        try:
            sock, _ = listener.accept()
        except OSError:
            return
        with sock, contextlib.suppress(OSError):
            sock.recv(65536)
            sock.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n" + PAGE)


def need(program: str) -> str:
    """Return the path of a program; skip the test when it is not installed."""
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"{program} is not installed: nothing was tried with it")
    return path
