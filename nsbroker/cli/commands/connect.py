"""`nsbroker connect`."""

import argparse
import contextlib
import os
import select
import socket
import threading

from nsbroker.cli import arguments, connection
from nsbroker.errors import CommandFailed, LookupFailed, NsbrokerError

HELP = """\
Connect standard input and output to a port inside a target's network.

You can use it as the ProxyCommand of ssh(1): `ssh -o ProxyCommand="nsbroker connect container:web %h %p" ...`.  A host name is
looked up as the target does: in its hosts file, then by the servers of its resolv.conf.  With `--resolve here`, it is looked up
where you run the command."""
EXAMPLE = "nsbroker connect container:web 127.0.0.1 80"

_READ_SIZE = 65536
_PORT_MAX = 65535


def configure(parser: argparse.ArgumentParser) -> None:
    """Add its arguments."""
    arguments.add_target(parser)
    parser.add_argument("host", metavar="HOST", help="connect to this address inside, such as 127.0.0.1")
    parser.add_argument("port", metavar="PORT", type=_parse_port, help="connect to this TCP port")
    parser.add_argument(
        "--resolve",
        choices=("inside", "here"),
        default="inside",
        help="look the host name up as the target does, or as programs outside do (default: inside)",
    )
    connection.add_timeout(parser)


def run(options: argparse.Namespace) -> int:
    """Connect, and copy bytes in both directions until the other side ends."""
    target, address = arguments.target(options), (options.host, options.port)
    with connection.connect(options) as broker:
        try:
            sock = broker.create_connection(target, address, resolve=options.resolve)
        except LookupFailed as error:
            raise CommandFailed(f"{error}.  With `--resolve here`, the name is looked up where you run the command") from error
        except (OSError, UnicodeError) as error:
            if isinstance(error, NsbrokerError):
                raise
            # UnicodeError: the text cannot be a host name.
            reason = getattr(error, "strerror", None) or error
            raise CommandFailed(f"cannot connect to {options.host} port {options.port} in {target}: {reason}") from error
    with sock:
        # Send each piece at once, as it was written: do not collect small writes (Nagle's algorithm).
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=_send_input, args=(sock,), daemon=True).start()
        try:
            while data := sock.recv(_READ_SIZE):
                _write_output(data)
        except ConnectionResetError as error:
            raise CommandFailed(f"{options.host} port {options.port} in {target} broke the connection") from error
    return 0


def _send_input(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := _read_input():
            sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
    # An OSError means that the other side has ended.  The main thread still reads what it sent.


def _read_input() -> bytes:
    while True:
        try:
            return os.read(0, _READ_SIZE)
        except BlockingIOError:
            _wait_until_ready(0, select.POLLIN)
        except OSError:
            return b""  # Standard input is closed: treat that as its end.


def _write_output(data: bytes) -> None:
    left = memoryview(data)
    while left:
        try:
            left = left[os.write(1, left) :]
        except BlockingIOError:
            _wait_until_ready(1, select.POLLOUT)


def _wait_until_ready(fd: int, event: int) -> None:
    """Wait for `event`.  Another program that has the same pipe or terminal open may have made it non-blocking."""
    poll = select.poll()
    poll.register(fd, event)
    poll.poll()


def _parse_port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 0 < int(text) <= _PORT_MAX):
        raise argparse.ArgumentTypeError(f"{text[:80]!r} is not a port: write a number from 1 to {_PORT_MAX}")
    return int(text)
