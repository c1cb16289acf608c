"""Fuzz the connection: send sequences of correct and spoilt calls, with and without descriptors, to a real daemon.

The client is a user of its own, in namespaces of its own.  It knows which descriptors it may receive and how many replies it
must receive.  The parent process, which counts the calls, checks the daemon: that it runs, logs no fault, releases everything,
and serves others.
"""

import array
import collections
import contextlib
import ctypes
import os
import select
import socket
import stat
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from hypothesis import strategies as st

from nsbroker.errors import WIRE_ERRORS, NoSuchTarget, NsbrokerError, ProtocolError
from nsbroker.linux import nsfs
from nsbroker.namespace import Namespace
from nsbroker.protocol.messages import TEXT
from nsbroker.varlink.framing import MESSAGE_MAX
from nsbroker.varlink.message import decode_call
from tests.fuzz import mutate
from tests.fuzz.subject import Fault, Seed, Subject, seeded
from tests.snapshot import Snapshot
from tests.world import Daemon

FUZZER = 4300
INNOCENT = 4301
_TYPES = ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")
_RULE = (
    '[[allow]]\nname = "fuzz"\nwho = ["user:4300"]\ntargets = ["name:fuzz"]\nnamespaces = ["net"]\nsockets = ["inet:stream"]\n'
    '[[allow]]\nname = "held"\nwho = ["user:4300"]\ntargets = ["name:held-*"]\nnamespaces = ["uts", "net"]\n'
    '[[allow]]\nname = "devices"\nwho = ["user:4300"]\ntargets = ["own"]\ndevices = ["null"]\n'
    '[[allow]]\nname = "innocent"\nwho = ["user:4301"]\ntargets = ["name:fuzz"]\nnamespaces = ["net"]\n'
)
# Checking the daemon takes some ten milliseconds, so it is done after this many batches only.
_EVERY = 100
_BATCHES = 6
_NEW = 0x02000000 | 0x04000000 | 0x08000000 | 0x40000000
_SO_NETNS_COOKIE = 71
_PATIENCE = 5.0
_MOMENT = 0.3
_KEY = len("it logged: nsbroker: internal error: RuntimeError: ")
_FDS_MAX = 253
# These calls are answered on ticks, or after threads or engines have worked, or, like Restrict, have later calls refused on ticks.
# They are slow, so only a few are made.
_SLOW = frozenset(
    ["List", "ListContainers", "Create", "Hold", "OpenSocket", "OpenDevice", "OpenFile", "ListDevices", "AddInterface", "Restrict"]
)
_SLOW_KINDS = frozenset(("container", "unit", "path", "namespace"))
_SLOW_SHARE = 0.02
_STANDARD = "org.varlink.service"
_DESCRIBED = {f"io.nsbroker.Broker.{line.split()[1]}" for line in TEXT.read_text().splitlines() if line.startswith("error ")}


class Piece(NamedTuple):
    """What one sendmsg(2) sends: bytes, and the names of descriptors that are attached to the first byte."""

    data: bytes
    fds: tuple[str, ...] = ()


class World(NamedTuple):
    """What the client knows about the daemon."""

    daemon: Daemon
    victim: int
    cookie: int
    network: int
    forbidden: frozenset[int]
    """Inodes of namespaces that only root may get."""
    asking: socket.socket
    answering: socket.socket


_worlds: list[World] = []
_recent: collections.deque[list[Piece]] = collections.deque(maxlen=_EVERY)
_own: dict[str, int] = {}
_mine: set[int] = set()
_count = [0]


@contextlib.contextmanager
def daemon() -> Iterator[None]:
    """Run the daemon and what calls may open.  A thread answers the client's questions about the daemon's state."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        running = Daemon(folder, limits="records-per-user = 1000000\nconnections-per-user = 64")
        (running.config / "nsbroker.d/fuzz.toml").write_text(_RULE)
        stack.callback(subprocess.run, ["ip", "netns", "del", "fuzz"], capture_output=True)
        subprocess.run(["ip", "netns", "add", "fuzz"], check=True)
        stack.enter_context(running)
        victim = stack.enter_context(_run_victim())
        network, cookie = _network("fuzz")
        others = [f"/proc/{pid}/ns/{ns_type}" for pid in (victim, running.pid) for ns_type in ("net", "uts", "ipc", "mnt")]
        forbidden = {os.stat(path).st_ino for path in others}
        asking, answering = socket.socketpair()
        _worlds[:] = [World(running, victim, cookie, network, frozenset(forbidden), asking, answering)]
        thread = threading.Thread(target=_answer_questions, args=(_worlds[0],), daemon=True)
        thread.start()
        try:
            yield
        finally:
            answering.shutdown(socket.SHUT_RDWR)
            thread.join()
            asking.close()
            answering.close()


@contextlib.contextmanager
def _run_victim() -> Iterator[int]:
    """Run a process of root in its own namespaces while the block runs.  Yields its pid."""
    command = ["unshare", "--net", "--uts", "--ipc", "--mount", "sh", "-c", "echo; exec sleep infinity"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process.pid
        finally:
            process.kill()


def _network(name: str) -> tuple[int, int]:
    with Namespace.from_name(name, "net") as ns, ns.call(lambda: socket.socket(socket.AF_INET)) as sock:
        return ns.inode, _cookie(sock.fileno())


def _cookie(fd: int) -> int:
    with socket.socket(fileno=os.dup(fd)) as sock:
        cookie: int = struct.unpack("=Q", sock.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8))[0]
        return cookie


def _answer_questions(world: World) -> None:
    """As root, answer each question of the client with what is wrong with the daemon."""
    daemon = world.daemon
    before: Snapshot | None = None
    with open(daemon._log, errors="replace") as log:
        while world.answering.recv(1):
            if before is None:
                before = daemon.snapshot()
            wrong = ""
            said = [line for line in log if not line.startswith("{")]
            if faults := [line for line in said if "internal error:" in line or "Traceback" in line]:
                wrong = f"it logged: {faults[0].strip()}"
            assert daemon.process is not None
            if daemon.process.poll() is not None:
                wrong = f"the daemon has ended: {said[-3:]}"
            else:
                try:
                    with daemon.connect() as broker, broker.open(f"pid:{world.victim}", "net") as ns:
                        for name in ("held-1", "held-2"):
                            with contextlib.suppress(NoSuchTarget):
                                broker.release(name)
                        if ns.inode != os.stat(f"/proc/{world.victim}/ns/net").st_ino:
                            wrong = f"root got {ns}"
                    daemon.settles_at(before)
                except (NsbrokerError, AssertionError, OSError) as error:
                    wrong = wrong or f"{type(error).__name__}: {str(error)[:300]}"
            os.truncate(daemon._log, 0)
            log.seek(0)
            world.answering.sendall(wrong.encode()[:60000] + b"\0")


def _ask_for_problem() -> str:
    """Ask what is wrong with the daemon; the answer is empty when nothing is."""
    asking = _worlds[0].asking
    asking.sendall(b"?")
    said = b""
    while not said.endswith(b"\0"):
        said += asking.recv(65536)
    return said[:-1].decode()


def become_user() -> None:
    """Turn this process into the client: change its user and namespaces, and open its descriptors."""
    if ctypes.CDLL(None, use_errno=True).unshare(_NEW & ~0x02000000) < 0:
        raise OSError(ctypes.get_errno(), "unshare")
    os.setgroups([])
    os.setresgid(FUZZER, FUZZER, FUZZER)
    os.setresuid(FUZZER, FUZZER, FUZZER)
    # The change of the uid made this process undumpable.
    ctypes.CDLL(None).prctl(4, 1)
    dead = os.fork()
    if dead == 0:
        os._exit(0)
    _own["dead"] = os.pidfd_open(dead)
    os.waitpid(dead, 0)
    _own["self"] = os.pidfd_open(os.getpid())
    _own["victim"] = os.pidfd_open(_worlds[0].victim)
    _own["pipe"], _own["end"] = os.pipe()
    _own["memory"] = os.memfd_create("a")
    _own["path"] = os.open("/", os.O_PATH)
    _own["null"] = os.open("/dev/null", os.O_RDWR)
    _own["network"] = os.open("/proc/self/ns/net", os.O_RDONLY)
    _own["socket"] = socket.socket(socket.AF_UNIX).detach()
    _mine.update(os.stat(f"/proc/self/ns/{ns_type}").st_ino for ns_type in _TYPES)
    _mine.add(_worlds[0].network)
    if problem := _ask_for_problem():
        raise Fault(problem)


# What the client sends.

_target = st.one_of(
    st.sampled_from(
        (
            {"self": True},
            {"name": "fuzz"},
            {"pidFileDescriptor": 0},
            {"pid": "own"},
            {"pid": "victim"},
            {"pid": "daemon"},
            {"pid": 1},
            {"name": "secret"},
            {"pid": "own", "tid": "own"},
        )
    ),
    st.builds(
        lambda kind, word: {kind: word},
        st.sampled_from(("name", "container", "unit", "path", "namespace")),
        st.sampled_from(("a", "/run/netns/fuzz", "/etc/shadow", "../x", "x.service", "net:[4026531840]", "n" * 255)),
    ),
)
_types = st.lists(st.sampled_from(_TYPES), max_size=3)
_few = st.sampled_from(
    ("Open", "WhoAmI", "Explain", "GetStatus", "Open", "OpenSocket", "GetInfo", "ListDevices", "OpenDevice", "OpenFile")
)
_all = st.sampled_from(
    (
        "Create",
        "Hold",
        "Release",
        "ListHeld",
        "List",
        "ListContainers",
        "GetInterfaceDescription",
        "Restrict",
        "AddInterface",
        "Nothing",
    )
)
_call = st.fixed_dictionaries(
    {
        "method": st.one_of(_few, _few, _few, _all),
        "target": _target,
        "types": _types,
        "fds": st.lists(
            st.sampled_from(("self", "victim", "dead", "pipe", "memory", "path", "null", "network", "socket")), max_size=2
        ),
    }
)
_calls = st.lists(_call, min_size=2, max_size=8)


def _replace_names(target: dict[str, Any]) -> dict[str, Any]:
    numbers = {"own": os.getpid(), "victim": _worlds[0].victim, "daemon": _worlds[0].daemon.pid}
    return {key: numbers.get(value, value) if isinstance(value, str) else value for key, value in target.items()}


def _parameters(call: dict[str, Any], chance: Seed) -> dict[str, Any]:
    target = _replace_names(call["target"])
    match call["method"]:
        case "Open":
            expect = {"expect": {"inode": 1}} if chance.random() < 0.05 else {}
            return {"target": target, "types": call["types"] or None, **expect}
        case "OpenSocket":
            family = chance.choice(("inet", "inet6", "unix", "packet"))
            marked = {"mark": chance.choice((0, 1, 2**32 - 1, 2**32))} if chance.random() < 0.2 else {}
            return {"target": target, "family": family, "type": chance.choice(("stream", "raw")), **marked}
        case "Explain":
            who = chance.choice((["user:nobody"], ["user:4001", "group:0", "unit:a.service"], ["docker:x"], []))
            other = {"as": who} if chance.random() < 0.2 else {}
            sockets = ["inet:stream", "inet:dgram"]
            return {"target": target, "sockets": sockets, "marks": [chance.randrange(4)], "files": ["hosts"], **other}
        case "ListDevices":
            return {"target": target}
        case "OpenDevice":
            name = chance.choice(("null", "zero", "../null", "tty"))
            return {"target": target, "name": name, "access": "read", "nonBlocking": chance.random() < 0.5}
        case "AddInterface" | "OpenFile":
            return _parameters_by_name(call, target, chance)
        case "Create" | "Hold" | "Release":
            return _parameters_of_held(call, target, chance)
        case "Restrict":
            targets = chance.choice((["own", "self"], ["name:fuzz", "name:held-?"], ["pid:*", "*"], ["path:/*/x*", "tid:1/1"]))
            words = {"sockets": chance.choice((["*"], ["inet:stream"])), "devices": chance.choice((["null"], ["x=1:3"]))}
            words["marks"] = chance.choice((["*"], ["1-0x100"], ["0"]))
            return {"targets": targets, "namespaces": call["types"], "create": ["uts"], **words}
        case "GetInterfaceDescription":
            return {"interface": chance.choice(("io.nsbroker.Broker", _STANDARD, "a.b"))}
    return {}


def _parameters_by_name(call: dict[str, Any], target: dict[str, Any], chance: Seed) -> dict[str, Any]:
    if call["method"] == "OpenFile":
        return {"target": target, "name": chance.choice(("resolv.conf", "hosts", "net/dev", "net/unix", "passwd", ""))}
    peer = {"peer": {"target": chance.choice((target, {"self": True})), "name": "fuzz1"}} if chance.random() < 0.5 else {}
    return {"target": target, "kind": chance.choice(("veth", "tap")), "name": chance.choice(("fuzz0", "a/b")), **peer}


def _parameters_of_held(call: dict[str, Any], target: dict[str, Any], chance: Seed) -> dict[str, Any]:
    match call["method"]:
        case "Create":
            named = {"name": "held-1"} if chance.random() < 0.5 else {}
            up = {"up": True} if chance.random() < 0.2 else {}
            return {"types": ["uts"] if chance.random() < 0.9 else call["types"], **named, **up}
        case "Hold":
            return {"target": target, "types": ["net"], "name": chance.choice(("held-1", "held-2", "other"))}
    return {"name": chance.choice(("held-1", "held-2", "other"))}


def _piece(call: dict[str, Any], chance: Seed) -> Piece:
    """Make one message: mostly a correct one, with the descriptors that it refers to."""
    if (call["method"] in _SLOW or _SLOW_KINDS & set(call["target"])) and chance.random() > _SLOW_SHARE:
        call = {**call, "method": "Open", "target": {"self": True}}
    method = call["method"]
    name = f"{_STANDARD}.{method}" if method.startswith("GetI") else f"io.nsbroker.Broker.{method}"
    message: dict[str, Any] = {"method": name, "parameters": _parameters(call, chance)}
    if method.startswith("List") and method != "ListDevices" and chance.random() < 0.9:
        message["more"] = True
    elif chance.random() < 0.03:
        message[chance.choice(("oneway", "more", "upgrade", "x.y"))] = chance.random() < 0.8
    spoil = chance.random()
    if spoil < 0.25:
        message["parameters"] = mutate.tree(message["parameters"], chance)
    elif spoil < 0.28:
        message = mutate.tree(message, chance)
    data = msgspec.json.encode(message)
    if spoil > 0.985:
        data = mutate.data(data, chance)
    elif spoil > 0.98:
        deep = b'{"method":"a","parameters":' + b"[" * 20
        data = chance.choice((b"[" * 17, deep, data + b" " * MESSAGE_MAX, b'{"a":"' + b"\\" * 60000, b"", b"null"))
    fds: list[str] = []
    if "pidFileDescriptor" in call["target"] and chance.random() < 0.9:
        fds = [chance.choice(("self", "victim", "dead"))] if chance.random() < 0.8 else call["fds"]
    elif chance.random() < 0.05:
        fds = call["fds"] * (1 if chance.random() < 0.9 else _FDS_MAX // 2)
    return Piece(data + b"\0", tuple(fds))


# What the client receives.


class _Conversation:
    """One connection.  It sends and reads at the same time, since either side may have to wait for the other."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self._waiting = collections.deque(pieces)
        self._rest: memoryview | None = None
        self._data = bytearray()
        self.replies: list[dict[str, Any]] = []
        self.fds: list[int] = []
        self.ended = False
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.connect(str(_worlds[0].daemon.socket))
        self._sock.setblocking(False)

    def run(self, expected: int | None) -> None:
        """Run until `expected` calls have got their last replies (None: until the daemon hangs up)."""
        poll = select.poll()
        end = time.monotonic() + _PATIENCE
        finals = 0
        while True:
            wants = select.POLLIN | (select.POLLOUT if self._waiting or self._rest else 0)
            poll.register(self._sock, wants)
            if not poll.poll(max(0, end - time.monotonic()) * 1000):
                raise Fault(f"no reply in {_PATIENCE:g} s: {len(self.replies)} replies came, {finals} last ones of {expected}")
            if wants & select.POLLOUT:
                self._send()
            finals += self._receive()
            if self.ended or (expected is not None and finals >= expected and not self._waiting and not self._rest):
                return

    def _send(self) -> None:
        try:
            while True:
                if self._rest:
                    self._rest = self._rest[self._sock.send(self._rest, socket.MSG_NOSIGNAL) :]
                    continue
                if not self._waiting:
                    return
                data, fds = self._waiting[0]
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [_own[fd] for fd in fds]))] if fds else []
                sent = self._sock.sendmsg([data], rights, socket.MSG_NOSIGNAL)
                self._waiting.popleft()
                self._rest = memoryview(data)[sent:]
        except BlockingIOError:
            return
        except OSError:
            # The daemon hung up, or the user has too many descriptors in flight.  What was sent is still answered.
            self._waiting.clear()
            self._rest = None

    def _receive(self) -> int:
        finals = 0
        while True:
            try:
                data, control, flags, _ = self._sock.recvmsg(65536, 1024 * 4)
            except BlockingIOError:
                return finals
            except ConnectionResetError:
                data, control, flags = b"", [], 0
            for _, _, numbers in control:
                self.fds += array.array("i", numbers)
            if flags & socket.MSG_CTRUNC:
                raise Fault("descriptors were cut off")
            if not data:
                self.ended = True
                return finals
            self._data += data
            *whole, rest = self._data.split(b"\0")
            self._data = bytearray(rest)
            for one in whole:
                reply = msgspec.json.decode(one)
                self.replies.append(reply)
                finals += not reply.get("continues", False)

    def close(self) -> None:
        self._sock.close()
        for fd in self.fds:
            os.close(fd)


def _model(pieces: Sequence[Piece]) -> tuple[int, bool, set[str]]:
    """Return how many last replies are due, whether the daemon then hangs up, and the methods that are called until then."""
    finals = 0
    methods: set[str] = set()
    rest = b""
    for data, fds in pieces:
        if fds and rest:
            return finals, True, methods
        *whole, rest = (rest + data).split(b"\0")
        for one in whole:
            try:
                if len(one) > MESSAGE_MAX:
                    return finals, True, methods
                call = decode_call(one)
            except ProtocolError:
                return finals, True, methods
            finals += not call.oneway
            methods.add(call.method.rpartition(".")[2])
        if len(rest) > MESSAGE_MAX:
            return finals, True, methods
    return finals, False, methods


def _check_fd(fd: int, methods: set[str]) -> None:
    """Check that the policy allows a descriptor that was received."""
    world = _worlds[0]
    facts = os.fstat(fd)
    ns_id = os.readlink(f"/proc/self/fd/{fd}")
    if stat.S_ISSOCK(facts.st_mode):
        with socket.socket(fileno=os.dup(fd)) as sock:
            kind = (sock.family, sock.type)
        if kind != (socket.AF_INET, socket.SOCK_STREAM) or _cookie(fd) != world.cookie or "OpenSocket" not in methods:
            raise Fault(f"a socket came that no rule allows: {kind}")
        return
    if stat.S_ISCHR(facts.st_mode):
        if (os.major(facts.st_rdev), os.minor(facts.st_rdev)) != (1, 3) or "OpenDevice" not in methods:
            raise Fault(f"a device came that no rule allows: {ns_id}")
        return
    if "OpenFile" in methods and ns_id.startswith(("/memfd:", "/proc/")):
        return
    try:
        nsfs.namespace_type(fd)
    except OSError as error:
        raise Fault(f"something came that is no namespace: {ns_id}") from error
    # A namespace that the client created is new, so it belongs to nobody else.
    made = facts.st_ino not in world.forbidden and bool(methods & {"Create", "Open"})
    if facts.st_ino in _mine or made:
        return
    raise Fault(f"a namespace came that no rule allows: {ns_id}")


def _check_reply(reply: dict[str, Any]) -> None:
    error = reply.get("error")
    if not set(reply) <= {"parameters", "error", "continues"}:
        raise Fault(f"a reply with other keys: {reply}")
    if error is None:
        return
    if error not in WIRE_ERRORS or (error.startswith("io.") and error not in _DESCRIBED):
        raise Fault(f"an error that the interface does not have: {error}")
    if set(reply.get("parameters") or {}) != set(WIRE_ERRORS[error].fields):
        raise Fault(f"an error without its parameters: {reply}")


def _converse(pieces: list[Piece], *, hang_up: bool) -> None:
    finals, broken, methods = _model(pieces)
    talk = _Conversation(pieces)
    try:
        if hang_up:
            talk._send()
            return
        talk.run(None if broken else finals)
        for reply in talk.replies:
            _check_reply(reply)
        for fd in talk.fds:
            _check_fd(fd, methods)
        replied = sum(not reply.get("continues", False) for reply in talk.replies)
        refused = talk.replies and talk.replies[-1].get("error", "").endswith("QuotaExceeded") and talk.ended
        if replied != finals and not refused and not talk.ended:
            raise Fault(f"{replied} last replies came to {finals} calls")
        if talk.ended and not broken and replied != finals and not refused:
            raise Fault(f"the daemon hung up after {replied} of {finals} last replies, although all messages are correct")
    finally:
        talk.close()


def check(example: tuple[list[dict[str, Any]], Seed]) -> int:
    """Send variants of a sequence, each on its own connection, in pieces as the kernel or a client might cut them."""
    drawn, seed = example
    chance = seed.again()
    calls = 0
    for _ in range(_BATCHES):
        pieces = [_piece(call, chance) for _ in range(3) for call in drawn]
        calls += len(pieces)
        if chance.random() < 0.1:
            place = chance.randrange(len(pieces))
            data, fds = pieces[place]
            cut = chance.randrange(len(data))
            pieces[place : place + 1] = [Piece(data[:cut], fds), Piece(data[cut:])] if cut else [Piece(data, fds)]
        hang_up = chance.random() < 0.1
        if hang_up and chance.random() < 0.3:
            # A client that hangs up in the middle of many replies leaves calls behind for which nobody waits.
            pieces.insert(0, Piece(b'{"method":"io.nsbroker.Broker.List","more":true}\0'))
        # Join pieces without descriptors, as a client that pipelines does.
        glued: list[Piece] = []
        for piece in pieces:
            if glued and not piece.fds and not glued[-1].fds:
                glued[-1] = Piece(glued[-1].data + piece.data)
            elif piece.data:
                glued.append(piece)
        _recent.append(glued)
        _converse(glued, hang_up=hang_up)
        _count[0] += 1
        if _count[0] % _EVERY == 0:
            _check_daemon()
    return calls


_reported: set[str] = set()


def _check_daemon() -> None:
    """Check the daemon.  When something is wrong, find the conversation that causes it."""
    wrong = _ask_for_problem()
    # Report each kind of fault only once, because finding the conversation takes a minute.
    key = wrong[:_KEY]
    if not wrong or key in _reported:
        return
    _reported.add(key)
    found = "none of the last ones by itself"
    for pieces in list(_recent):
        for hang_up in (False, True):
            with contextlib.suppress(Fault, OSError):
                _converse(pieces, hang_up=hang_up)
            # The daemon handles a hang-up a moment later.
            time.sleep(_MOMENT)
            if _ask_for_problem():
                found = f"{pieces!r:.1500}, {'hanging up at once' if hang_up else 'read to the end'}"
                break
        else:
            continue
        break
    raise Fault(f"{wrong}; after: {found}")


SUBJECT = Subject("wire", 0.38, seeded(_calls), check)
