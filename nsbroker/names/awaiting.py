"""Asking the name servers of a target, for trio and asyncio."""

import socket
from collections.abc import Awaitable, Callable
from typing import Protocol

import dns.asyncbackend
import dns.asyncresolver
import dns.exception
import dns.message
import dns.nameserver

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


class Network(Protocol):
    """The network of the target, as the client reaches it."""

    library: str
    """The name of the event loop: trio or asyncio."""

    async def open_socket(self, family: int, kind: int) -> socket.socket:
        """Open a non-blocking socket there (the caller's)."""

    async def connect(self, sock: socket.socket, address: tuple[str, int]) -> None:
        """Connect `sock` (borrowed)."""

    async def receive(self, sock: socket.socket, size: int) -> bytes:
        """Receive at most `size` bytes from `sock` (borrowed).  Lets other tasks run, even if there is something to receive."""

    async def run(self, timeout: float, step: Callable[[], Awaitable[None]]) -> None:
        """Run `step`.  Raises TimeoutError after `timeout` seconds."""


class _Server(dns.nameserver.Do53Nameserver):
    """A name server in the `network`.  Errors of opening a socket are added to `failures`."""

    def __init__(self, address: str, network: Network, failures: list[Exception]) -> None:
        super().__init__(address, PORT)
        self._network = network
        self._failures = failures

    async def async_query(
        self,
        request: dns.message.QueryMessage,
        timeout: float,
        source: str | None,  # noqa: ARG002 - the signature of dnspython
        source_port: int,  # noqa: ARG002 - the same
        max_size: bool,
        backend: object,  # noqa: ARG002 - the same
        one_rr_per_rrset: bool = False,  # noqa: ARG002 - the same
        ignore_trailing: bool = False,  # noqa: ARG002 - the same
    ) -> dns.message.Message:
        """Send one question and return the answer: over UDP, or with `max_size` over TCP.  `timeout` is in seconds."""
        question = request.to_wire()
        answers: list[dns.message.Message] = []
        with await self._open(socket.SOCK_STREAM if max_size else socket.SOCK_DGRAM) as sock:

            async def ask() -> None:
                await self._network.connect(sock, (self.address, self.port))
                # A new socket has room for a question, so this neither blocks nor sends a part only.
                if max_size:
                    sock.send(len(question).to_bytes(LENGTH, "big") + question)
                    length = read_length(await self._receive_exactly(sock, LENGTH))
                    answers.append(read_stream(await self._receive_exactly(sock, length), request))
                else:
                    sock.send(question)
                    answers.append(await self._receive_datagram(sock, request))

            try:
                await self._network.run(timeout, ask)
            except TimeoutError as error:
                raise dns.exception.Timeout(timeout=timeout) from error  # type: ignore[no-untyped-call]  # dnspython's
        return answers[0]

    async def _open(self, kind: int) -> socket.socket:
        try:
            return await self._network.open_socket(socket.AF_INET6 if ":" in self.address else socket.AF_INET, kind)
        except NsbrokerError as error:
            self._failures.append(error)
            # dnspython asks a server no more after an OSError, and would ask it again and again after any other error.
            raise OSError(str(error)) from error

    async def _receive_datagram(self, sock: socket.socket, request: dns.message.QueryMessage) -> dns.message.Message:
        """Receive the answer to `request`.  Datagrams that are none are ignored.  Raises Truncated, and FormError after many."""
        for _ in range(DATAGRAMS_MAX):
            answer = read_datagram(await self._network.receive(sock, DATAGRAM_MAX), request)
            if answer is not None:
                return answer
        raise only_junk()

    async def _receive_exactly(self, sock: socket.socket, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = await self._network.receive(sock, size - len(data))
            if not piece:
                raise EOFError("the name server closed the connection")
            data += piece
        return data


async def look_up(name: str, configuration: bytes, network: Network) -> list[str]:
    """Like `nsbroker.names.blocking.look_up`, with the sockets of `network`."""
    failures: list[Exception] = []
    resolver = dns.asyncresolver.Resolver(configure=False)
    configure(resolver, configuration, lambda address: _Server(address, network, failures), None)
    # dnspython itself would remember the first event loop that it saw in this process.
    backend = dns.asyncbackend.get_backend(network.library)
    try:
        return addresses(await resolver.resolve_name(name, search=True, backend=backend))
    except dns.exception.DNSException as error:
        raise explain(error, failures) from error
