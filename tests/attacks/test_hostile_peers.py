"""Attacks by the way in which a peer connects, sends and leaves: other users must not notice them."""

import errno
import os
import signal
import socket
import struct
import subprocess
import time
from pathlib import Path

import msgspec
import pytest

from nsbroker.client.blocking import connect
from nsbroker.errors import PermissionDenied, ProtocolError, RecordFailed
from nsbroker.linux import ancillary
from nsbroker.varlink.message import decode_call
from tests.control_groups import remove_empty
from tests.world import ALICE, PATIENCE, SLOWNESS, Daemon, as_user, eventually

ASK = b'{"method":"io.nsbroker.Broker.WhoAmI"}\0'
OPEN = b'{"method":"io.nsbroker.Broker.Open","parameters":{"target":{"pidFileDescriptor":0}}}\0'
QUICK = 2.0 * SLOWNESS
"""Seconds.  Each of these attacks held the daemon up for longer before there was a defence against it."""


def test_a_string_that_never_ends_takes_no_time_to_refuse() -> None:
    data = b'{"method":"a","parameters":' + b"[" * 17 + b'"' + b'\\"' * 32000
    start = time.thread_time()
    with pytest.raises(ProtocolError):
        decode_call(data)
    assert time.thread_time() - start < QUICK


def test_an_out_of_band_byte_ends_the_connection_and_costs_nothing(tmp_path: Path) -> None:
    with Daemon(tmp_path, limits="message-deadline = 0.5") as daemon, daemon.raw() as sock, daemon.connect() as other:
        try:
            sock.send(b"x", socket.MSG_OOB)
        except OSError as error:
            # Before Linux 5.15, and in kernels without CONFIG_AF_UNIX_OOB, there is no such byte.
            if error.errno != errno.EOPNOTSUPP:
                raise
            return
        eventually(lambda: hung_up(sock), "the daemon hangs up")
        other.who_am_i()


@pytest.mark.parametrize("after", [ASK, OPEN, b""])
def test_a_descriptor_that_comes_with_an_out_of_band_byte_is_closed_on_a_thread(daemon: Daemon, after: bytes) -> None:
    """The kernel drops such a byte when what comes after it is received, and closes the descriptor wherever that happens."""
    slow = lingering()
    refused = b'{"method":"io.nsbroker.Broker.Open","parameters":{"target":{"pid":1},"types":["net"]}}\0'
    with daemon.connect() as other, daemon.raw() as sock:
        # While a refusal waits for its time, the broker does not read, so the rest arrives together.
        sock.send(refused)
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", slow.fileno()))
        try:
            sock.sendmsg([b"x"], [rights], socket.MSG_OOB)
        except OSError as error:
            # As above.
            if error.errno != errno.EOPNOTSUPP:
                raise
            return
        finally:
            slow.close()
        sock.send(after)
        start = time.monotonic()
        while time.monotonic() < start + 0.2:
            other.who_am_i()
        assert time.monotonic() - start < QUICK
    while _PEERS:
        _PEERS.pop().close()


def hung_up(sock: socket.socket) -> bool:
    try:
        sock.send(ASK[:1])
    except BrokenPipeError:
        return True
    return False


def lingering() -> socket.socket:
    """Return a TCP socket that takes eight seconds to close: its peer does not read, and SO_LINGER makes the close wait."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock = socket.create_connection(listener.getsockname())
        taken, _ = listener.accept()
    sock.setblocking(False)
    try:
        while True:
            sock.send(bytes(65536))
    except BlockingIOError:
        pass
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 8))
    _PEERS.append(taken)
    return sock


_PEERS: list[socket.socket] = []


@pytest.mark.parametrize("message", [ASK, OPEN, b"garbage\0", ASK[:10]])
def test_a_descriptor_that_takes_long_to_close_stalls_nobody(daemon: Daemon, message: bytes) -> None:
    slow = lingering()
    with daemon.connect() as other:
        sock = daemon.raw()
        ancillary.send(sock, message, [slow.fileno()])
        if message == b"garbage\0":
            # The connection ends with the message before, so this one is never received.
            ancillary.send(sock, ASK, [slow.fileno()])
        # Our close does not wait, because the socket is non-blocking.  The last close is the daemon's.
        slow.close()
        time.sleep(0.05)
        sock.close()
        start = time.monotonic()
        for _ in range(20):
            other.who_am_i()
        assert time.monotonic() - start < QUICK
    while _PEERS:
        _PEERS.pop().close()


@pytest.mark.root
def test_a_control_group_cannot_be_named_into_a_unit(daemon: Daemon) -> None:
    """A user to whom a control group is delegated can give the folders below it any name."""
    hierarchy = Path("/sys/fs/cgroup/systemd")
    name = "name=systemd"
    if not hierarchy.is_dir():
        mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
        hierarchy = Path(next(fields[1] for fields in mounts if fields[2] == "cgroup2"))
        name = ""
    top = hierarchy / f"nsbroker-test-{os.getpid()}.slice"
    group = top / "user@4001.service" / f"a\x1c1:{name}:" / "system.slice" / "nginx.service"
    group.mkdir(parents=True)
    daemon.allow("nginx", who=["unit:nginx.service"], targets=["*"], namespaces=["net"])

    def ask() -> tuple[str | None, bool]:
        with connect(daemon.address) as broker:
            unit = broker.who_am_i().unit
            try:
                broker.open(f"pid:{daemon.pid}", "net").close()
            except PermissionDenied:
                return unit, False
            return unit, True

    def move_and_ask() -> tuple[str | None, bool]:
        return as_user(ALICE, ask)

    try:
        before = Path("/proc/self/cgroup").read_bytes()
        child = os.fork()
        if child == 0:
            try:
                (group / "cgroup.procs").write_text("0")
                os._exit(0 if move_and_ask() == ("user@4001.service", False) else 1)
            except BaseException:
                os._exit(2)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert Path("/proc/self/cgroup").read_bytes() == before
    finally:
        for folder in [group, *group.parents]:
            remove_empty(folder)
            if folder == top:
                break


@pytest.mark.root
def test_a_dead_uid_0_of_another_user_namespace_does_not_become_root_by_its_pid(tmp_path: Path) -> None:
    """A process of root gets its pid while the connection waits."""
    with Daemon(tmp_path, by_number=False) as daemon:
        # Other programs on this machine take pids, too, so try repeatedly.
        assert any(_reuse_pid(daemon) for _ in range(50)), "no pid was used again: the test shows nothing"


def _reuse_pid(daemon: Daemon) -> bool:
    """Try to have the pid of a peer used again, and check that the peer is anonymous.  Returns whether the pid was used again."""
    sock = socket.socket(socket.AF_UNIX)
    os.kill(daemon.pid, signal.SIGSTOP)
    child = os.fork()
    if child == 0:
        import ctypes

        ctypes.CDLL(None).unshare(0x10000000)
        sock.connect(str(daemon.socket))
        os._exit(0)
    os.waitpid(child, 0)
    Path("/proc/sys/kernel/ns_last_pid").write_text(str(child - 1))
    reused = os.fork()
    if reused == 0:
        signal.pause()
    os.kill(daemon.pid, signal.SIGCONT)
    with sock:
        sock.settimeout(PATIENCE)
        sock.send(ASK)
        data, _ = ancillary.receive_piece(sock, bytearray(70000), b"\0")
    os.kill(reused, signal.SIGKILL)
    os.waitpid(reused, 0)
    assert msgspec.json.decode(data[:-1])["parameters"]["peer"]["anonymous"] is True
    return reused == child


@pytest.mark.root
def test_a_daemon_that_may_not_look_at_root_survives_its_call(tmp_path: Path) -> None:
    blind = ["setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace"]
    with Daemon(tmp_path, prefix=blind) as daemon, daemon.connect() as broker:
        broker.who_am_i()


def test_standard_error_without_a_reader_ends_no_daemon(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path)
    with subprocess.Popen(daemon.command, stderr=subprocess.PIPE) as process:
        assert process.stderr
        process.stderr.readline()
        process.stderr.close()
        process.send_signal(signal.SIGHUP)
        time.sleep(0.2)
        with connect(daemon.address) as broker, pytest.raises(RecordFailed):
            broker.open("self", "net")
        process.terminate()
        assert process.wait(PATIENCE) == 0


def test_a_target_of_any_length_leaves_a_record(daemon: Daemon) -> None:
    for path in ("/" + "x" * 4000, "/" + "\\" * 2000):
        with daemon.raw() as sock:
            sock.send(msgspec.json.encode({"method": "io.nsbroker.Broker.Open", "parameters": {"target": {"path": path}}}) + b"\0")
            ancillary.receive_piece(sock, bytearray(70000), b"\0")
    records = daemon.records()
    assert [record["verdict"] for record in records] == ["failed", "failed"]
    assert all(record["target"].startswith("path:/") for record in records)


def test_no_configuration_ends_a_running_daemon(daemon: Daemon) -> None:
    folder = daemon.config / "nsbroker.d"
    before = daemon.snapshot()
    nul = '[[allow]]\nname = "a"\nwho = ["user:a\\u0000b"]\ntargets = ["own"]\nnamespaces = ["net"]'
    for name, text in (("nul", nul), ("deep", "a = " + "[" * 5000)):
        (folder / f"{name}.toml").write_text(text)
        daemon.reload()
        (folder / f"{name}.toml").unlink()
    (folder / "folder.toml").mkdir()
    for _ in range(3):
        daemon.reload()
        assert "old policy stays in force" in daemon.words()[-1]
    daemon.settles_at(before)
