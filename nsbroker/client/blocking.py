"""The blocking front: for scripts and threads."""

import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Self, TypeVar

from nsbroker.address import socket_path
from nsbroker.client import requests
from nsbroker.client.wire import NotTaken, Wire, connect_failed
from nsbroker.errors import ConnectionLost
from nsbroker.identity import Expectation, NamespaceType
from nsbroker.interface import ExplainReply, HeldDescription, PeerDescription, Status
from nsbroker.namespace import Namespace
from nsbroker.varlink.connection import IncomingReply

T = TypeVar("T")


def connect(address: str | None = None, *, timeout: float | None = None) -> "Broker":
    """Connect to the broker at `address`, by default $NSBROKER_ADDRESS or the usual place.

    `timeout` in seconds is for each step of a call; one that takes longer raises ConnectionLost and ends the connection.
    Raises ConnectionFailed, and InvalidAddress for what is no address.
    """
    path = socket_path(address)
    return Broker(lambda: _connected(path, timeout))


def _connected(path: Path, timeout: float | None) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    end = None if timeout is None else time.monotonic() + timeout
    try:
        sock.settimeout(timeout)
        while True:
            try:
                sock.connect(str(path))
                return sock
            except BlockingIOError:
                # With a timeout, a listener that has no room left is an error at once.
                if end is None or time.monotonic() > end:
                    raise
                time.sleep(0.01)
    except OSError as error:
        sock.close()
        raise connect_failed(path, error) from error
    except BaseException:
        sock.close()
        raise


class Broker:
    """A connection to the broker.  One call at a time; threads may share it.

    A connection that ended between two calls, because the broker was restarted, is made anew by itself.
    """

    def __init__(self, connect: Callable[[], socket.socket]) -> None:
        """Use `nsbroker.connect`.  `connect` gives connected sockets, which this takes."""
        self._connect = connect
        self._wire = Wire(connect())
        self._lock = threading.Lock()

    def open(self, target: requests.Where, type: str, *, expect: Expectation | None = None) -> Namespace:
        """Open one namespace of `target`; the handle is the caller's.  Raises the errors of `nsbroker.errors`; TargetChanged
        when it is not what `expect` says.
        """
        return self._call(requests.open_namespaces(target, [type], expect)).popitem()[1]

    def open_all(
        self, target: requests.Where, types: Iterable[str] | None = None, *, expect: Expectation | None = None
    ) -> dict[NamespaceType, Namespace]:
        """Open several namespaces of `target` (None: all it has), all or none; the handles are the caller's."""
        return self._call(requests.open_namespaces(target, types, expect))

    def explain(self, target: requests.Where, types: Iterable[str] | None = None) -> ExplainReply:
        """What the policy says to `open_all` with the same arguments."""
        return self._call(requests.explain(target, types))

    def containers(self) -> requests.ContainerList:
        """The containers of which this process may have something opened, and the engines that could not be asked."""
        return self._call(requests.list_containers())

    def create(self, types: Iterable[str], *, name: str | None = None) -> requests.Created:
        """Have new namespaces made; the handles are the caller's.  With `name` the broker holds them, too, until `release`.

        Raises NameTaken, QuotaExceeded, PermissionDenied.
        """
        return self._call(requests.create(types, name))

    def hold(self, target: requests.Where, name: str, types: Iterable[str] | None = None) -> bool:
        """Have namespaces of `target` (None: all it has) held under `name` until `release`; whether they outlive a restart
        of the broker.  Raises as `create`.
        """
        return self._call(requests.hold(target, types, name))

    def release(self, name: str) -> None:
        """Let go of what this user holds under `name`.  Raises PermissionDenied, NoSuchTarget."""
        self._call(requests.release(name))

    def held(self) -> list[HeldDescription]:
        """What this user holds, or may open of what others hold."""
        return self._call(requests.list_held())

    def who_am_i(self) -> PeerDescription:
        """Who the broker takes this process for."""
        return self._call(requests.who_am_i())

    def status(self) -> Status:
        """How the broker is doing."""
        return self._call(requests.status())

    def _call(self, request: requests.Request[T]) -> T:
        wire = self._wire
        with self._lock:
            if wire.is_over(request):
                wire.replace(self._connect())
            try:
                replies = self._exchange(request)
            except NotTaken:
                wire.replace(self._connect())
                replies = self._exchange(request)
        return requests.finish(request, replies)

    def _exchange(self, request: requests.Request[T]) -> Sequence[IncomingReply]:
        wire = self._wire
        wire.start(request)
        try:
            while not wire.send_some():
                pass
            while (replies := wire.receive_some(request)) is None:
                pass
        except BaseException as error:
            # Half a call or half an answer: nothing on this connection would be what it seems.
            wire.drop()
            if isinstance(error, TimeoutError):
                raise ConnectionLost(f"{request.what()}: no answer in time; try again") from error
            raise
        return replies

    def close(self) -> None:
        """End the connection.  Twice is harmless; handles that were opened stay open."""
        self._wire.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
