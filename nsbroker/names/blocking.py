"""Asking the name servers of a target, for scripts and threads."""

import socket
import time
from collections.abc import Callable

import dns.exception
import dns.message
import dns.nameserver
import dns.query
import dns.resolver

from nsbroker.errors import NsbrokerError
from nsbroker.names.resolver import DATAGRAM_MAX, DATAGRAMS_MAX, PORT, addresses, configure, explain, only_junk, read_datagram

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
        one_rr_per_rrset: bool = False,
        ignore_trailing: bool = False,
    ) -> dns.message.Message:
        """Send one question and return the answer: over UDP, or with `max_size` over TCP.  `timeout` is in seconds."""
        end = time.monotonic() + timeout
        with self._open(socket.SOCK_STREAM if max_size else socket.SOCK_DGRAM) as sock:
            if not max_size:
                # So that a server which does not listen is an error at once.
                sock.connect((self.address, self.port))
                sock.send(request.to_wire())
                try:
                    return _receive_datagram(sock, request, end)
                except TimeoutError as error:
                    raise dns.exception.Timeout(timeout=timeout) from error  # type: ignore[no-untyped-call]  # dnspython's
            sock.settimeout(timeout)
            sock.connect((self.address, self.port))
            sock.setblocking(False)
            return dns.query.tcp(
                request,
                self.address,
                max(0.0, end - time.monotonic()),
                self.port,
                sock=sock,
                one_rr_per_rrset=one_rr_per_rrset,
                ignore_trailing=ignore_trailing,
            )

    def _open(self, kind: int) -> socket.socket:
        try:
            return self._open_socket(socket.AF_INET6 if ":" in self.address else socket.AF_INET, kind)
        except NsbrokerError as error:
            self._failures.append(error)
            # dnspython asks a server no more after an OSError, and would ask it again and again after any other error.
            raise OSError(str(error)) from error


def _receive_datagram(sock: socket.socket, request: dns.message.QueryMessage, end: float) -> dns.message.Message:
    """Receive the answer to `request`.  Datagrams that are none are ignored.

    dns.query.udp() looks at the time only if there is nothing to receive.  Raises TimeoutError at the time `end`, Truncated, and
    FormError after many datagrams.
    """
    for _ in range(DATAGRAMS_MAX):
        left = end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        sock.settimeout(left)
        answer = read_datagram(sock.recv(DATAGRAM_MAX), request)
        if answer is not None:
            return answer
    raise only_junk()


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
