"""Starting threads from an event loop."""

import _thread
from collections.abc import Callable

from nsbroker.linux.libc import name_thread


def start_thread(name: str, function: Callable[..., object], *args: object) -> None:
    """Start a daemon thread that calls `function`, and do not wait for it.  The kernel shows its `name`, of at most 15 bytes.

    `threading.Thread.start` waits until the thread runs.  On a busy host that takes as long as it has to wait for a processor, and
    with it all clients of an event loop.  The thread inherits namespaces and credentials of the caller (clone(2)).  It cannot be
    joined.  Raises RuntimeError when there can be no further thread.
    """
    _thread.start_new_thread(_run, (name, function, args))


def _run(name: str, function: Callable[..., object], args: tuple[object, ...]) -> None:
    name_thread(name)
    function(*args)
