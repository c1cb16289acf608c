"""What the kernel knows about a namespace, read through its descriptor."""

import os

import pytest

from nsbroker.linux import nsfs, setns, statx
from nsbroker.linux.descriptors import close_all
from nsbroker.linux.features import features
from tests.world import Sleeper


def close(fd: int) -> bool:
    os.close(fd)
    return True


def test_is_namespace_is_true_for_namespaces_only() -> None:
    for path, expected in (("/proc/self/ns/net", True), ("/dev/null", False), ("/proc/self", False), ("/", False)):
        fd = os.open(path, os.O_RDONLY)
        assert nsfs.is_namespace(fd) is expected
        os.close(fd)


def test_type_owner_and_parent_of_a_namespace(sleeper: Sleeper) -> None:
    fd = os.open(f"/proc/{sleeper.pid}/ns/net", os.O_RDONLY)
    user = nsfs.owning_user_namespace(fd)
    assert nsfs.namespace_type(fd) == setns.CLONE_NEWNET
    assert nsfs.namespace_type(user) == setns.CLONE_NEWUSER
    assert nsfs.owner_uid(user) == 0 or os.environ.get("USER") != "root"
    for function in (nsfs.parent, nsfs.owner_uid):
        with pytest.raises(OSError, match="Invalid argument"):
            function(fd)
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


def test_identify_recognizes_namespaces_by_an_o_path_fd_and_no_other_files() -> None:
    for path in ("/proc/self/ns/net", "/proc/self/ns/uts", "/dev/null", "/"):
        found = os.open(path, os.O_PATH)
        facts = os.stat(path)
        flag = {"net": setns.CLONE_NEWNET, "uts": setns.CLONE_NEWUTS}.get(path[-3:])
        assert statx.statx(found) == (facts.st_dev, facts.st_ino)
        assert nsfs.identify(found) == (flag and (flag, facts.st_ino))
        os.close(found)
