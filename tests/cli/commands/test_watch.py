"""`nsbroker watch`."""

import json
import re
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from nsbroker.cli.commands import watch
from nsbroker.client.events import Event
from nsbroker.model.description import Reference, ReferenceKind, WatchEvent
from tests.cli.conftest import one_line
from tests.cli.made_up import NASTY, ns
from tests.world import PATIENCE, Daemon, Sleeper, run_command, start_command


@contextmanager
def watching(daemon: Daemon, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    with start_command("watch", *arguments, address=daemon.address) as process:
        try:
            yield process
        finally:
            process.kill()


def line_with(process: subprocess.Popen[bytes], *words: str) -> str:
    """Return the next line that contains all of the words."""
    assert process.stdout
    while text := process.stdout.readline().decode():
        if all(word in text for word in words):
            return text
    raise AssertionError(f"it ended without {words}")


def ended(process: subprocess.Popen[bytes]) -> tuple[int, bytes]:
    _, errors = process.communicate(timeout=PATIENCE)
    return process.returncode, errors


def printed(event: WatchEvent, **fields: object) -> str:
    text = watch.line(Event(event, **fields))  # type: ignore[arg-type]  # of tests
    assert re.match(r"\d\d:\d\d:\d\d ", text)
    return text[9:]


def test_a_line_of_each_event() -> None:
    blue = ns(3, references=[Reference(ReferenceKind.MOUNT, path="/run/netns/blue")])
    assert printed(WatchEvent.ADDED, namespace=blue) == "+ net:[3]  /run/netns/blue"
    web = ns(3, command="sleep 600", containers=["docker:web"])
    assert printed(WatchEvent.GONE, namespace=web) == "- net:[3]  docker:web  10003 sleep 600"
    assert printed(WatchEvent.PRESENT, namespace=ns(3)) == "= net:[3]"
    assert "nsbroker ls" in printed(WatchEvent.MISSED)
    assert "nsbroker ls" in printed(WatchEvent.MISSED, namespace=web)
    assert printed(WatchEvent.READY)
    assert printed(WatchEvent.ADDED, namespace=ns(3, command=NASTY)).isprintable()


def test_what_appears_and_disappears_is_printed_at_once(daemon: Daemon) -> None:
    with watching(daemon, "--type", "net", "--all") as process:
        line_with(process, "that is all")
        with Sleeper("--net") as sleeper:
            name = f"net:[{sleeper.inode('net')}]"
            assert re.fullmatch(rf"\d\d:\d\d:\d\d \+ {re.escape(name)}  {sleeper.pid} .*\n", line_with(process, name))
        assert re.match(rf"\d\d:\d\d:\d\d - {re.escape(name)}", line_with(process, name))
        process.send_signal(signal.SIGINT)
        assert ended(process) == (0, b"")


def test_without_all_what_exists_at_the_start_is_not_printed(daemon: Daemon, sleeper: Sleeper) -> None:
    with watching(daemon, "--type", "uts") as process:
        assert process.stdout
        # Nothing shows when the watch has begun, so make changes until one is printed.
        while not select.select([process.stdout], [], [], 0)[0]:
            with Sleeper("--uts"):
                time.sleep(0.5)
        text = process.stdout.readline().decode()
        assert re.match(r"\d\d:\d\d:\d\d [+-] uts:", text)
        assert f"[{sleeper.inode('uts')}]" not in text
        process.terminate()
        assert ended(process)[0] == 0


def test_json_is_one_document_in_each_line(daemon: Daemon, sleeper: Sleeper) -> None:
    with watching(daemon, "--type", "ipc", "--json") as process:
        assert process.stdout
        first = []
        while (event := json.loads(process.stdout.readline()))["event"] != "ready":
            first.append(event)
        assert {event["event"] for event in first} == {"present"}
        assert sleeper.inode("ipc") in [event["namespace"]["inode"] for event in first]
        with Sleeper("--ipc") as other:
            inode = f'"inode":{other.inode("ipc")},'
            assert json.loads(line_with(process, inode))["event"] == "added"
        assert json.loads(line_with(process, inode))["event"] == "gone"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_exit_code_0(daemon: Daemon, number: int) -> None:
    with watching(daemon, "--all") as process:
        line_with(process, "that is all")
        process.send_signal(number)
        assert ended(process) == (0, b"")


def test_when_the_broker_ends_it_says_so(daemon: Daemon) -> None:
    with watching(daemon, "--type", "net", "--all") as process:
        line_with(process, "that is all")
        daemon.stop()
        code, errors = ended(process)
    assert code == 1
    assert errors.startswith(b"nsbroker: watch namespaces")
    assert errors.count(b"\n") == 1


def test_wrong_usage_and_no_broker() -> None:
    assert "use one of cgroup" in one_line(run_command("watch", "--type", "network"), 2)
    one_line(run_command("watch", address="unix:/run/nowhere/socket"), 1)
