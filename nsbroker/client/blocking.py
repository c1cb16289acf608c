"""The blocking front: for scripts and threads."""

import contextlib
import threading
from collections.abc import Iterable
from typing import Self, TypeVar

from nsbroker.address import socket_path
from nsbroker.client import core
from nsbroker.identity import Expectation, NamespaceType
from nsbroker.interface import ExplainReply, PeerDescription, Status
from nsbroker.linux import ancillary
from nsbroker.namespace import Namespace
from nsbroker.varlink.connection import IncomingReply
from nsbroker.varlink.framing import END

T = TypeVar("T")


def connect(address: str | None = None, *, timeout: float | None = None) -> "Broker":
    """Connect to the broker at `address`, by default $NSBROKER_ADDRESS or the usual place.

    `timeout` in seconds is for each call.  Raises ConnectionFailed, and ConfigurationError for what is no address.
    """
    return Broker(address, timeout=timeout)


class Broker:
    """A connection to the broker.  One call at a time; threads may share it."""

    def __init__(self, address: str | None = None, *, timeout: float | None = None) -> None:
        path = socket_path(address)
        self._sock = core.new_socket()
        self._sock.settimeout(timeout)
        self._wire = core.Wire()
        self._buffer = core.new_buffer()
        self._lock = threading.Lock()
        try:
            self._sock.connect(str(path))
        except OSError as error:
            self._sock.close()
            raise core.connect_failed(path, error) from error

    def open(self, target: core.Where, type: str, *, expect: Expectation | None = None) -> Namespace:
        """Open one namespace of `target`; the handle is the caller's.  Raises the errors of `nsbroker.errors`; TargetChanged
        when it is not what `expect` says.
        """
        return self._call(core.open_namespaces(target, [type], expect)).popitem()[1]

    def open_all(
        self, target: core.Where, types: Iterable[str] | None = None, *, expect: Expectation | None = None
    ) -> dict[NamespaceType, Namespace]:
        """Open several namespaces of `target` (None: all it has), all or none; the handles are the caller's."""
        return self._call(core.open_namespaces(target, types, expect))

    def explain(self, target: core.Where, types: Iterable[str] | None = None) -> ExplainReply:
        """What the policy says to `open_all` with the same arguments."""
        return self._call(core.explain(target, types))

    def who_am_i(self) -> PeerDescription:
        """Who the broker takes this process for."""
        return self._call(core.who_am_i())

    def status(self) -> Status:
        """How the broker is doing."""
        return self._call(core.status())

    def _call(self, request: core.Request[T]) -> T:
        with self._lock:
            if self._sock.fileno() < 0:
                raise core.closed(request.what)
            try:
                self._send(request)
                reply = self._receive(request)
            except BaseException:
                # Half a call or half an answer: nothing on this connection would be what it seems.
                self.close()
                raise
        return core.finish(request, reply)

    def _send(self, request: core.Request[T]) -> None:
        data = self._wire.start(request)
        # A broker that is full has answered and hung up already: then the answer is still to be read.
        with contextlib.suppress(BrokenPipeError):
            sent = ancillary.send(self._sock, data, request.fds)
            if sent < len(data):
                self._sock.sendall(data[sent:])

    def _receive(self, request: core.Request[T]) -> IncomingReply:
        while True:
            try:
                data, fds = ancillary.receive_piece(self._sock, self._buffer, END)
            except ConnectionResetError:
                data = b""
            if not data:
                raise core.lost(request.what)
            self._wire.receive(data, fds)
            reply = self._wire.next_reply()
            if reply is not None:
                return reply

    def close(self) -> None:
        """End the connection.  Twice is harmless; handles that were opened stay open."""
        self._wire.close()
        self._sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
