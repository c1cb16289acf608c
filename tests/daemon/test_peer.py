"""Peers as the kernel describes them: real processes connect, as other users, from other namespaces and control groups."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsbroker.daemon import peer as peer_module
from nsbroker.daemon.limits.users import ANONYMOUS
from nsbroker.daemon.peer import Peer, unit_of
from nsbroker.errors import NoSuchTarget
from nsbroker.linux import process as process_module
from nsbroker.linux.features import Features, features
from tests.control_groups import remove_empty
from tests.world import ALICE

CLIENT = """
import os, socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
print(os.getpid(), flush=True)
sys.stdin.read()
"""


@pytest.fixture(params=["this kernel", "Linux 5.10"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Features:
    """The kernel's features: once those of this kernel, and once none of them, as on an old kernel."""
    if request.param == "this kernel":
        return features()
    monkeypatch.setattr(process_module, "features", Features)
    monkeypatch.setattr(peer_module, "features", Features)
    return Features()


class Client:
    """A process that has connected and waits."""

    def __init__(self, listener: socket.socket, *prefix: str) -> None:
        self._process = subprocess.Popen(
            [*prefix, sys.executable, "-c", CLIENT, listener.getsockname()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.sock, _ = listener.accept()
        assert self._process.stdout
        self.pid_inside = int(self._process.stdout.readline())

    def end(self) -> None:
        self._process.communicate()

    def close(self) -> None:
        self.end()
        self.sock.close()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    path = f"/run/peer-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        os.chmod(path, 0o666)
        sock.listen()
        yield sock
    os.unlink(path)


@pytest.mark.root
def test_root_counts_as_root_only_if_the_kernel_proves_it(listener: socket.socket, kernel: Features) -> None:
    unproved = not kernel.peer_pidfd
    for prefix, uid, anonymous in (((), 0, unproved), (("setpriv", f"--reuid={ALICE}", "--clear-groups"), ALICE, False)):
        client = Client(listener, *prefix)
        peer = Peer(client.sock)
        assert (peer.uid, peer.anonymous, peer.pid) == (uid, anonymous, client.pid_inside)
        assert peer.user == (ANONYMOUS if anonymous else uid)
        peer.close()
        client.close()


@pytest.mark.root
def test_uid_0_without_the_right_to_administer_the_host_is_anonymous(listener: socket.socket) -> None:
    """Root in a container without a user namespace is like this: it has the same uid, but fewer capabilities."""
    client = Client(listener, "setpriv", "--bounding-set=-sys_admin")
    peer = Peer(client.sock)
    assert (peer.uid, peer.anonymous, peer.user) == (0, True, ANONYMOUS)
    peer.close()
    client.close()


@pytest.mark.root
def test_uid_0_of_another_user_namespace_is_not_root(listener: socket.socket, kernel: Features) -> None:
    client = Client(listener, "unshare", "--user", "--map-root-user")
    peer = Peer(client.sock)
    assert peer.uid == 0, "the kernel itself takes it for root"
    assert peer.anonymous
    peer.close()
    client.close()


@pytest.mark.root
def test_uid_0_of_a_process_that_has_ended_proves_nothing(listener: socket.socket, kernel: Features) -> None:
    client = Client(listener)
    client.end()
    peer = Peer(client.sock)
    assert peer.anonymous
    peer.close()
    client.close()


@pytest.mark.root
def test_numbers_of_another_pid_namespace_are_translated_or_refused(listener: socket.socket, kernel: Features) -> None:
    client = Client(listener, "unshare", "--pid", "--fork", "--kill-child")
    assert client.pid_inside == 1
    peer = Peer(client.sock)
    if kernel.pid_translation:
        ours = peer.translate(1, "pid:1")
        assert ours == peer.pid
        peer.check_translated(1, ours, "pid:1")
        with pytest.raises(NoSuchTarget, match="caller's PID namespace"):
            peer.translate(2, "pid:2")
        with pytest.raises(NoSuchTarget):
            peer.check_translated(1, os.getpid(), "pid:1")
    else:
        with pytest.raises(NoSuchTarget, match="send a pidfd"):
            peer.translate(1, "pid:1")
    peer.close()
    client.close()


def test_numbers_of_our_own_pid_namespace_stay_as_they_are(listener: socket.socket, kernel: Features) -> None:
    client = Client(listener)
    peer = Peer(client.sock)
    assert peer.translate(4711, "pid:4711") == 4711
    peer.close()
    client.close()


def test_without_a_pinned_process_there_is_no_unit_and_no_self(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_module, "features", Features)
    client = Client(listener)
    peer = Peer(client.sock)
    assert peer.process() is None
    assert peer.unit() is None
    peer.close()
    client.close()


@pytest.mark.root
def test_the_unit_is_read_from_the_pinned_process_and_is_none_after_it_ends(listener: socket.socket) -> None:
    # The control group looks as if systemd had made it.  The tests of the units use a real systemd.
    hierarchy = next(line.split()[1] for line in Path("/proc/mounts").read_text().splitlines() if line.split()[2] == "cgroup2")
    group = Path(hierarchy) / f"nsbroker-test-{os.getpid()}.slice" / "web.service"
    named = Path("/sys/fs/cgroup/systemd")
    if named.is_dir():
        group = named / f"nsbroker-test-{os.getpid()}.slice" / "web.service"
    group.mkdir(parents=True)
    try:
        client = Client(listener)
        peer = Peer(client.sock)
        assert peer.unit() != "web.service"
        (group / "cgroup.procs").write_text(str(peer.pid))
        assert peer.unit() == ("web.service" if features().peer_pidfd else None)
        client.end()
        assert peer.unit() is None
        peer.close()
        client.close()
    finally:
        remove_empty(group)
        remove_empty(group.parent)


@pytest.mark.parametrize(
    ("path", "unit"),
    [
        ("/system.slice/web.service", "web.service"),
        ("/system.slice/web.service/deeper/other.service", "web.service"),
        ("/a.slice/a-b.slice/web@1.service", "web@1.service"),
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/prometheus.service", "user@1000.service"),
        ("/user.slice/user-1000.slice/session-1.scope", "session-1.scope"),
        ("/system.slice/_cpu.service", "cpu.service"),
        ("/", None),
        ("/docker/1234", None),
        ("/../system.slice/web.service", None),
        ("/system.slice/../web.service", None),
    ],
)
def test_the_unit_in_a_control_group_is_what_systemd_named_not_what_a_unit_named_itself(path: str, unit: str | None) -> None:
    assert unit_of({"": path}) == unit
    assert unit_of({"name=systemd": path, "": "/"}) == unit


@pytest.mark.root
def test_of_the_groups_of_a_peer_only_those_that_are_asked_for_are_kept(listener: socket.socket) -> None:
    client = Client(listener, "setpriv", f"--reuid={ALICE}", f"--regid={ALICE}", "--groups=77,78,4079")
    peer = Peer(client.sock)
    assert sorted(peer.groups()) == sorted((ALICE, 77, 78, 4079))
    first, second = frozenset((78, 79, ALICE)), frozenset((77, 80))
    assert peer.groups_among(first) == {78, ALICE}
    assert peer.groups_among(second) == {77}
    assert peer.groups_among(first) == {78, ALICE}
    peer.close()
    client.close()
    # What is kept does not need the connection any more.
    assert peer.groups_among(first) == {78, ALICE}
