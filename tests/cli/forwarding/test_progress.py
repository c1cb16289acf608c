"""What `nsbroker forward` tells: JSON, the status line, and that it is ready."""

import asyncio
import json
import os
import pty
import socket
import sys
from pathlib import Path

import pytest

from nsbroker.cli.forwarding.progress import Progress, amount, announce_ready


def test_json_tells_everything_in_lines(capfd: pytest.CaptureFixture[str]) -> None:
    progress = Progress(json=True)
    progress.listening("127.0.0.1:80", "name:web port 80", "udp")
    with progress.connection("127.0.0.1:80", "name:web port 80") as traffic:
        traffic.sent.bytes, traffic.received.bytes = 3, 4
    progress.failed("name:web port 80", "Connection refused")
    progress.waiting("name:web, 127.0.0.1:80", "no such target")
    out, err = capfd.readouterr()
    assert err == ""
    assert [json.loads(line) for line in out.splitlines()] == [
        {"event": "listening", "listen": "127.0.0.1:80", "to": "name:web port 80", "protocol": "udp"},
        {"event": "opened", "connection": 1, "listen": "127.0.0.1:80", "to": "name:web port 80"},
        {"event": "closed", "connection": 1, "sent": 3, "received": 4},
        {"event": "failed", "to": "name:web port 80", "error": "Connection refused"},
        {"event": "waiting", "listen": "name:web, 127.0.0.1:80", "error": "no such target"},
    ]


def test_people_get_lines_and_no_status_line_without_a_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    async def run() -> None:
        progress = Progress(json=False)
        progress.listening("127.0.0.1:80", "name:web port 80", "tcp")
        progress.listening("127.0.0.1:53", "name:web port 53", "udp")
        with progress.connection("a", "b"):
            await progress.show()
        progress.failed("name:web port 80", "Connection refused")
        progress.waiting("name:web, 127.0.0.1:80", "no such target")

    asyncio.run(run())
    out, err = capfd.readouterr()
    assert out.splitlines() == ["127.0.0.1:80 leads to name:web port 80", "udp 127.0.0.1:53 leads to name:web port 53"]
    assert err.splitlines() == [
        "nsbroker: name:web port 80: Connection refused",
        "nsbroker: name:web, 127.0.0.1:80: no such target. It will listen again as soon as it can",
    ]


def test_a_terminal_has_a_status_line_that_makes_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    leader, follower = pty.openpty()
    monkeypatch.setenv("TERM", "xterm")
    with open(follower, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)

        async def run() -> None:
            progress = Progress(json=False)
            with progress.connection("a", "b") as traffic:
                traffic.received.bytes = 1500
                showing = asyncio.create_task(progress.show())
                await asyncio.sleep(0)
                progress.listening("127.0.0.1:80", "name:web", "tcp")
                showing.cancel()
                await asyncio.gather(showing, return_exceptions=True)

        asyncio.run(run())
    shown = ""
    # A terminal can hand over what was written in pieces.
    while not shown.endswith("name:web\r\n"):
        shown += os.read(leader, 4096).decode()
    os.close(leader)
    assert shown == "1 open, 1 in all, 0 B sent, 1.5 kB received\r\x1b[K127.0.0.1:80 leads to name:web\r\n"


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (4_200_000, "4.2 MB"), (10**18, "1000000.0 TB")]
)
def test_amounts_have_units(count: int, text: str) -> None:
    assert amount(count) == text


@pytest.mark.parametrize("is_abstract", [False, True])
def test_who_waits_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_abstract: bool) -> None:
    name = f"@nsbroker-test-{os.getpid()}" if is_abstract else str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    read, write = os.pipe()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(name.replace("@", "\0"))
        announce_ready(write)
        assert manager.recv(100) == b"READY=1"
    assert os.read(read, 2) == b"\n"
    # The descriptor was closed.
    assert os.read(read, 1) == b""
    os.close(read)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.close(write)


def test_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    announce_ready(None)
