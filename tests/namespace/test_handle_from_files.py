"""Handles of files, the path of a handle, its text, and types that are known beforehand."""

import os
import socket
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest

from nsbroker.errors import InvalidType, NoSuchTarget, NotANamespace, PermissionDenied
from nsbroker.linux import nsfs
from nsbroker.namespace import Namespace, check_namespace_path
from tests.world import ALICE, as_user


def test_the_text_has_the_descriptor_the_device_and_the_inode() -> None:
    with Namespace.current("net") as ns:
        facts = os.stat("/proc/self/ns/net")
        assert repr(ns) == f"<Namespace net:[{facts.st_ino}] device={facts.st_dev} fd={ns.fileno()}>"


def test_the_path_is_where_the_handle_came_from() -> None:
    path = f"/proc/{os.getpid()}/ns/net"
    for given in (path, Path(path)):
        with Namespace.from_path(given) as ns:
            assert ns.path == path
        assert ns.path == path


@pytest.mark.root
def test_the_path_of_a_name_is_its_file(blue: Path) -> None:
    with Namespace.from_name("blue") as ns:
        assert ns.path == str(blue)
        with Namespace.from_path(ns.path) as same:
            assert same == ns


def test_the_path_of_any_other_handle_is_its_descriptor() -> None:
    with Namespace.current("net") as ns:
        assert ns.path == f"/proc/self/fd/{ns.fileno()}"
        with Namespace.from_path(ns.path) as same:
            assert same == ns
        command = [sys.executable, "-c", "import os, sys; print(os.stat(sys.argv[1]).st_ino)", ns.path]
        done = subprocess.run(command, pass_fds=[ns.fileno()], capture_output=True, text=True, check=True)
        assert int(done.stdout) == ns.inode
    with pytest.raises(ValueError, match="closed"):
        _ = ns.path


def test_a_handle_keeps_its_file_alive_and_leaves_it_open() -> None:
    file = open("/proc/self/ns/net")  # noqa: SIM115 - the handle keeps it
    alive = weakref.ref(file)
    ns = Namespace.from_file(file)
    del file
    again = alive()
    assert again is not None
    assert ns.fileno() == again.fileno()
    ns.close()
    assert ns.closed
    assert not again.closed
    again.close()
    del again
    assert alive() is None


def test_a_handle_whose_file_was_closed_is_not_another_file() -> None:
    with open("/proc/self/ns/net") as file:
        ns = Namespace.from_file(file)
    with open(os.devnull), pytest.raises(ValueError, match="closed"):
        ns.fileno()
    ns.close()
    with pytest.raises(ValueError, match="closed"):
        Namespace.from_file(file)


def test_a_file_that_is_no_namespace_is_refused_and_stays_open() -> None:
    with open(os.devnull) as file:
        with pytest.raises(NotANamespace, match="character device"):
            Namespace.from_file(file)
        file.read()
    with socket.socket() as sock, pytest.raises(NotANamespace, match="socket"):
        Namespace.from_file(sock)
    with pytest.raises(ValueError, match="not open"):
        Namespace.from_file(sock)
    with open("/proc/self/ns/net") as file, pytest.raises(NotANamespace, match="a net namespace, not uts"):
        Namespace.from_file(file, type="uts")


@pytest.mark.root
def test_a_known_type_of_a_path_a_name_or_a_file_costs_no_ioctl(blue: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_ioctl(fd: int) -> int:
        raise AssertionError("the kernel was asked")

    monkeypatch.setattr(nsfs, "namespace_type", no_ioctl)
    with open(blue) as file:
        for ns in (
            Namespace.from_path(blue, "net", verify=False),
            Namespace.from_name("blue", "net", verify=False),
            Namespace.from_file(file, type="net", verify=False),
        ):
            assert ns.type == "net"
            ns.close()
        asks: list[Callable[[], Namespace]] = [
            lambda: Namespace.from_path(blue, "net"),
            lambda: Namespace.from_name("blue", "net"),
            lambda: Namespace.from_path(blue, verify=False),
            lambda: Namespace.from_file(file, type="net"),
        ]
        for ask in asks:
            with pytest.raises(AssertionError, match="asked"):
                ask()
    with pytest.raises(InvalidType):
        Namespace.from_path(blue, "network", verify=False)


def test_a_path_that_is_missing_is_told_from_one_that_is_no_namespace(tmp_path: Path) -> None:
    check_namespace_path("/proc/self/ns/net")
    check_namespace_path(Path("/proc/self/ns/uts"))
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "dangling").symlink_to("/nowhere")
    for missing in ("/nowhere", tmp_path / "fifo" / "file", tmp_path / "dangling"):
        with pytest.raises(NoSuchTarget, match="no such file"):
            check_namespace_path(missing)
    for path, kind in (("/proc/self/stat", "plain file"), (tmp_path / "fifo", "FIFO"), ("/dev/null", "character device")):
        with pytest.raises(NotANamespace, match=kind):
            check_namespace_path(path)


@pytest.mark.root
def test_checking_a_path_takes_no_right_over_the_file(tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o700)

    def look() -> None:
        with pytest.raises(PermissionDenied):
            check_namespace_path(folder / "file")

    as_user(ALICE, look)
