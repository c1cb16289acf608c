"""A process with a network and an /etc of its own, in which a real name server and a listener are."""

import contextlib
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from nsbroker.namespace import Namespace
from tests.name_server import NameServer, name_server
from tests.world import Sleeper

ADDRESS = "10.9.8.7"
"""An address that exists only inside.  The name server has it, and the names lead to it."""
NAMES = {"web.test.": [ADDRESS], "db.sub.test.": [ADDRESS], "six.test.": ["2001:db8::7"], "empty.test.": []}


class Place(NamedTuple):
    """The process as a target, the path of its /etc from here, its name server, and a listener there."""

    target: str
    etc: Path
    server: NameServer
    listener: socket.socket

    @property
    def port(self) -> int:
        """The port at which `listener` listens, on every address of both families."""
        return int(self.listener.getsockname()[1])


@contextlib.contextmanager
def named_place() -> Iterator[Place]:
    """Start the process and the servers."""
    with Sleeper(unshare="--net --mount --propagation private") as process, Namespace.from_pid(process.pid, "net") as ns:
        pid = str(process.pid)
        subprocess.run(["nsenter", "--mount", "-t", pid, "mount", "-t", "tmpfs", "-o", "mode=755", "etc", "/etc"], check=True)
        for words in ("link set lo up", f"address add {ADDRESS}/32 dev lo", "address add 2001:db8::7/128 dev lo"):
            subprocess.run(["nsenter", "--net", "-t", pid, "ip", *words.split()], check=True)
        etc = Path(f"/proc/{pid}/root/etc")
        (etc / "resolv.conf").write_text(f"nameserver {ADDRESS}\nsearch sub.test\n")
        (etc / "hosts").write_text(f"{ADDRESS} file.test file\n")

        def make(family: int, kind: int) -> socket.socket:
            return ns.call(socket.socket, family, kind)

        with name_server(make, ADDRESS, NAMES) as server, make(socket.AF_INET6, socket.SOCK_STREAM) as listener:
            listener.bind(("::", 0))
            listener.listen()
            yield Place(f"pid:{pid}", etc, server, listener)
