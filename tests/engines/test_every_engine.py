"""What holds for containers of every engine.  The engines are real."""

import itertools
import os
import subprocess
from collections.abc import Callable, Iterator

import pytest

from nsbroker.client.blocking import connect
from nsbroker.errors import AmbiguousTarget, NoSuchDevice, NoSuchTarget, PermissionDenied
from nsbroker.model.identity import NamespaceType
from tests.daemon.discovery.test_scan import lsns
from tests.engines.real import Cri, Engine, end_process, root_file_system
from tests.world import ALICE, BOB, NOBODY, PATIENCE, Daemon, as_user, eventually

pytestmark = pytest.mark.root


def names(engine: Engine) -> tuple[str, str]:
    """Return names for two containers that the engine accepts."""
    return ("default/web1", "default/web2") if isinstance(engine, Cri) else ("web1", "web2")


@pytest.fixture
def web1(engine: Engine) -> Iterator[str]:
    name = names(engine)[0]
    engine.make(name)
    yield name
    engine.remove(name)


def inodes(pid: int) -> dict[NamespaceType, int]:
    return {ns_type: os.stat(f"/proc/{pid}/ns/{ns_type}").st_ino for ns_type in NamespaceType}


def opened(daemon: Daemon, target: str) -> dict[NamespaceType, int]:
    with daemon.connect() as broker:
        namespaces = broker.open_all(target)
        for ns in namespaces.values():
            ns.close()
        return {ns_type: ns.inode for ns_type, ns in namespaces.items()}


def test_a_container_opens_by_name_by_id_and_by_the_beginning_of_its_id(engine: Engine, web1: str, daemon: Daemon) -> None:
    word, identifier = engine.word, engine.id(web1)
    expected = inodes(engine.pid(web1))
    assert expected[NamespaceType.NET] != os.stat("/proc/self/ns/net").st_ino
    for target in (f"{word}:{web1}", f"{word}:{identifier}", f"{word}:{identifier[:-1]}", f"container:{web1}"):
        assert opened(daemon, target) == expected, target
    if isinstance(engine, Cri):
        assert opened(daemon, f"cri:{web1}/c1") == inodes(engine.pid(f"{web1}/c1"))


def test_others_know_of_a_container_only_when_a_rule_names_it(engine: Engine, web1: str, daemon: Daemon) -> None:
    word, identifier, inode = engine.word, engine.id(web1), inodes(engine.pid(web1))[NamespaceType.NET]
    daemon.allow("web", who=[f"user:{ALICE}"], targets=[f"{word}:{web1[:-1]}*"], namespaces=["net"])
    targets = [f"{word}:{web1}", f"container:{web1}", f"{word}:{identifier}", f"{word}:{identifier[:-1]}"]

    def look() -> tuple[list[object], list[tuple[str, ...]]]:
        with daemon.connect() as broker:
            found: list[object] = []
            for target in (*targets, f"{word}:{web1[:-1]}-missing", f"{word}:missing"):
                try:
                    with broker.open(target, "net") as ns:
                        found.append(ns.inode)
                except (NoSuchTarget, PermissionDenied) as error:
                    found.append(type(error).__name__)
            return found, [(one.engine, *one.names, str(one.network_namespace)) for one in broker.containers().containers]

    found, listed = as_user(ALICE, look)
    assert found == [inode] * len(targets) + ["NoSuchTarget", "PermissionDenied"]
    assert [row[-1] for row in listed if row[1] == web1] == [str(inode)]
    assert as_user(BOB, look) == (["PermissionDenied"] * (len(targets) + 2), [])
    with daemon.connect() as broker:
        assert {str(inode)} <= {str(one.network_namespace) for one in broker.containers().containers}


def test_the_user_nobody_fetches_a_page_from_its_loopback_with_one_rule(engine: Engine, web1: str, daemon: Daemon) -> None:
    daemon.allow("web", who=[f"user:{NOBODY}"], targets=["container:web1", "cri:default/web1"], sockets=["inet:stream"])
    pid = engine.pid(web1)
    inside = ["nsenter", "--net", "--target", str(pid)]
    subprocess.run([*inside, "ip", "link", "set", "lo", "up"], check=True)
    serve = [*inside, "/bin/busybox", "httpd", "-f", "-p", "127.0.0.1:8080", "-h", str(root_file_system() / "www")]
    with subprocess.Popen(serve) as server:
        try:
            pages = set()
            for target in (f"{engine.word}:{web1}", f"container:{web1}"):
                eventually(lambda: bool(as_user(NOBODY, fetch(daemon, target))), "the server inside answers")  # noqa: B023 - called at once
                pages.add(as_user(NOBODY, fetch(daemon, target)))
            assert pages == {b"hello from inside\n"}
        finally:
            server.kill()


def fetch(daemon: Daemon, target: str) -> Callable[[], bytes]:
    def ask() -> bytes:
        with connect(daemon.address) as broker:
            try:
                sock = broker.create_connection(target, ("127.0.0.1", 8080), PATIENCE)
            except ConnectionRefusedError:
                return b""
            with sock:
                sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
                return sock.makefile("rb").read().partition(b"\r\n\r\n")[2]

    return ask


def test_its_devices_are_listed_and_opened_and_no_others(engine: Engine, web1: str, daemon: Daemon) -> None:
    daemon.allow("web", who=[f"user:{NOBODY}"], targets=["container:web1", "cri:default/web1"], devices=["null", "zero", "kvm"])
    target = f"{engine.word}:{web1}"

    def look() -> tuple[list[str], bytes, str]:
        with connect(daemon.address) as broker:
            with broker.device(target, "zero") as zero:
                read = zero.read(4)
            with pytest.raises(NoSuchDevice), broker.device(target, "kvm"):
                pass
            with pytest.raises(PermissionDenied) as refused:
                broker.device(target, "full")
            return [device.name for device in broker.devices(target)], read, str(refused.value)

    names, read, refused = as_user(NOBODY, look)
    assert (names, read) == (["null", "zero"], bytes(4))
    assert "the device full" in refused


def test_its_namespaces_are_listed_under_its_name_and_none_that_lsns_has_is_missing(
    engine: Engine, web1: str, daemon: Daemon
) -> None:
    own = {inode for ns_type, inode in inodes(engine.pid(web1)).items() if inode != os.stat(f"/proc/self/ns/{ns_type}").st_ino}
    daemon.allow("web", who=[f"user:{ALICE}"], targets=["container:web1", "cri:default/web1"], namespaces=["*"])

    def list_with_containers() -> dict[int, list[str] | None]:
        with connect(daemon.address) as broker:
            return {one.inode: one.containers for one in broker.list() if one.containers}

    assert len(own) >= 4
    for listed in (list_with_containers(), as_user(ALICE, list_with_containers)):
        assert {inode for inode, names in listed.items() if names and f"{engine.word}:{web1}" in names} >= own

    def misses_none() -> bool:
        with daemon.connect() as broker:
            return {int(str(row["ns"])) for row in lsns()} <= {one.inode for one in broker.list()}

    # A namespace that ends between the two lists is in one of them only.
    eventually(misses_none, "all namespaces of lsns are listed")


def test_a_killed_container_is_neither_opened_nor_listed(engine: Engine, web1: str, daemon: Daemon) -> None:
    pid = engine.pid(web1)
    with daemon.connect() as broker:
        with broker.open(f"{engine.word}:{web1}", "net") as ns:
            assert ns.inode == inodes(pid)[NamespaceType.NET]
        end_process(pid)
        with pytest.raises(NoSuchTarget):
            broker.open(f"{engine.word}:{web1}", "net")
        with pytest.raises(NoSuchTarget, match="no container has that name"):
            broker.open(f"{engine.word}:missing", "net")
        assert web1 not in [name for one in broker.containers().containers for name in one.names]


def test_a_target_that_fits_two_containers_is_refused_and_both_are_listed(engine: Engine, web1: str, daemon: Daemon) -> None:
    web2 = names(engine)[1]
    engine.make(web2)
    made = [web1, web2]
    try:
        # The ids are random, so more containers are made until two ids begin alike.
        while not (alike := begin_alike(engine, made)):
            made.append(f"{web2}-{len(made)}")
            engine.make(made[-1])
        with daemon.connect() as broker, pytest.raises(AmbiguousTarget) as ambiguous:
            broker.open(f"{engine.word}:{alike}", "net")
        assert len(ambiguous.value.candidates) > 1
        fitting = {f"{engine.word}:{name}" for name in made if engine.id(name).startswith(alike)}
        assert fitting <= set(ambiguous.value.candidates)
        with daemon.connect() as broker:
            for candidate in ambiguous.value.candidates:
                broker.open(candidate, "net").close()
    finally:
        for name in made[1:]:
            engine.remove(name)


def begin_alike(engine: Engine, made: list[str]) -> str:
    """Return a digit that the ids of two containers begin with, empty when no two ids begin alike."""
    ids = sorted(engine.id(name) for name in made)
    return next((one[0] for one, other in itertools.pairwise(ids) if one[0] == other[0]), "")
