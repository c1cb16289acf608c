"""The client of all servers that are compared: plain varlink on a socket, with as little of Python as can be."""

import contextlib
import socket
import struct
import time
from pathlib import Path
from typing import Any, Self

import msgspec

from nsbroker.linux import ancillary, descriptors
from tests.bench.table import LeftOut

TYPES = ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")
_PATIENCE = struct.pack("ll", 20, 0)


def call(method: str, *, more: bool = False, **parameters: Any) -> bytes:
    """Return a call of `method` of nsbroker's interface, as bytes."""
    message: dict[str, Any] = {"method": f"io.nsbroker.Broker.{method}", "parameters": parameters}
    return msgspec.json.encode({**message, "more": True} if more else message) + b"\0"


def open_call(pid: int, *types: str) -> bytes:
    """Return the call that opens these namespaces of a process."""
    return call("Open", target={"pid": pid}, types=types or ("net",))


def socket_call(pid: int) -> bytes:
    """Return the call that makes a TCP socket in the network of a process."""
    return call("OpenSocket", target={"pid": pid}, family="inet", type="stream")


class Line:
    """A connection to a server.  Owns its socket."""

    def __init__(self, path: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        # The kernel keeps the time: with settimeout(), Python would call poll(2) before each step.
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            self.sock.setsockopt(socket.SOL_SOCKET, option, _PATIENCE)
        try:
            self.sock.connect(str(path))
        except BaseException:
            self.sock.close()
            raise
        self._buffer = bytearray(1 << 16)

    def ask(self, data: bytes) -> tuple[bytes, int]:
        """Send a call.  Return the first reply, and the number of fds that came with it (they are closed)."""
        self.sock.sendall(data)
        return self._receive()

    def stream(self, data: bytes) -> int:
        """Send a call with `more`, and return the number of replies."""
        self.sock.sendall(data)
        rest, count = b"", 0
        while True:
            piece = self.sock.recv(1 << 16)
            if not piece:
                raise LeftOut("the server hung up")
            *replies, rest = (rest + piece).split(b"\0")
            count += len(replies)
            if replies and b'"continues":true' not in replies[-1]:
                return count

    def _receive(self) -> tuple[bytes, int]:
        size, fds = ancillary.receive_into(self.sock, memoryview(self._buffer))
        descriptors.close_all(fds)
        if not size:
            raise LeftOut("the server hung up")
        return bytes(memoryview(self._buffer)[:size]), len(fds)

    def check(self, data: bytes, fds: int) -> None:
        """Make the call some times to warm up.  Raises LeftOut unless that many fds come with each reply."""
        for _ in range(50):
            reply, came = self.ask(data)
            if came != fds:
                raise LeftOut(f"{came} fds came instead of {fds}: {reply.decode(errors='replace')}")

    def one_by_one(self, data: bytes, count: int) -> list[float]:
        """Make the call `count` times.  Return the seconds of each."""
        times = []
        sock, view = self.sock, memoryview(self._buffer)
        for _ in range(count):
            start = time.perf_counter()
            sock.sendall(data)
            _, fds = ancillary.receive_into(sock, view)
            descriptors.close_all(fds)
            times.append(time.perf_counter() - start)
        return times

    def in_flight(self, data: bytes, depth: int, count: int) -> list[float]:
        """Make the call `count` times with up to `depth` calls in flight.  Return the seconds of one call, as a list of one.

        New calls are sent when half of them are answered, as a client with buffers does.
        """
        sock, view = self.sock, memoryview(self._buffer)
        start = time.perf_counter()
        sent = answered = 0
        while answered < count:
            if sent - answered <= depth // 2 and sent < count:
                more = min(depth - (sent - answered), count - sent)
                sock.sendall(data * more)
                sent += more
            size, fds = ancillary.receive_into(sock, view)
            descriptors.close_all(fds)
            if not size:
                raise LeftOut("the server hung up")
            answered += self._buffer.count(0, 0, size)
        return [(time.perf_counter() - start) / count]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()


def answers(path: Path) -> bool:
    """Return whether a server listens at `path`."""
    with contextlib.suppress(OSError), Line(path):
        return True
    return False
