"""Servers that connect before they fork their workers: each worker gets a connection of its own, or a clear error.

The server here is a real one, of the kind that `gunicorn --preload` is: the parent listens and prepares the application, and
each worker accepts from the same socket.
"""

import contextlib
import http.client
import http.server
import json
import os
import signal
import socket
from collections.abc import Callable, Iterator

import pytest

import nsbroker
from nsbroker.errors import PermissionDenied
from tests.world import Daemon, Sleeper

WORKERS = 3
REQUESTS = 30
Application = Callable[[str], object]
"""Answers a request for a path."""


class Server(http.server.HTTPServer):
    """A worker's server, on the listening socket of its parent."""

    def __init__(self, listener: socket.socket, application: Application) -> None:
        super().__init__(("", 0), Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.application = application


class Handler(http.server.BaseHTTPRequestHandler):
    """Sends what the application returns, or the error that it raises, and the number of the worker."""

    server: Server

    def do_GET(self) -> None:
        try:
            answer = self.server.application(self.path)
        except Exception as error:
            answer = f"{type(error).__name__}: {error}"
        body = json.dumps([os.getpid(), answer]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Print no log."""


@contextlib.contextmanager
def serving(application: Application) -> Iterator[int]:
    """Fork workers that run `application`, which exists already, and yield the port on which they listen."""
    workers = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        try:
            for _ in range(WORKERS):
                worker = os.fork()
                if worker == 0:
                    try:
                        signal.signal(signal.SIGTERM, signal.SIG_DFL)
                        Server(listener, application).serve_forever()
                    finally:
                        os._exit(1)
                workers.append(worker)
            yield listener.getsockname()[1]
        finally:
            for worker in workers:
                os.kill(worker, signal.SIGTERM)
                os.waitpid(worker, 0)


def ask(port: int, path: str = "/") -> tuple[int, object]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path)
        worker, answer = json.loads(connection.getresponse().read())
        return worker, answer
    finally:
        connection.close()


def test_each_worker_of_a_preloading_server_has_a_connection_of_its_own(daemon: Daemon) -> None:
    with Sleeper() as one, Sleeper() as two, daemon.connect() as broker:
        broker.who_am_i()

        def application(path: str) -> object:
            with broker.open(f"pid:{path[1:]}", "net") as ns:
                return [broker.who_am_i().pid, ns.inode]

        with serving(application) as port:
            for number in range(REQUESTS):
                target = (one, two)[number % 2]
                worker, answer = ask(port, f"/{target.pid}")
                # For the broker, the caller is the worker, and the reply is the one to its own call.
                assert answer == [worker, target.inode("net")]
                assert broker.who_am_i().pid == os.getpid(), "the parent still has its connection"


def test_the_rights_that_the_parent_gave_up_are_gone_in_the_workers(daemon: Daemon) -> None:
    with daemon.connect() as broker:
        broker.restrict(["self"], namespaces=["uts"])
        with pytest.raises(PermissionDenied):
            broker.open("self", "net")

        def application(path: str) -> object:
            with broker.open("self", path[1:]) as ns:
                return str(ns.id)

        with serving(application) as port:
            assert ask(port, "/uts")[1] == os.readlink("/proc/self/ns/uts")
            assert str(ask(port, "/net")[1]).startswith("PermissionDenied: open net of self: ")


def test_a_worker_cannot_use_a_connection_that_the_parent_received(daemon: Daemon) -> None:
    with daemon.connect() as first:
        fd = first.detach()
    with nsbroker.connect(fd=fd) as broker:
        broker.who_am_i()
        with serving(lambda path: broker.who_am_i().pid) as port:
            _, answer = ask(port)
            assert str(answer).startswith("ConnectionLost: ask who I am: the connection has ended, is the one of another process")
            assert str(answer).endswith("make another client")
            assert broker.who_am_i().pid == os.getpid(), "the parent still has it"


def test_a_worker_says_what_is_wrong_when_the_broker_has_gone(daemon: Daemon) -> None:
    with daemon.connect() as broker:
        broker.who_am_i()
        with serving(lambda path: broker.who_am_i().pid) as port:
            worker, answer = ask(port)
            assert answer == worker
            daemon.stop()
            assert "is the daemon running?" in str(ask(port)[1])
            daemon.start()
            # Each worker connects again by itself.
            for _ in range(REQUESTS):
                worker, answer = ask(port)
                assert answer == worker
