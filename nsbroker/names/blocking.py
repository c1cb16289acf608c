"""Asking the name servers of a target, for scripts and threads."""

import socket
import time
from collections.abc import Callable

import dns.exception
import dns.message
import dns.nameserver
import dns.resolver

from nsbroker.errors import NsbrokerError
from nsbroker.names.resolver import (
    DATAGRAM_MAX,
    DATAGRAMS_MAX,
    LENGTH,
    PORT,
    addresses,
    configure,
    explain,
    only_junk,
    read_datagram,
    read_length,
    read_stream,
)

OpenSocket = Callable[[int, int], socket.socket]
"""Opens a socket of a family and a type in the network of the target; it is the caller's."""


class _Server(dns.nameserver.Do53Nameserver):
    """A name server that is asked over sockets which `open_socket` makes.  Errors of that are added to `failures`."""

    def __init__(self, address: str, open_socket: OpenSocket, failures: list[Exception]) -> None:
        super().__init__(address, PORT)
        self._open_socket = open_socket
        self._failures = failures

    def query(
        self,
        request: dns.message.QueryMessage,
        timeout: float,
        source: str | None,  # noqa: ARG002 - the signature of dnspython
        source_port: int,  # noqa: ARG002 - the same
        max_size: bool,
        one_rr_per_rrset: bool = False,  # noqa: ARG002 - the same
        ignore_trailing: bool = False,  # noqa: ARG002 - the same
    ) -> dns.message.Message:
        """Send one question and return the answer: over UDP, or with `max_size` over TCP.  `timeout` is in seconds."""
        end, question = time.monotonic() + timeout, request.to_wire()
        try:
            with self._open(socket.SOCK_STREAM if max_size else socket.SOCK_DGRAM) as sock:
                sock.settimeout(_seconds_until(end))
                # A datagram socket is connected so that a server which does not listen is an error at once.
                sock.connect((self.address, self.port))
                # A new socket has room for a question, so this neither blocks nor sends a part only.
                if not max_size:
                    sock.send(question)
                    return _receive_datagram(sock, request, end)
                sock.send(len(question).to_bytes(LENGTH, "big") + question)
                length = read_length(_receive_exactly(sock, LENGTH, end))
                return read_stream(_receive_exactly(sock, length, end), request)
        except TimeoutError as error:
            raise dns.exception.Timeout(timeout=timeout) from error  # type: ignore[no-untyped-call]  # dnspython's

    def _open(self, kind: int) -> socket.socket:
        try:
            return self._open_socket(socket.AF_INET6 if ":" in self.address else socket.AF_INET, kind)
        except NsbrokerError as error:
            self._failures.append(error)
            # dnspython asks a server no more after an OSError, and would ask it again and again after any other error.
            raise OSError(str(error)) from error


def _seconds_until(end: float) -> float:
    """Return the seconds until the time `end`.  Raises TimeoutError afterwards."""
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _receive_datagram(sock: socket.socket, request: dns.message.QueryMessage, end: float) -> dns.message.Message:
    """Receive the answer to `request`.  Datagrams that are none are ignored.

    dns.query.udp() looks at the time only if there is nothing to receive.  Raises TimeoutError at the time `end`, Truncated, and
    FormError after many datagrams.
    """
    for _ in range(DATAGRAMS_MAX):
        sock.settimeout(_seconds_until(end))
        answer = read_datagram(sock.recv(DATAGRAM_MAX), request)
        if answer is not None:
            return answer
    raise only_junk()


def _receive_exactly(sock: socket.socket, size: int, end: float) -> bytes:
    """Receive `size` bytes.  Raises TimeoutError at the time `end`, EOFError."""
    data = b""
    while len(data) < size:
        sock.settimeout(_seconds_until(end))
        piece = sock.recv(size - len(data))
        if not piece:
            raise EOFError("the name server closed the connection")
        data += piece
    return data


def look_up(name: str, configuration: bytes, open_socket: OpenSocket, timeout: float | None) -> list[str]:
    """Return the addresses of `name`, as the servers in the resolv.conf `configuration` know them.

    `timeout` is in seconds (None: as the configuration says, at most half a minute).  Raises LookupFailed, and the errors of
    `open_socket`.
    """
    failures: list[Exception] = []
    resolver = dns.resolver.Resolver(configure=False)
    configure(resolver, configuration, lambda address: _Server(address, open_socket, failures), timeout)
    try:
        return addresses(resolver.resolve_name(name, search=True))
    except dns.exception.DNSException as error:
        raise explain(error, failures) from error
