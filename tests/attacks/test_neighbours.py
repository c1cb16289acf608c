"""Attacks by an unprivileged user on other users of the same host: the others must not notice them.

One user really runs each attack, while another user's calls go on.  `make attack-table` measures how fast these calls are.
Here each only has to be answered within LONGEST seconds, which was not so before there was a defence against the attack.
"""

import contextlib
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nsbroker.client.blocking import connect
from nsbroker.daemon import configuration
from nsbroker.daemon.policy.rules import Policy
from nsbroker.errors import ConnectionLost, NsbrokerError, PermissionDenied, QuotaExceeded
from nsbroker.linux import ancillary
from nsbroker.linux.features import features
from nsbroker.namespace import Namespace
from tests.world import ALICE, BOB, SLOWNESS, Daemon, Sleeper, as_user, check_below, named_network, slow_to_close

LONGEST = 1.0 * SLOWNESS
WHO = b'{"method":"io.nsbroker.Broker.WhoAmI"}\0'

OPEN_SELF = b'{"method":"io.nsbroker.Broker.Open","parameters":{"target":{"self":true},"types":["net"]}}\0'

CONNECT_AND_CLOSE = """
import socket, sys
print("ready", flush=True)
while True:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.setblocking(False)
        try:
            sock.connect(sys.argv[1])
        except BlockingIOError:
            pass
"""
PIPELINES = """
import selectors, socket, sys
socks = []
poll = selectors.DefaultSelector()
for _ in range(250):
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(sys.argv[1])
    sock.setblocking(False)
    poll.register(sock, selectors.EVENT_READ | selectors.EVENT_WRITE, sock)
print("ready", flush=True)
call = b'{"method":"io.nsbroker.Broker.WhoAmI"}\\0' * 64
while True:
    for key, events in poll.select():
        try:
            if events & selectors.EVENT_READ:
                key.data.recv(1 << 20)
            if events & selectors.EVENT_WRITE:
                key.data.send(call)
        except BlockingIOError:
            pass
"""


@contextlib.contextmanager
def attacking(code: str, daemon: Daemon, uid: int = ALICE) -> Iterator[None]:
    """Run a program that attacks, and that prints a line when it begins to."""
    drop = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
    command = [*drop, sys.executable, "-c", code, str(daemon.socket)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as attacker:
        try:
            assert attacker.stdout
            assert attacker.stdout.readline() == "ready\n"
            yield
        finally:
            attacker.kill()


def innocent(daemon: Daemon, pid: int, calls: int = 100) -> float:
    """Bob opens the network of his process, on one connection and on new ones.  Returns the seconds of the slowest call."""

    def ask() -> float:
        longest = 0.0
        with daemon.connect() as steady:
            for number in range(calls):
                start = time.monotonic()
                if number % 10:
                    steady.open(f"pid:{pid}", "net").close()
                else:
                    with daemon.connect() as new:
                        new.open(f"pid:{pid}", "net").close()
                longest = max(longest, time.monotonic() - start)
        return longest

    return as_user(BOB, ask)


def check_innocent(daemon: Daemon, pid: int) -> None:
    """Check that none of Bob's calls takes long."""
    check_below(LONGEST, lambda: innocent(daemon, pid), "seconds of bob's slowest call")


@pytest.mark.root
def test_connecting_and_closing_in_a_loop_keeps_nobody_waiting(daemon: Daemon) -> None:
    with Sleeper(uid=BOB) as his, attacking(CONNECT_AND_CLOSE, daemon), attacking(CONNECT_AND_CLOSE, daemon):
        time.sleep(0.3)
        check_innocent(daemon, his.pid)


@pytest.mark.root
def test_a_user_with_250_busy_connections_is_served_in_turn_with_others(daemon: Daemon) -> None:
    with Sleeper(uid=BOB) as his, attacking(PIPELINES, daemon):
        time.sleep(0.3)
        check_innocent(daemon, his.pid)

        def measure() -> float:
            start = time.monotonic()
            innocent(daemon, his.pid)
            return time.monotonic() - start

        check_below(3 * LONGEST, measure, "seconds of a hundred calls: without fair queues, each took a tenth of a second")


@pytest.mark.root
def test_subordinate_uids_count_for_their_user_and_a_full_table_makes_room(tmp_path: Path) -> None:
    """The idlest connection of the user with the most connections ends; a user with as many as others displaces none."""
    limits = "connections = 20\nconnections-reserved-for-root = 2\nconnections-per-user = 18"
    with Daemon(tmp_path, limits=limits) as daemon, Sleeper(uid=BOB) as his:
        (told, tell), (asked, ask) = os.pipe(), os.pipe()

        def crowd() -> str:
            socks = []
            for _ in range(18):
                sock = daemon.raw()
                sock.send(WHO)
                sock.recv(65536)
                socks.append(sock)
            os.write(tell, b"!")
            os.read(asked, 1)
            ended = [number for number, sock in enumerate(socks) if has_ended(sock)]
            return f"{ended}"

        found: list[str] = []
        thread = threading.Thread(target=lambda: found.append(as_user(ALICE, crowd)))
        thread.start()
        os.read(told, 1)
        try:
            slowest = innocent(daemon, his.pid, calls=20)
        finally:
            os.write(ask, b"!")
            thread.join()
            for fd in (told, tell, asked, ask):
                os.close(fd)
        assert slowest < LONGEST
        # Bob had two connections at once.  The two connections that had been idle the longest made room for them.
        assert found[0].startswith("[0, 1"), found
        assert found[0].count(",") < 4, found


def has_ended(sock: socket.socket) -> bool:
    sock.setblocking(False)
    try:
        return sock.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


@pytest.mark.root
def test_descriptors_that_are_slow_to_close_wait_for_their_own_user_alone(tmp_path: Path) -> None:
    with Daemon(tmp_path, limits="message-deadline = 1.0") as daemon, Sleeper(uid=BOB) as his:
        before = daemon.snapshot()
        peak = threading.Event()

        def attack() -> int:
            kept = []
            sent = 0
            for _ in range(60):
                with contextlib.suppress(OSError), daemon.raw() as sock:
                    slow = [slow_to_close() for _ in range(2)]
                    kept += [taken for _, taken in slow]
                    sock.settimeout(0.5)
                    try:
                        ancillary.send(sock, WHO, [one.fileno() for one, _ in slow])
                    except OSError:
                        # The broker did not take them, so they are closed here, and that must not block.
                        for one, _ in slow:
                            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                        raise
                    for one, _ in slow:
                        # If the broker has closed its copy by now, it is this that blocks.
                        threading.Thread(target=one.close, daemon=True).start()
                    sent += 2
            time.sleep(2)
            for taken in kept:
                taken.close()
            return sent

        counts: list[int] = []

        def watch() -> None:
            while not peak.is_set():
                with contextlib.suppress(FileNotFoundError):
                    counts.append(len(os.listdir(f"/proc/{daemon.pid}/fd")))
                time.sleep(0.02)

        watcher = threading.Thread(target=watch)
        watcher.start()
        attacker = threading.Thread(target=lambda: as_user(ALICE, attack))
        attacker.start()
        time.sleep(0.5)
        try:
            check_innocent(daemon, his.pid)
            # Bob's own descriptors are closed meanwhile.
            null = os.open(os.devnull, os.O_RDONLY)
            with daemon.raw() as sock:
                ancillary.send(sock, WHO, [null] * 50)
                sock.recv(65536)
            os.close(null)
        finally:
            attacker.join()
            peak.set()
            watcher.join()
        assert max(counts) < len(before.fds) + 300, "the descriptors of one user pile up"
        daemon.settles_at(before)


@pytest.mark.root
def test_a_socket_made_inside_is_the_users_and_shares_no_port_of_roots(daemon: Daemon) -> None:
    with named_network("shop") as _, Namespace.from_name("shop") as network:
        subprocess.run(["ip", "-n", "shop", "link", "set", "lo", "up"], check=True)
        daemon.allow("shop", who=[f"user:{ALICE}"], targets=["name:shop"], sockets=["inet:stream", "inet6:dgram", "netlink:raw"])

        def listen() -> socket.socket:
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind(("127.0.0.1", 8080))
            sock.listen()
            return sock

        with network.call(listen):

            def steal() -> tuple[str, int]:
                with connect(daemon.address) as broker, broker.socket("name:shop") as sock:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                    try:
                        sock.bind(("127.0.0.1", 8080))
                        outcome = "bound"
                    except OSError as error:
                        outcome = os.strerror(error.errno or 0)
                    sock.close()
                    with broker.socket("name:shop") as mine:
                        mine.bind(("127.0.0.1", 8081))
                        mine.listen()
                        return outcome, os.fstat(mine.fileno()).st_uid

            assert as_user(ALICE, steal) == ("Address already in use", ALICE)


@pytest.mark.root
def test_what_a_setuid_program_writes_to_a_netlink_socket_changes_nothing(daemon: Daemon) -> None:
    """The kernel checks the maker of the socket as well as the writer (CVE-2014-0181).  Here the writer is root."""
    with named_network("shop"):
        daemon.allow("shop", who=[f"user:{ALICE}"], targets=["name:shop"], sockets=["netlink:raw"])
        left, right = socket.socketpair()

        def hand_out() -> None:
            kind = (socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
            with connect(daemon.address) as broker, broker.socket("name:shop", *kind) as sock:
                socket.send_fds(right, [b"x"], [sock.fileno()])

        as_user(ALICE, hand_out)
        _, fds, _, _ = socket.recv_fds(left, 1, 1)
        left.close()
        right.close()
        with socket.socket(fileno=fds[0]) as netlink:
            # RTM_NEWLINK: set lo up.
            body = struct.pack("=BxHiII", socket.AF_UNSPEC, 0, 1, 1, 1)
            netlink.send(struct.pack("=IHHII", 16 + len(body), 16, 5, 1, 0) + body)
            reply = netlink.recv(65536)
        kind, error = struct.unpack_from("=xxxxH", reply)[0], struct.unpack_from("=i", reply, 16)[0]
        assert (kind, -error) == (2, 1), "NLMSG_ERROR, EPERM"
        state = subprocess.run(["ip", "-n", "shop", "-br", "link", "show", "lo"], capture_output=True, text=True, check=True).stdout
        assert "DOWN" in state


@pytest.mark.root
def test_uid_0_without_capabilities_is_not_root_and_makes_nothing_in_roots_name(daemon: Daemon) -> None:
    """This is how the first process of a container without a user namespace and without capabilities runs."""
    with named_network("shop"):
        daemon.allow("all", who="everyone", targets=["name:shop"], sockets=["inet:stream"])
        code = """
import os, nsbroker
with nsbroker.connect() as broker:
    me = broker.who_am_i()
    with broker.socket("name:shop") as sock:
        owner = os.fstat(sock.fileno()).st_uid
    try:
        broker.open("pid:%d", "net").close()
        print(me.anonymous, owner, "opened")
    except nsbroker.NsbrokerError as error:
        print(me.anonymous, owner, type(error).__name__)
"""
        command = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", sys.executable, "-c", code % os.getpid()]
        environment = {**os.environ, "NSBROKER_ADDRESS": daemon.address}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.stdout == "True 65534 PermissionDenied\n", done.stderr


@pytest.mark.root
def test_a_pattern_leads_nobody_to_what_another_user_holds(daemon: Daemon) -> None:
    daemon.allow("victim", who=[f"user:{BOB}"], targets=["name:*"], namespaces=["net"])
    daemon.allow("attacker", who=[f"user:{ALICE}"], targets=["name:*"], create=["net"], hold=["net"])
    daemon.allow("opener", who=["user:4003"], targets=["name:*"], namespaces=["*"])

    def make(name: str) -> Callable[[], str]:
        def ask() -> str:
            with connect(daemon.address) as broker:
                try:
                    for ns in broker.create(["net"], name=name).namespaces.values():
                        ns.close()
                except NsbrokerError as error:
                    return type(error).__name__
            return "made"

        return ask

    def look() -> str:
        with connect(daemon.address) as broker:
            try:
                broker.open("name:vpn", "net").close()
            except NsbrokerError as error:
                return type(error).__name__
        return "opened"

    # The right to open any name is no right to hold something under it.
    assert as_user(4003, make("vpn")) == "PermissionDenied"
    assert as_user(ALICE, make("vpn")) == "made"
    assert as_user(BOB, look) == "NoSuchTarget"
    with named_network("vpn"):
        assert (as_user(BOB, look), look()) == ("opened", "opened")
        assert as_user(ALICE, make("vpn")) == "NameTaken"
    assert as_user(ALICE, look) == "opened"


@pytest.mark.root
def test_new_namespaces_need_a_rule_and_are_counted_to_the_caller(tmp_path: Path) -> None:
    with Daemon(tmp_path, limits="created-per-user = 5") as daemon:

        def make(count: int) -> tuple[int, str]:
            kept: list[Namespace] = []
            with connect(daemon.address) as broker:
                try:
                    for _ in range(count):
                        kept += broker.create(["uts"]).namespaces.values()
                except NsbrokerError as error:
                    return len(kept), str(error)
                finally:
                    for ns in kept:
                        ns.close()
                return len(kept), ""

        assert "permission denied" in as_user(ALICE, lambda: make(1))[1]
        daemon.allow("lab", who=[f"user:{ALICE}", f"user:{BOB}"], targets=["own"], create=["uts"])
        made, why = as_user(ALICE, lambda: make(100))
        assert (made, "created-per-user" in why) == (5, True)
        assert as_user(BOB, lambda: make(1)) == (1, "")
        if features().namespace_id:
            assert as_user(ALICE, lambda: make(5)) == (5, ""), "namespaces that ended still count"


@pytest.mark.root
def test_what_the_kernel_refuses_a_user_is_not_that_users_own(daemon: Daemon) -> None:
    """All uids are the user's, but one process has a capability, one is not dumpable, and one is a thread of root's process."""
    silent = ["setpriv", f"--reuid={ALICE}", f"--regid={ALICE}", "--clear-groups"]
    capable = [*silent, "--inh-caps=+net_raw", "--ambient-caps=+net_raw"]
    wait = "import sys, time; print(end='!', flush=True); time.sleep(60)"
    undumpable = f"import ctypes; ctypes.CDLL(None).prctl(4, 0); {wait}"
    acting = f"""
import ctypes, threading
from nsbroker.linux.credentials import _get_calls
def act():
    libc, calls = ctypes.CDLL(None), _get_calls()
    libc.syscall(calls.setresgid, {ALICE}, {ALICE}, {ALICE})
    libc.syscall(calls.setresuid, {ALICE}, {ALICE}, {ALICE})
    print(threading.get_native_id(), flush=True)
    threading.Event().wait(60)
threading.Thread(target=act).start()
"""
    plain = [*silent, sys.executable, "-c", wait]
    commands = [[*capable, sys.executable, "-c", wait], [*silent, sys.executable, "-c", undumpable], plain]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE) for command in commands]
    impersonator = subprocess.Popen([sys.executable, "-c", acting], stdout=subprocess.PIPE, text=True)
    try:
        for waiting in processes:
            assert waiting.stdout
            assert waiting.stdout.read(1) == b"!"
        assert impersonator.stdout
        thread = f"tid:{impersonator.pid}/{impersonator.stdout.readline().strip()}"

        def look() -> list[str]:
            outcome = []
            with connect(daemon.address) as broker:
                listed = {one.process.pid for one in broker.list() if one.process}
                for target in (*(f"pid:{process.pid}" for process in processes), thread):
                    try:
                        broker.open(target, "net").close()
                        outcome.append("opened")
                    except PermissionDenied:
                        outcome.append("denied")
                    outcome.append("explained" if broker.explain(target, ["net"]).allowed else "not")
                outcome += ["listed" for process in processes[:2] if process.pid in listed]
            return outcome

        assert as_user(ALICE, look) == ["denied", "not", "denied", "not", "opened", "explained", "denied", "not"]
    finally:
        running: list[subprocess.Popen[bytes] | subprocess.Popen[str]] = [*processes, impersonator]
        for process in running:
            process.kill()
            process.communicate()


def test_the_time_for_a_pattern_grows_only_with_the_length_of_the_name(tmp_path: Path) -> None:
    path = tmp_path / "nsbroker.toml"
    path.write_text('[[allow]]\nname = "a"\nwho = "everyone"\ntargets = ["path:/*-*-*-*-*-*x"]\nnamespaces = ["net"]\n')
    (rule,) = Policy(configuration.load(path)).rules
    start = time.thread_time()
    assert not rule.fits_target("path:/" + "-" * 4000)
    assert rule.fits_target("path:/" + "-" * 4000 + "x")
    assert time.thread_time() - start < LONGEST


@pytest.mark.root
def test_the_time_of_a_refusal_reveals_no_more_than_its_text(daemon: Daemon, sleeper: Sleeper) -> None:
    """Calls about a process of others, no process, a name that exists and one that does not are answered on the same ticks."""
    with named_network("secret"):

        def ask() -> dict[str, list[float]]:
            times: dict[str, list[float]] = {}
            with connect(daemon.address) as broker:
                for target in (f"pid:{sleeper.pid}", "pid:4194000", "name:secret", "name:nothing") * 15:
                    start = time.monotonic()
                    with pytest.raises(PermissionDenied):
                        broker.open(target, "net")
                    times.setdefault(target, []).append(time.monotonic() - start)
            return times

        medians = [sorted(taken)[len(taken) // 2] for taken in as_user(ALICE, ask).values()]
        # Without ticks, each takes less than half a millisecond.
        assert all(0.009 < median < 0.1 * SLOWNESS for median in medians), medians


def test_a_stream_that_its_reader_leaves_ends_with_the_connection_and_the_calls_behind_it(daemon: Daemon) -> None:
    before = daemon.snapshot()
    with daemon.raw() as sock:
        sock.send(b'{"method":"io.nsbroker.Broker.Watch","parameters":{},"more":true}\0' + OPEN_SELF * 100)
        text = b""
        while b'"ready"' not in text:
            text += sock.recv(65536)
        time.sleep(0.3)
    daemon.settles_at(before)
    assert [record for record in daemon.records() if record["method"] == "Open"] == []
    assert [line for line in daemon.words() if "internal error" in line] == []


@pytest.mark.root
def test_a_user_learns_nothing_about_what_the_broker_does_for_others(daemon: Daemon) -> None:
    def look() -> tuple[int | None, int | None, int | None, int | None]:
        with connect(daemon.address) as broker:
            status = broker.status()
            return status.connections, status.calls, status.file_descriptors, status.held

    assert as_user(ALICE, look) == (None, None, None, None)
    assert None not in look()


@pytest.mark.root
def test_nobody_in_a_pid_namespace_learns_pids_of_the_host(daemon: Daemon) -> None:
    code = """
import os, nsbroker
with nsbroker.connect() as broker:
    print(broker.who_am_i().pid == os.getpid(), {one.process and one.process.pid for one in broker.list()} <= {None, *range(40)})
"""
    command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable, "-c", code]
    environment = {**os.environ, "NSBROKER_ADDRESS": daemon.address}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    # Before Linux 6.11 the broker cannot translate the pid into the caller's PID namespace, and shows none.
    assert done.stdout == f"{features().pid_translation} True\n", done.stderr


@pytest.mark.root
def test_more_calls_than_threads_wait_in_turn_and_none_is_refused(daemon: Daemon, sleeper: Sleeper) -> None:
    with named_network("blue") as path:
        inode = path.stat().st_ino
        daemon.allow("bob", who=[f"user:{BOB}"], targets=["net:*", "path:*", "pid:*"], namespaces=["net"], devices=["null"])

        def ask() -> int:
            failed = []

            def work() -> None:
                with connect(daemon.address) as broker:
                    for _ in range(15):
                        try:
                            broker.open(f"net:[{inode}]", "net").close()
                            broker.open(f"path:{path}", "net").close()
                            broker.device(f"pid:{sleeper.pid}", "null").close()
                        except (QuotaExceeded, ConnectionLost) as error:
                            failed.append(error)

            threads = [threading.Thread(target=work) for _ in range(24)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return len(failed)

        assert as_user(BOB, ask) == 0


@pytest.mark.root
def test_hanging_up_in_the_middle_of_a_list_locks_nobody_out(daemon: Daemon) -> None:
    ask = b'{"method":"io.nsbroker.Broker.List","parameters":{},"more":true}\0'

    def hang_up() -> int:
        for number in range(40):
            with daemon.raw() as sock:
                sock.send(ask)
                time.sleep(0.005 * (number % 10))
        with daemon.connect() as broker:
            return len(broker.list())

    def look() -> int:
        with daemon.connect() as broker:
            return len(broker.list())

    assert as_user(ALICE, hang_up) > 0
    assert as_user(BOB, look) > 0
    assert look() > 0
