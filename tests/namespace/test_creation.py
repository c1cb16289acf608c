import errno
import linecache
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from nsbroker.errors import InvalidTarget, InvalidType, NameTaken, NoSuchTarget, NotANamespace, NsbrokerError, PermissionDenied
from nsbroker.linux import mounts
from nsbroker.model.identity import NamespaceType
from nsbroker.namespace import Namespace, creation
from tests.snapshot import open_files
from tests.world import ALICE, PATIENCE, as_user, eventually

FOLDER = Path("/run/netns")


def ip_netns() -> list[str]:
    lines = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout.splitlines()
    return [line.split()[0] for line in lines]


def is_mount(path: Path) -> bool:
    return any(line.split()[4] == str(path) for line in Path("/proc/self/mountinfo").read_text().splitlines())


@pytest.mark.parametrize("ns_type", ["cgroup", "ipc", "mnt", "net", "time", "uts"])
def test_a_new_namespace_is_new_and_leaves_the_caller_where_it_is(ns_type: str) -> None:
    with (
        Namespace.current(ns_type) as before,
        Namespace.create(ns_type) as one,
        Namespace.create(ns_type) as two,
        Namespace.current(ns_type) as after,
    ):
        assert one.type == ns_type
        assert len({before, one, two}) == 3
        assert before == after
        assert not os.get_inheritable(one.fileno())


@pytest.mark.parametrize(("ns_type", "instead"), [("user", "unshare --user"), ("pid", "unshare --pid --fork")])
def test_a_type_that_cannot_be_created_says_what_to_do_instead(ns_type: str, instead: str) -> None:
    with pytest.raises(InvalidType, match=instead):
        Namespace.create(ns_type)


@pytest.mark.root
def test_creating_one_takes_cap_sys_admin() -> None:
    def make() -> None:
        with pytest.raises(PermissionDenied, match="CAP_SYS_ADMIN"):
            Namespace.create("net")

    as_user(ALICE, make)


def test_a_namespace_ends_with_its_last_descriptor() -> None:
    from nsbroker.model.identity import NamespaceId
    from nsbroker.namespace import search

    def ends() -> bool:
        ns = Namespace.create("net")
        text = str(ns)
        ns.close()
        try:
            search.find_by_id(NamespaceId.parse(text)).close()
        except NoSuchTarget:
            return True
        return False

    # The kernel soon gives its inode to another one, which may belong to other tests that run at the same time.
    eventually(ends, "it ends")


def test_ip_netns_sees_what_was_named_here_and_deletes_it() -> None:
    with Namespace.create("net", name="ours") as ns:
        assert "ours" in ip_netns()
        inside = subprocess.run(
            ["ip", "netns", "exec", "ours", "readlink", "/proc/self/ns/net"], capture_output=True, text=True, check=True
        )
        assert inside.stdout.strip() == str(ns)
    subprocess.run(["ip", "netns", "del", "ours"], check=True)
    assert not (FOLDER / "ours").exists()


def test_what_ip_netns_named_is_seen_here_and_deleted() -> None:
    subprocess.run(["ip", "netns", "add", "theirs"], check=True)
    with Namespace.from_name("theirs") as ns:
        assert ns.type == "net"
        Namespace.delete_named("theirs")
        # The open handle keeps it alive without its name.
        assert os.fstat(ns.fileno()).st_ino == ns.inode
    assert "theirs" not in ip_netns()
    assert not (FOLDER / "theirs").exists()


def test_ip_netns_and_this_library_interleaved() -> None:
    for number in range(3):
        Namespace.create("net", name=f"a{number}").close()
        subprocess.run(["ip", "netns", "add", f"b{number}"], check=True)
    assert set(ip_netns()) >= {"a0", "b0", "a1", "b1", "a2", "b2"}
    for number in range(3):
        subprocess.run(["ip", "netns", "del", f"a{number}"], check=True)
        Namespace.delete_named(f"b{number}")
    assert not {"a0", "b0", "a1", "b1", "a2", "b2"} & set(ip_netns())


def test_a_name_that_is_taken_stays_with_its_owner() -> None:
    with Namespace.create("net", name="taken") as ns:
        with pytest.raises(NameTaken, match="taken"):
            Namespace.create("net", name="taken")
        with Namespace.from_name("taken") as still:
            assert still == ns
    Namespace.delete_named("taken")


@pytest.mark.parametrize("name", ["", "..", "a/b", "a\0b", "x" * 256])
def test_a_bad_name_makes_nothing(name: str) -> None:
    with pytest.raises(InvalidTarget):
        Namespace.create("net", name=name)
    with pytest.raises(InvalidTarget):
        Namespace.delete_named(name)


def test_only_networks_get_names() -> None:
    with pytest.raises(InvalidType, match="cannot get a name"):
        Namespace.create("uts", name="host")
    assert not (FOLDER / "host").exists()


def test_when_the_mount_fails_nothing_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    real = mounts.bind

    def fail(source: str, place: str, *, recursive: bool = False) -> None:
        if not recursive:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(source, place, recursive=recursive)

    monkeypatch.setattr(mounts, "bind", fail)
    with pytest.raises(NsbrokerError, match="No space left"):
        Namespace.create("net", name="broken")
    assert not (FOLDER / "broken").exists()


def test_deleting_what_is_not_there_or_no_namespace_touches_nothing() -> None:
    with pytest.raises(NoSuchTarget):
        Namespace.delete_named("missing")
    FOLDER.mkdir(exist_ok=True)
    plain = FOLDER / "precious"
    plain.write_text("precious")
    with pytest.raises(NotANamespace, match="left alone"):
        Namespace.delete_named("precious")
    assert plain.read_text() == "precious"
    plain.unlink()


def test_a_name_can_be_given_from_any_thread() -> None:
    """A name appears in the mount namespace of the process, whichever thread gives it."""
    done: list[bool] = []

    def name() -> None:
        Namespace.create("net", name="threaded").close()
        done.append(is_mount(FOLDER / "threaded"))

    thread = threading.Thread(target=name)
    thread.start()
    thread.join()
    assert done == [True]
    Namespace.delete_named("threaded")


def test_every_type_is_either_created_or_refused() -> None:
    assert set(creation._ADVICE) == {NamespaceType.USER, NamespaceType.PID}


def test_the_loopback_interface_of_a_new_network_is_set_up() -> None:
    with Namespace.create("net", up=True) as ns, ns.call(socket.create_server, ("127.0.0.1", 0)) as server:
        ns.call(socket.create_connection, server.getsockname(), PATIENCE).close()
    with Namespace.create("net") as ns, ns.call(socket.socket, socket.AF_INET) as sock:
        assert sock.connect_ex(("127.0.0.1", 1)) == errno.ENETUNREACH


def test_only_a_network_has_a_loopback_interface() -> None:
    with pytest.raises(InvalidType, match="only net namespaces have"):
        Namespace.create("uts", up=True)


@pytest.mark.root
def test_setting_it_up_takes_cap_net_admin() -> None:
    def make() -> None:
        with pytest.raises(PermissionDenied, match="CAP_NET_ADMIN to set lo up"):
            Namespace.create("net", up=True)

    as_user(ALICE, make)


class Interrupted(BaseException):
    """What a signal handler raises."""


class Interruption:
    """A trace function that raises Interrupted at line `at` of `create` and of what it calls of threading.Thread.

    Real signals would come at random lines.  If it is `late`, the thread has time to end before.
    """

    def __init__(self, at: int, *, late: bool) -> None:
        self._left = at
        self._late = late
        self.done = False

    def __call__(self, frame: FrameType, event: str, arg: object) -> Any:
        if frame.f_code not in (creation.create.__code__, threading.Thread.start.__code__, threading.Thread.join.__code__):
            return None
        # At the end of a `with` block, a trace function can raise just before a lock is released, where a signal handler cannot.
        is_with = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip().startswith("with ")
        if event == "line" and not is_with and not self.done:
            self._left -= 1
            if self._left < 0:
                self.done = True
                sys.settrace(None)
                if self._late:
                    time.sleep(0.05)
                raise Interrupted
        return self


@pytest.mark.parametrize("late", [False, True])
def test_wherever_creating_one_is_interrupted_no_descriptor_is_left(late: bool) -> None:
    def mine() -> list[tuple[int, str]]:
        return [(fd, target) for fd, target in open_files(os.getpid()) if target.startswith("ipc:")]

    before = mine()
    for at in range(100):
        interruption = Interruption(at, late=late)
        sys.settrace(interruption)
        try:
            os.close(creation.create(NamespaceType.IPC))
        except Interrupted:
            pass
        finally:
            sys.settrace(None)
        eventually(lambda: mine() == before, f"interrupted at step {at}, it leaves no descriptor")
        if not interruption.done:
            break
    assert 10 < at < 99


def test_an_error_that_is_none_of_the_kernel_is_raised_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel cannot be made to cause one, so a function in the place of unshare(2) does."""

    def fail(_: int) -> None:
        raise MemoryError

    monkeypatch.setattr(creation, "unshare", fail)
    with pytest.raises(MemoryError):
        Namespace.create("net")
