"""A client of the broker that says on standard error what it does, for --verbose."""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from nsbroker.cli import terminal
from nsbroker.client import blocking
from nsbroker.client.requests import Request
from nsbroker.errors import NsbrokerError
from nsbroker.linux import socket_options
from nsbroker.model.target import Target
from nsbroker.protocol import address
from nsbroker.protocol.file_messages import OpenFileRequest
from nsbroker.protocol.interface_messages import AddInterfaceRequest
from nsbroker.protocol.messages import ExplainReply, HoldRequest, OpenDeviceRequest, OpenRequest, OpenSocketRequest

T = TypeVar("T")


def describe(timeout: float) -> Path:
    """Say which broker will be asked, and how long each step may take (in seconds).  Returns the path of its socket.

    Raises InvalidAddress.
    """
    path = address.socket_path()
    origin = f"${address.VARIABLE}" if os.environ.get(address.VARIABLE) else "the default"
    terminal.print_detail(f"broker: unix:{path} ({origin}); a step may take {timeout:g} s")
    return path


def connect(timeout: float) -> blocking.Broker:
    """Connect to the broker as `nsbroker.connect` does, and say to whom.  The client says what it asks."""
    path = describe(timeout)
    sock = blocking.open_connection(path, timeout)
    broker = _ReportingBroker(sock, path, timeout)
    pid, uid, _ = socket_options.peer_credentials(sock)
    terminal.print_detail(f"connected: process {pid} of uid {uid} listens there")
    return broker


class _ReportingBroker(blocking.Broker):
    """Says which calls it makes, how long the replies take, and after a success which rules allow it."""

    _asks_for_rules = False

    def _call(self, request: Request[T], timeout: float | None = None) -> T:
        if self._asks_for_rules:
            return super()._call(request, timeout)
        with _timed(request.what()):
            result = super()._call(request, timeout)
        self._asks_for_rules = True
        try:
            reply = self._explain(request)
        except NsbrokerError as error:
            terminal.print_detail(f"which rule allows it is unknown: {error}")
        else:
            _print_rules(reply)
        finally:
            self._asks_for_rules = False
        return result

    def _explain(self, request: Request[T]) -> ExplainReply | None:
        """Ask which rules allow what was opened; None if the call opened nothing."""
        if not isinstance(target := request.target, Target):
            return None
        match request.parameters:
            case OpenRequest(types=types) | HoldRequest(types=types):
                return self.explain(target, types)
            case OpenSocketRequest(family=family, type=kind):
                return self.explain(target, sockets=[f"{family}:{kind}"])
            case OpenDeviceRequest(name=name):
                return self.explain(target, devices=[name])
            case OpenFileRequest(name=name):
                return self.explain(target, files=[name])
            case AddInterfaceRequest(kind=kind):
                return self.explain(target, interfaces=[kind])
        return None


@contextlib.contextmanager
def _timed(what: str) -> Iterator[None]:
    terminal.print_detail(f"asking: {what}")
    begun = time.monotonic()
    outcome = "failed"
    try:
        yield
        outcome = "answered"
    finally:
        terminal.print_detail(f"{outcome} after {1000 * (time.monotonic() - begun):.1f} ms")


def _print_rules(reply: ExplainReply | None) -> None:
    if reply is None:
        return
    types = [(str(one.type), one.rule) for one in reply.verdicts]
    lists = (reply.sockets, reply.devices, reply.files, reply.interfaces)
    for name, rule in [*types, *((one.name, one.rule) for found in lists for one in found or ())]:
        terminal.print_detail(f"{name}: allowed by the rule {rule}" if rule else f"{name}: no rule allows it")
