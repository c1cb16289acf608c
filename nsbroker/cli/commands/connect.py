"""`nsbroker connect`."""

import argparse
import contextlib
import os
import socket
import threading

from nsbroker.cli import arguments, connection
from nsbroker.errors import CommandFailed, NsbrokerError

HELP = """\
Connect standard input and output to a port inside a target's network.

Serves as ProxyCommand of ssh(1): `ssh -o ProxyCommand="nsbroker connect container:web %h %p" ...`.  A name given as HOST
is looked up here, not inside."""

_SOME = 65536
_PORT_MAX = 65535


def configure(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    arguments.add_target(parser)
    parser.add_argument("host", metavar="HOST", help="an address inside, such as 127.0.0.1")
    parser.add_argument("port", metavar="PORT", type=_port, help="a TCP port")
    connection.add_timeout(parser)


def run(options: argparse.Namespace) -> int:
    """Connect, and move bytes until the other side ends."""
    target, address = arguments.target(options), (options.host, options.port)
    with connection.connect(options) as broker:
        try:
            sock = broker.create_connection(target, address)
        except (OSError, UnicodeError) as error:
            if isinstance(error, NsbrokerError):
                raise
            # UnicodeError: what cannot be a host's name.
            reason = getattr(error, "strerror", None) or error
            raise CommandFailed(f"cannot connect to {options.host} port {options.port} in {target}: {reason}") from error
    with sock:
        # Whoever writes has decided what goes at once.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=_send, args=(sock,), daemon=True).start()
        try:
            while data := memoryview(sock.recv(_SOME)):
                while data:
                    data = data[os.write(1, data) :]
        except ConnectionResetError as error:
            raise CommandFailed(f"{options.host} port {options.port} in {target} broke the connection") from error
    return 0


def _send(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := _read():
            sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
    # Otherwise the other side has ended; what it had to say is being read.


def _read() -> bytes:
    try:
        return os.read(0, _SOME)
    except OSError:
        return b""  # Standard input is closed, which is its end.


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 0 < int(text) <= _PORT_MAX):
        raise argparse.ArgumentTypeError(f"{text[:80]!r} is no port: write a number from 1 to {_PORT_MAX}")
    return int(text)
