"""What `nsbroker capture` and `nsbroker extcap` share: asking for the packet socket, and capturing until a signal."""

import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from types import FrameType

from nsbroker.capture.capturing import Capture, Statistics
from nsbroker.capture.output import Output
from nsbroker.client.blocking import Broker
from nsbroker.errors import CommandFailed, PermissionDenied
from nsbroker.model.target import Target

PERMISSION = "packet:raw"
"""The kind of socket that a rule must allow."""
STANDARD_OUTPUT = "-"
"""What stands for standard output instead of the name of a file."""

_STOPPING = (signal.SIGINT, signal.SIGTERM)


def open_socket(broker: Broker, target: Target) -> socket.socket:
    """Return a packet socket (the caller's to close) that receives nothing until it is bound.

    Raises CommandFailed when it is not allowed, with the rule that is missing, and the errors of `Broker.socket`.
    """
    try:
        return broker.socket(target, socket.AF_PACKET, socket.SOCK_RAW, 0)
    except PermissionDenied as error:
        raise CommandFailed(
            f'{error}.  Capturing takes a rule for {target} with sockets = ["{PERMISSION}"]; root can give it for a while: '
            f"nsbroker grant user:NAME {target} --sockets {PERMISSION} --for 1h"
        ) from error


def capture(broker: Broker, target: Target, interface: str, expression: str, path: str, most: int | None) -> Statistics:
    """Capture into the file or pipe `path` until there are `most` packets (None: no limit), or until SIGINT or SIGTERM.

    An existing file is only touched once everything else is ready.  Raises BrokenPipeError when the reader of a pipe has left,
    CommandFailed, and the errors of `Broker.socket`.
    """
    with Capture(open_socket(broker, target), str(target), interface, expression) as running, _open(path) as fd:
        # The calls are over: the broker need not keep a connection that waits for hours.
        broker.close()
        name = "standard output" if path == STANDARD_OUTPUT else path
        with _stop_on_signals() as stop:
            return running.run(Output(fd, name), most, stop)


@contextlib.contextmanager
def _open(path: str) -> Iterator[int]:
    if path == STANDARD_OUTPUT:
        yield 1
        return
    try:
        # Packets can contain secrets, so a new file is for its owner alone.  Opening a fifo waits for its reader.
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise CommandFailed(f"cannot write to {path}: {error.strerror}") from error
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def _stop_on_signals() -> Iterator[int]:
    """Yield a descriptor that can be read after SIGINT or SIGTERM.  The same signal ends the process at once the second time.

    Use it in the main thread.
    """
    read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    handlers = {number: signal.signal(number, _let_the_next_one_end) for number in _STOPPING}
    before = signal.set_wakeup_fd(write)
    try:
        yield read
    finally:
        signal.set_wakeup_fd(before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.close(read)
        os.close(write)


def _let_the_next_one_end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature of signal handlers
    # The capture may be blocked, because the reader of a pipe does not read.
    signal.signal(number, signal.SIG_DFL)
