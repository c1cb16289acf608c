"""A real name server, which answers over UDP and TCP on given sockets."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

PORT = 53


class NameServer:
    """Answers questions about `names`, until it is closed.  Takes the sockets."""

    def __init__(self, datagrams: socket.socket, listener: socket.socket, names: Mapping[str, Sequence[str]]) -> None:
        self.names = dict(names)
        self.silent = False
        self.truncates = False
        self.junk = b""
        """If it is not empty, who asks over UDP gets this without end, and no answer."""
        self.long = b""
        """If it is not empty, the answer to each question over TCP."""
        self.asked: list[tuple[str, str, str]] = []
        """Each question that came: over udp or tcp, the name, and the type."""
        self._sockets = (datagrams, listener)
        self._threads = [threading.Thread(target=self._serve_udp), threading.Thread(target=self._serve_tcp)]
        for thread in self._threads:
            thread.start()

    def _serve_udp(self) -> None:
        with contextlib.suppress(OSError):
            address: Any = None
            while True:
                try:
                    data, address = self._sockets[0].recvfrom(65535, socket.MSG_DONTWAIT if self.junk and address else 0)
                except BlockingIOError:
                    self._sockets[0].sendto(self.junk, address)
                    continue
                if not data:
                    return
                for reply in self._answer(data, "udp"):
                    self._sockets[0].sendto(reply, address)

    def _serve_tcp(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._sockets[1].accept()
                with sock:
                    data = sock.recv(65535)
                    for reply in [self.long] if self.long else self._answer(data[2:], "tcp"):
                        sock.sendall(len(reply).to_bytes(2, "big") + reply)

    def _answer(self, data: bytes, way: str) -> Iterator[bytes]:
        question = dns.message.from_wire(data)
        [asked] = question.question
        name, kind = asked.name.to_text(), dns.rdatatype.to_text(asked.rdtype)
        self.asked.append((way, name, kind))
        if self.silent or self.junk:
            return
        reply = dns.message.make_response(question)
        known = self.names.get(name.lower())
        if known is None:
            reply.set_rcode(dns.rcode.NXDOMAIN)
        elif self.truncates and way == "udp":
            reply.flags |= dns.flags.TC
        else:
            addresses = [address for address in known if (":" in address) == (kind == "AAAA")]
            if addresses and kind in ("A", "AAAA"):
                reply.answer.append(dns.rrset.from_text(asked.name, 60, "IN", kind, *addresses))
        yield reply.to_wire()

    def close(self) -> None:
        """End both threads, and close the sockets."""
        self.junk = b""
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                # Linux also wakes up a thread that receives from a datagram socket, although the socket is not connected.
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for sock in self._sockets:
            sock.close()


@contextlib.contextmanager
def name_server(
    make: Callable[[int, int], socket.socket], address: str, names: Mapping[str, Sequence[str]]
) -> Iterator[NameServer]:
    """Run a name server at `address`.  `make` makes its sockets, of a family and a type, in the network where it shall be."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    datagrams, listener = make(family, socket.SOCK_DGRAM), make(family, socket.SOCK_STREAM)
    for sock in (datagrams, listener):
        sock.settimeout(None)
        sock.bind((address, PORT))
    listener.listen()
    server = NameServer(datagrams, listener, names)
    try:
        yield server
    finally:
        server.close()
