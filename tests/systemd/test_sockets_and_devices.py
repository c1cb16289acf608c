"""Sockets and devices in the hardened service."""

import functools
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from nsbroker.client.blocking import connect
from nsbroker.errors import InterfaceFailed
from nsbroker.model.identity import NamespaceType
from nsbroker.model.target_file import NETWORK
from nsbroker.namespace import Namespace
from tests.named_place import named_place
from tests.systemd.unit import Unit
from tests.world import LINUX, NOBODY, PATIENCE, Sleeper, as_user, eventually, named_network, run_command

_ETHERTYPE = 0x88B5
"""For experiments: IEEE Std 802."""
KINDS = [
    (socket.AF_INET, socket.SOCK_STREAM, 0),
    (socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
    (socket.AF_INET6, socket.SOCK_DGRAM, 0),
    (socket.AF_UNIX, socket.SOCK_SEQPACKET, 0),
    (socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE),
    (socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)),
]


def test_every_kind_of_socket_is_made_and_bytes_go_through(unit: Unit) -> None:
    with named_network("lab"), connect() as broker, Namespace.from_name("lab") as ns:
        subprocess.run(["ip", "-n", "lab", "link", "set", "lo", "up"], check=True)
        for family, kind, protocol in KINDS:
            broker.socket("name:lab", family, kind, protocol).close()
        with broker.socket("name:lab", bind=("127.0.0.1", 80)) as server:
            server.listen()
            # The socket stays in the unit's control group, whose rules must let its traffic pass.
            with broker.create_connection("name:lab", ("127.0.0.1", 80), PATIENCE) as sock:
                peer, _ = server.accept()
                with peer:
                    peer.sendall(b"through")
                assert sock.recv(100) == b"through"
        # The broker closes its own copy of a socket on a thread, so the port is free a moment after the client has closed its.
        eventually(lambda: not _is_listened_on(ns, 80), "nothing listens any more")


def _is_listened_on(ns: Namespace, port: int) -> bool:
    with ns.call(socket.socket, socket.AF_INET) as ours:
        return ours.connect_ex(("127.0.0.1", port)) == 0


def test_a_socket_is_marked_in_the_hardened_service(unit: Unit) -> None:
    with named_network("lab"), connect() as broker, broker.socket("name:lab", mark=0x100) as sock:
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_MARK) == 0x100


def test_devices_of_a_process_with_a_root_of_its_own_are_opened(unit: Unit) -> None:
    with Sleeper(unshare="--mount") as process, connect() as broker:
        target = f"pid:{process.pid}"
        assert {"null", "zero", "urandom"} <= {device.name for device in broker.devices(target)}
        with broker.device(target, "urandom") as random, broker.device(target, "null", os.O_RDWR) as null:
            assert null.write(random.read(8)) == 8


def test_interfaces_are_added_and_frames_go_through(unit: Unit) -> None:
    """Everything that adding interfaces needs: the capability, the device, and netlink sockets in networks of others."""
    with named_network("lab"), named_network("web"), connect() as broker:
        with Sleeper(unshare="--user --map-root-user --net") as container:
            broker.add_veth("name:lab", "eth0", "name:web", "eth0")
            broker.add_veth("name:lab", "eth1", f"pid:{container.pid}", "eth0")
            with Namespace.from_pid(container.pid, "net") as ns:
                assert "eth0" in [name for _, name in ns.call(socket.if_nameindex)]
        with (
            broker.add_tap("name:web", "tap0") as tap,
            broker.socket("name:web", socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETHERTYPE)) as packets,
        ):
            packets.bind(("tap0", _ETHERTYPE))
            packets.settimeout(PATIENCE)
            frame = b"\xff" * 6 + bytes(6) + _ETHERTYPE.to_bytes(2, "big") + b"through the hardened unit"
            tap.write(frame)
            assert packets.recv(100) == frame


def test_a_new_network_has_its_loopback_up(unit: Unit) -> None:
    with (
        connect() as broker,
        broker.create(["net"], up=True).namespaces[NamespaceType.NET] as ns,
        ns.call(socket.create_server, ("127.0.0.1", 0)) as server,
    ):
        ns.call(socket.create_connection, server.getsockname(), PATIENCE).close()


def test_without_the_device_a_tap_is_an_error_that_names_what_to_change(unit: Unit) -> None:
    unit.set(BindPaths="", DeviceAllow="")
    with named_network("lab"), connect() as broker:
        with pytest.raises(InterfaceFailed, match="BindPaths= of its unit"):
            broker.add_tap("name:lab", "tap0")
        broker.add_veth("name:lab", "eth0", "name:lab", "eth1")


def test_a_device_that_the_unit_may_not_open_says_what_to_change(unit: Unit) -> None:
    from nsbroker.errors import NoSuchDevice

    with Sleeper(unshare="--mount --propagation private") as process, connect() as broker:
        mount = ["mount", "-t", "tmpfs", "-o", "mode=755", "dev", "/dev"]
        subprocess.run(["nsenter", "--mount", "--target", str(process.pid), *mount], check=True)
        try:
            os.mknod(f"/proc/{process.pid}/root/dev/fuse", 0o20666, os.makedev(10, 229))
        except PermissionError:
            pytest.fail("a device node cannot be made here")
        with pytest.raises(NoSuchDevice, match="DeviceAllow="):
            broker.device(f"pid:{process.pid}", "fuse", os.O_RDWR)


def test_every_file_is_opened_in_the_hardened_service_also_for_another_user(unit: Unit) -> None:
    with named_network("lab"), Sleeper(unshare="--net --mount --propagation private", uid=NOBODY) as process:
        pid = str(process.pid)
        subprocess.run(["nsenter", "--mount", "--target", pid, "mount", "-t", "tmpfs", "-o", "mode=755", "etc", "/etc"], check=True)
        Path(f"/proc/{pid}/root/etc/hosts").write_text("127.0.0.1 localhost\n")

        def read(target: str, name: str) -> bytes:
            with connect() as broker, broker.file(target, name) as file:
                return file.read()

        for name in NETWORK:
            if Path("/proc", name).exists():
                read("name:lab", name)
                as_user(NOBODY, functools.partial(read, f"pid:{pid}", name))
        assert [line.split()[0] for line in read("name:lab", "net/dev").splitlines()[2:]] == [b"lo:"]
        assert as_user(NOBODY, lambda: read(f"pid:{pid}", "hosts")) == b"127.0.0.1 localhost\n"
        assert read(f"pid:{pid}", "hosts") == b"127.0.0.1 localhost\n"


def test_via_connects_by_a_name_that_is_known_inside_only(unit: Unit) -> None:
    if LINUX < (5, 14):
        pytest.skip("this kernel is older than 5.14: no program was run via the broker")
    unit.configure(f"""
[[allow]]
name = "nobody"
who = ["user:{NOBODY}"]
targets = ["pid:*"]
sockets = ["inet:stream", "inet:dgram", "inet6:stream", "inet6:dgram", "netlink:raw"]
files = ["resolv.conf", "hosts"]
""")
    unit.run("systemctl", "try-restart", "nsbroker.service")
    code = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2]))).sendall(b'through')"
    with named_place() as place:
        for uid, name in ((0, "web.test"), (NOBODY, "web.test"), (NOBODY, "10.9.8.7")):
            done = run_command("via", place.target, "--", sys.executable, "-c", code, name, str(place.port), uid=uid)
            if "user namespaces are not allowed here" in done.stderr and name == "web.test":
                continue
            assert done.returncode == 0, done
            accepted, _ = place.listener.accept()
            with accepted:
                assert accepted.recv(100) == b"through"
