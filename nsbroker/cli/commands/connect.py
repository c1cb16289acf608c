"""`nsbroker connect`."""

import argparse
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
# Seconds.
_MOMENT = 1.0


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
        sender = _Sender(sock)
        threading.Thread(target=sender.run, daemon=True).start()
        try:
            while data := sock.recv(_READ_SIZE):
                _write_output(data)
            sender.check()
        except ConnectionResetError as error:
            raise CommandFailed(f"{options.host} port {options.port} in {target} broke the connection") from error
    return 0


class _Sender:
    """Sends standard input to the connection `sock` (borrowed), on a thread of its own."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._sending = threading.Lock()
        self._error: OSError | None = None

    def run(self) -> None:
        """Send until standard input or the connection ends."""
        try:
            while data := _read_input():
                with self._sending:
                    self._send(data)
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            return  # The connection has ended.  The main thread still reads what the other side sent.

    def _send(self, data: bytes) -> None:
        try:
            self._sock.sendall(data)
        except BrokenPipeError:
            raise  # The other side has closed the connection, and it may do that.
        except OSError as error:
            self._error = error
            raise

    def check(self) -> None:
        """Raise the error that broke the connection, if this thread met it.

        The kernel reports such an error once, either to who sends or to who receives.  Whoever receives finds only the end of the
        data if the other one got the error.  So the main thread calls this when it comes to the end of the data.
        """
        # A thread that has just met an error needs a moment to note it.  One that is blocked has met none: the other side sends no
        # more, and does not read.
        if self._sending.acquire(timeout=_MOMENT):
            self._sending.release()
        if self._error is not None:
            raise self._error


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
