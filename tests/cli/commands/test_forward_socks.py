"""`nsbroker forward --socks`: a SOCKS5 proxy for a user, with real clients and servers inside a real network."""

import contextlib
import http.server
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsbroker.namespace import Namespace
from tests.cli.forwarding.running import Forward
from tests.world import ALICE, PATIENCE, Daemon

pytestmark = pytest.mark.root


class Page(http.server.BaseHTTPRequestHandler):
    """Says which host it was asked for."""

    def do_GET(self) -> None:
        body = f"this is {self.headers['Host']}{self.path}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web(daemon: Daemon, blue: Path) -> Iterator[int]:
    """A web server inside blue, which knows itself as web.test; the value is its port."""
    daemon.allow(
        "alice",
        who=[f"user:{ALICE}"],
        targets=["name:blue"],
        sockets=["inet:stream", "inet6:stream"],
        files=["hosts", "resolv.conf"],
    )
    subprocess.run(["ip", "-n", "blue", "link", "set", "lo", "up"], check=True)
    subprocess.run(["ip", "-n", "blue", "address", "add", "192.0.2.7/32", "dev", "lo"], check=True)
    folder = Path("/etc/netns/blue")
    folder.mkdir(parents=True)
    (folder / "hosts").write_text("192.0.2.7 web.test\n")
    (folder / "resolv.conf").write_text("nameserver 192.0.2.7\n")
    with contextlib.ExitStack() as stack:
        stack.callback(folder.rmdir)
        for name in ("hosts", "resolv.conf"):
            stack.callback((folder / name).unlink)
        network = stack.enter_context(Namespace.from_name("blue", "net"))
        server = network.call(lambda: http.server.ThreadingHTTPServer(("0.0.0.0", 0), Page))
        stack.callback(server.server_close)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        stack.callback(thread.join)
        stack.callback(server.shutdown)
        yield server.server_address[1]


def curl(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["curl", "--silent", "--show-error", "--max-time", str(PATIENCE), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_curl_reaches_a_server_inside_by_its_address_and_by_the_name_that_it_has_there(daemon: Daemon, web: int) -> None:
    with Forward(daemon, "--socks=0") as forward:
        assert forward.printed == [f"127.0.0.1:{forward.port()} leads to name:blue (SOCKS5)"]
        for host in ("192.0.2.7", "web.test"):
            done = curl("--socks5-hostname", f"127.0.0.1:{forward.port()}", f"http://{host}:{web}/page")
            assert (done.stdout, done.stderr) == (f"this is {host}:{web}/page", "")
        assert forward.end() == (0, [])


def test_curl_says_why_it_was_refused(daemon: Daemon, web: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with Forward(daemon, "--socks=0") as forward:
        proxy = ("--socks5-hostname", f"127.0.0.1:{forward.port()}")
        assert "(5)" in curl(*proxy, f"http://192.0.2.7:{port}/").stderr
        assert "(4)" in curl(*proxy, f"http://nobody.test:{web}/").stderr
        code, errors = forward.end()
    assert code == 0
    assert errors[0] == f"nsbroker: name:blue (SOCKS5): 192.0.2.7:{port}: Connection refused"
    assert "cannot look up 'nobody.test'" in errors[1]


def test_garbage_is_a_line_and_the_next_client_is_served(daemon: Daemon, web: int) -> None:
    with Forward(daemon, "--socks=0") as forward:
        with forward.connect() as client:
            client.sendall(b"GET / HTTP/1.1\r\n\r\n")
            with contextlib.suppress(ConnectionResetError):
                assert client.recv(100) == b""
        done = curl("--socks5", f"127.0.0.1:{forward.port()}", f"http://192.0.2.7:{web}/")
        assert done.stdout.startswith("this is 192.0.2.7")
        assert forward.end() == (0, ["nsbroker: name:blue (SOCKS5): a client does not speak SOCKS5 (its first byte is 71)"])


def test_it_can_listen_on_a_unix_socket(daemon: Daemon, web: int, folder: Path) -> None:
    path = folder / "socks"
    with Forward(daemon, f"--socks=unix:{path}") as forward:
        assert forward.printed == [f"unix:{path} leads to name:blue (SOCKS5)"]
        done = curl("--proxy", f"socks5h://localhost{path}", f"http://web.test:{web}/")
        assert done.stdout.startswith("this is web.test"), done.stderr
    assert not path.exists()
