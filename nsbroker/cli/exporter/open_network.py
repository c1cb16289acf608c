"""One network that is held open: its files of statistics, and a socket in it through which the kernel counts its TCP sockets.

The broker opens them once.  Reading them again takes no call, no right, and less time than opening the files would.
"""

import contextlib
import io
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Self, TypeVar

from nsbroker.client.blocking import Broker
from nsbroker.errors import NoSuchFile, PermissionDenied, SocketFailed
from nsbroker.linux import proc_net, sock_diag
from nsbroker.linux.proc_net import Link

T = TypeVar("T")

FILES = ("net/dev", "net/snmp", "net/netstat", "net/sockstat", "net/sockstat6")
SOCKET = "netlink:dgram"
"""The permissions that all numbers together take: see `files` and `sockets` in a rule."""

DESCRIPTORS = len(FILES) + 1
"""How many descriptors one network takes at most."""

TCP_COUNTERS = ("InSegs", "OutSegs", "RetransSegs")
LISTEN_COUNTERS = ("ListenOverflows", "ListenDrops")
# A struct timeval.  The kernel answers at once, but only the broker says that the socket is one of the kernel's.
_ANSWER_TIME = struct.pack("@ll", 5, 0)


class Statistics(NamedTuple):
    """What was read of one network.  What no rule allows to read is empty."""

    links: Sequence[Link]
    tcp: Mapping[str, int]
    """The counters TCP_COUNTERS and LISTEN_COUNTERS."""
    sockets: Mapping[str, Mapping[str, int]]
    tcp_states: Mapping[str, int]


class OpenNetwork:
    """The open files and the socket of one network.  Owns them; close it."""

    def __init__(self) -> None:
        """Use `open`."""
        self._files: dict[str, io.FileIO] = {}
        self._socket: socket.socket | None = None

    @classmethod
    def open(cls, broker: Broker, target: str) -> Self:
        """Open what the rules allow of the network of `target`.  Borrows `broker`.

        Raises PermissionDenied if that is nothing, and the errors of `Broker.file`.
        """
        # This asks first: each refusal would be recorded, and delayed.
        verdicts = broker.explain(target, files=FILES, sockets=[SOCKET])
        allowed = {one.name for one in (*(verdicts.files or ()), *(verdicts.sockets or ())) if one.allowed}
        if not allowed:
            raise PermissionDenied(f"read the statistics of {target}", f"no rule allows any of the files {', '.join(FILES)}")
        network = cls()
        try:
            network._open(broker, target, allowed)
        except BaseException:
            network.close()
            raise
        return network

    def _open(self, broker: Broker, target: str, allowed: set[str]) -> None:
        for name in FILES:
            if name in allowed:
                # A kernel without IPv6 has no sockstat6.
                with contextlib.suppress(NoSuchFile):
                    self._files[name] = broker.file(target, name)
        if SOCKET in allowed:
            # A kernel can lack what is asked here.
            with contextlib.suppress(SocketFailed):
                self._socket = broker.socket(target, socket.AF_NETLINK, socket.SOCK_DGRAM, sock_diag.PROTOCOL)
                # To the kernel alone: root of a container must not be able to answer in its place, or to flood the socket.
                self._socket.connect((0, 0))
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _ANSWER_TIME)

    def read(self) -> Statistics:
        """Read everything.  Raises OSError, and ValueError or LookupError for what makes no sense."""
        tcp = self._counters("net/snmp", "Tcp", TCP_COUNTERS) | self._counters("net/netstat", "TcpExt", LISTEN_COUNTERS)
        none: dict[str, dict[str, int]] = {}
        sockets = self._parse("net/sockstat", proc_net.sockets, none) | self._parse("net/sockstat6", proc_net.sockets, none)
        return Statistics(self._parse("net/dev", proc_net.links, []), tcp, sockets, self._tcp_states(sockets))

    def _counters(self, name: str, group: str, wanted: Sequence[str]) -> dict[str, int]:
        values = self._parse(name, lambda text: proc_net.counters(text, group, wanted), None)
        return {} if values is None else dict(zip(wanted, values, strict=True))

    def _parse(self, name: str, parse: Callable[[bytes], T], missing: T) -> T:
        file = self._files.get(name)
        return missing if file is None else parse(proc_net.read(file.fileno()))

    def _tcp_states(self, sockets: Mapping[str, Mapping[str, int]]) -> Mapping[str, int]:
        if self._socket is None:
            return {}
        if "TCP" in sockets and "TCP6" in sockets:
            used = (sockets["TCP"]["inuse"], sockets["TCP"]["tw"], sockets["TCP6"]["inuse"])
            if not any(used):
                # These are all that the kernel could find, and finding none takes it as long as finding some.
                return dict.fromkeys(sock_diag.STATES, 0)
        return sock_diag.tcp_states(self._socket)

    def close(self) -> None:
        """Close everything.  Closing twice does nothing."""
        while self._files:
            self._files.popitem()[1].close()
        if self._socket is not None:
            self._socket.close()
