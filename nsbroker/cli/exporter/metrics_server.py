"""The HTTP server of the exporter."""

import contextlib
import selectors
import signal
import socket
import socketserver
import sys
import threading
from typing import Any

from prometheus_client import CollectorRegistry, MetricsHandler

from nsbroker.cli import terminal

# At most so many requests are answered at the same time, and a client may take so many seconds to send one and to read the answer.
_REQUESTS = 8
_SECONDS = 10.0


class MetricsServer(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Serves the metrics of `registry` on the listening socket `sock` (taken), which may also be a Unix socket."""

    daemon_threads = True
    # `handle_request` does not wait.
    timeout = 0

    def __init__(self, sock: socket.socket, registry: CollectorRegistry) -> None:
        handler: Any = MetricsHandler.factory(registry)
        # The initializer of TCPServer would make another socket.
        socketserver.BaseServer.__init__(self, sock.getsockname(), handler)
        self.socket = sock
        self.socket.setblocking(False)
        self._free = threading.BoundedSemaphore(_REQUESTS)

    def serve_until(self, *signals: int) -> None:
        """Serve until one of the signals arrives.  Call this in the main thread."""
        read, write = socket.socketpair()
        with read, write, selectors.DefaultSelector() as selector:
            write.setblocking(False)
            # A handler that raises can do so where Python only prints the exception, such as in the callback of a weak reference.
            signal.set_wakeup_fd(write.fileno())
            for number in signals:
                signal.signal(number, lambda *_: None)
            selector.register(self.socket, selectors.EVENT_READ)
            selector.register(read, selectors.EVENT_READ)
            while read not in [key.fileobj for key, _ in selector.select()]:
                self.handle_request()
            signal.set_wakeup_fd(-1)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer a request on a thread of its own, or hang up while too many are being answered."""
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer a request."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Answer a request, and hang up when that takes too long."""
        # A timeout of the socket would begin anew with every byte that the client sends or reads.
        deadline = threading.Timer(_SECONDS, _hang_up, (request,))
        deadline.daemon = True
        deadline.start()
        try:
            super().finish_request(request, client_address)
        finally:
            deadline.cancel()
            # The socket is closed next.  The timer must not use its descriptor after that.
            deadline.join()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - the signature of socketserver
        """Say in one line what went wrong with a request, unless the client went away or was too slow."""
        error = sys.exception()
        if not isinstance(error, OSError):
            terminal.print_message(f"a request failed: {type(error).__name__}: {error} (please report it)")


def _hang_up(sock: socket.socket) -> None:
    """Shut down a connection (borrowed).  Whoever is sending or receiving on it then finds that it has ended."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
