"""A namespace is found by its id alone, whatever keeps it alive."""

import os
import signal
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from nsbroker.errors import NoSuchTarget
from nsbroker.linux import setns
from nsbroker.model.identity import NamespaceId
from nsbroker.namespace import Namespace, search
from tests.world import Sleeper, eventually, named_network


def found(text: str) -> str:
    with search.find_by_id(NamespaceId.parse(text)) as ns:
        return str(ns)


def test_through_a_process(sleeper: Sleeper) -> None:
    text = os.readlink(f"/proc/{sleeper.pid}/ns/uts")
    assert found(text) == text


def test_through_a_single_thread() -> None:
    names: list[str] = []
    ready, done = threading.Event(), threading.Event()

    def live() -> None:
        setns.unshare(setns.CLONE_NEWUTS)
        names.append(os.readlink("/proc/thread-self/ns/uts"))
        ready.set()
        done.wait()

    thread = threading.Thread(target=live)
    thread.start()
    ready.wait()
    assert found(names[0]) == names[0]
    done.set()
    thread.join()


def test_through_an_open_descriptor_alone(sleeper: Sleeper) -> None:
    with Namespace.from_pid(sleeper.pid, "net") as ns:
        sleeper.end()
        assert found(str(ns)) == str(ns)


def test_through_the_namespace_for_the_children_of_a_process() -> None:
    code = """
import ctypes, os, sys
ctypes.CDLL(None).unshare(0x80)
print(os.readlink("/proc/self/ns/time_for_children"), flush=True)
sys.stdin.read()"""
    with subprocess.Popen(["python3", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout
        text = child.stdout.readline().strip()
        assert text != os.readlink("/proc/self/ns/time")
        assert found(text) == text


@pytest.mark.root
def test_through_an_open_file_of_roots_whose_mount_is_gone() -> None:
    with named_network("green") as path:
        text = f"net:[{path.stat().st_ino}]"
        fd = os.open(path, os.O_RDONLY)
    assert os.readlink(f"/proc/self/fd/{fd}") == "/"
    assert found(text) == text
    os.close(fd)


@pytest.mark.root
def test_through_a_mount() -> None:
    with named_network("green") as path:
        with Namespace.from_path(path) as ns:
            text = str(ns)
        assert found(text) == text


@pytest.mark.root
def test_through_a_mount_in_another_mount_namespace_under_a_strange_name(tmp_path: Path) -> None:
    script = """
        mount -t tmpfs tmpfs "$1"; mkdir "$1/a b"; touch "$1/a b/ns"
        unshare --net="$1/a b/ns" readlink /proc/self/ns/net
        read wait"""
    command = ["unshare", "--mount", "sh", "-ec", script, "sh", str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout
        text = child.stdout.readline().strip()
        assert found(text) == text


def test_what_nothing_keeps_alive_is_not_found() -> None:
    def is_missing() -> bool:
        with Sleeper("--net") as process:
            text = os.readlink(f"/proc/{process.pid}/ns/net")
        try:
            search.find_by_id(NamespaceId.parse(text)).close()
        except NoSuchTarget as error:
            return "keeps it alive" in str(error)
        return False

    # The kernel soon gives its inode to another one, which may belong to other tests that run at the same time.
    eventually(is_missing, "it is not found")


def test_through_a_socket_alone() -> None:
    with Namespace.create("net") as ns:
        text = str(ns)
        sock = ns.call(socket.socket, socket.AF_UNIX)
    with sock:
        assert found(text) == text


def test_through_a_child_user_namespace_alone() -> None:
    """Find a user namespace that no process is in any more."""
    command = ["unshare", "--user", "--map-root-user", "unshare", "--user", "--map-root-user", "sleep", "100"]
    with subprocess.Popen(command) as process:
        eventually(lambda: Path(f"/proc/{process.pid}/comm").read_text() == "sleep\n", "it sleeps")
        with Namespace.from_pid(process.pid, "user") as inner, inner.parent() as outer:
            text = str(outer)
        assert found(text) == text
        process.kill()


def test_a_right_location_saves_the_search_and_a_wrong_one_does_no_harm(sleeper: Sleeper, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = NamespaceId.parse(os.readlink(f"/proc/{sleeper.pid}/ns/uts"))
    locations = {str(wanted): f"/proc/{os.getpid()}/ns/uts"}
    with search.find_by_id(wanted, locations) as ns:
        assert ns.inode == wanted.inode
    place = locations[str(wanted)]
    assert place.startswith(f"/proc/{sleeper.pid}/")
    with monkeypatch.context() as patch:
        patch.setattr("nsbroker.linux.process_table.process_ids", lambda: pytest.fail("/proc was searched"))
        with search.find_by_id(wanted, locations) as ns:
            assert ns.inode == wanted.inode
    for nonsense in ("", "socket:1/x", "/nowhere", f"socket:{os.getpid()}/0"):
        with search.find_by_id(wanted, {str(wanted): nonsense}) as ns:
            assert ns.inode == wanted.inode


def test_a_user_namespace_as_the_owner_of_a_network_that_a_descriptor_keeps() -> None:
    command = ["unshare", "--user", "--map-root-user", "--net", "sleep", "100"]
    with subprocess.Popen(command) as process:
        eventually(lambda: Path(f"/proc/{process.pid}/comm").read_text() == "sleep\n", "it sleeps")
        with Namespace.from_pid(process.pid, "net") as network:
            process.kill()
            process.wait()
            with network.owner() as owner:
                text = str(owner)
            assert found(text) == text


def test_a_pid_namespace_as_the_parent_of_one_that_a_descriptor_keeps() -> None:
    command = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "unshare", "--pid", "--fork", "sleep", "100"]
    with subprocess.Popen(command) as process:
        eventually(lambda: name_of(last_below(process.pid)) == "sleep\n", "it sleeps")
        inner = last_below(process.pid)
        with Namespace.from_pid(inner, "pid") as ns:
            os.kill(inner, signal.SIGKILL)
            process.wait()
            with ns.parent() as parent:
                text = str(parent)
            assert text != os.readlink("/proc/self/ns/pid")
            assert found(text) == text


def last_below(pid: int) -> int:
    """Return the last descendant of the process `pid`, following first children."""
    while children := Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        pid = int(children[0])
    return pid


def name_of(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text()
