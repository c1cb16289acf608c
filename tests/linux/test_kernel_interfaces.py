"""The thin files of linux/: each call does on this kernel what its docstring says."""

import os
import socket
from pathlib import Path

import pytest

from nsbroker.linux import nsfs, procfs, setns, socket_options, statx
from nsbroker.linux.ancillary import close_all
from nsbroker.linux.features import features
from nsbroker.linux.openat2 import RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, openat2
from tests.world import ALICE, Sleeper, as_user


def close(fd: int) -> bool:
    os.close(fd)
    return True


@pytest.mark.root
@pytest.mark.parametrize("count", [0, 3, 256, 257, 60000])
def test_peer_credentials_and_groups_are_the_connecting_processes(count: int) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        path = f"/run/peer-{os.getpid()}"
        listener.bind(path)
        os.chmod(path, 0o666)
        listener.listen()

        def connect() -> int:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(path)
            return os.getpid()

        groups = list(range(5000, 5000 + count))
        pid = as_user(ALICE, connect, groups=groups)
        peer, _ = listener.accept()
        with peer:
            assert socket_options.peer_credentials(peer) == (pid, ALICE, ALICE)
            assert list(socket_options.peer_groups(peer)) == groups
        os.unlink(path)


def test_peer_pidfd_is_of_the_process_that_connected() -> None:
    left, right = socket.socketpair()
    with left, right:
        if not features().peer_pidfd:
            with pytest.raises(OSError, match="Protocol not available"):
                socket_options.peer_pidfd(left)
            return
        fd = socket_options.peer_pidfd(left)
        assert procfs.pidfd_number(fd) == os.getpid()
        assert not os.get_inheritable(fd)
        os.close(fd)


def test_unread_bytes_fall_to_zero_when_all_was_read() -> None:
    left, right = socket.socketpair()
    with left, right:
        assert socket_options.unread_bytes(left) == 0
        left.send(b"hello")
        assert socket_options.unread_bytes(left) > 0
        right.recv(10)
        assert socket_options.unread_bytes(left) == 0


def test_only_namespaces_count_as_namespaces() -> None:
    for path, answer in (("/proc/self/ns/net", True), ("/dev/null", False), ("/proc/self", False), ("/", False)):
        fd = os.open(path, os.O_RDONLY)
        assert nsfs.is_namespace(fd) is answer
        os.close(fd)


def test_a_namespace_knows_type_owner_and_parent(sleeper: Sleeper) -> None:
    fd = os.open(f"/proc/{sleeper.pid}/ns/net", os.O_RDONLY)
    user = nsfs.owning_user_namespace(fd)
    assert nsfs.namespace_type(fd) == setns.CLONE_NEWNET
    assert nsfs.namespace_type(user) == setns.CLONE_NEWUSER
    assert nsfs.owner_uid(user) == 0 or os.environ.get("USER") != "root"
    for ask in (nsfs.parent, nsfs.owner_uid):
        with pytest.raises(OSError, match="Invalid argument"):
            ask(fd)
    assert close(fd)
    assert close(user)


def test_unique_ids_differ_between_namespaces(sleeper: Sleeper) -> None:
    fds = [os.open(f"/proc/{pid}/ns/net", os.O_RDONLY) for pid in ("self", sleeper.pid)]
    if features().namespace_id:
        assert len(set(map(nsfs.unique_id, fds))) == 2
    else:
        with pytest.raises(OSError, match="Inappropriate ioctl"):
            nsfs.unique_id(fds[0])
    close_all(fds)


def test_a_namespace_is_known_by_a_path_alone_and_nothing_else_is_taken_for_one() -> None:
    for path in ("/proc/self/ns/net", "/proc/self/ns/uts", "/dev/null", "/"):
        found = os.open(path, os.O_PATH)
        facts = os.stat(path)
        flag = {"net": setns.CLONE_NEWNET, "uts": setns.CLONE_NEWUTS}.get(path[-3:])
        assert statx.statx(found) == (facts.st_dev, facts.st_ino)
        assert nsfs.identify(found) == (flag and (flag, facts.st_ino))
        os.close(found)


def test_openat2_refuses_links_when_told_to(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc")
    with pytest.raises(OSError, match="symbolic links"):
        openat2(str(tmp_path / "link" / "passwd"), os.O_RDONLY, resolve=RESOLVE_NO_SYMLINKS)
    with pytest.raises(OSError, match="symbolic links"):
        openat2("/proc/self/ns/net", os.O_RDONLY, resolve=RESOLVE_NO_MAGICLINKS)


def test_setns_wants_the_right_type() -> None:
    fd = os.open("/proc/self/ns/net", os.O_RDONLY)
    with pytest.raises(OSError, match="Invalid argument"):
        setns.setns(fd, setns.CLONE_NEWUTS)
    assert close(fd)


def test_probing_leaves_nothing_open() -> None:
    features.cache_clear()
    before = os.listdir("/proc/self/fd")
    assert features() == features()
    assert os.listdir("/proc/self/fd") == before
