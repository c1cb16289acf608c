"""Attacks of hostile users on the broker, and the strain of root's own work; each runs alone, or all at once.

An attack is a generator: each turn does something and yields how much it did.  It runs as its own user, in its own process,
and shares one processor with all other attacks (`crew.ATTACKERS`).
"""

import array
import contextlib
import json
import os
import random
import select
import signal
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import msgspec

from nsbroker.client.blocking import connect as connect_client
from nsbroker.errors import NsbrokerError
from nsbroker.linux import ancillary
from nsbroker.varlink.framing import MESSAGE_MAX
from tests.soak.scene import FIRST_ATTACKER, Scene, add_user, delete_container, run_container, run_quietly

CONNECTIONS = 256
_BATCH = 16
_IN_FLIGHT = 64
_STATUSES = 1000
_LINGERING = 400
_FEW = 8
_DOCKER_SOCKET = "/run/docker.sock"
_DOZENS = 24

Turns = Callable[[Scene], Iterator[int]]


class Attack(NamedTuple):
    """One attack.  `root`: it is root's own work.  `rules`: rules that it needs; `{user}` stands for the attacker's uid."""

    name: str
    about: str
    turns: Turns
    root: bool = False
    rules: str = ""
    booted: bool = False
    """It needs a broker that runs as a unit."""
    home: bool = False
    """Its user needs a home and a folder for rootless engines."""


def message(method: str, parameters: object = None, **flags: bool) -> bytes:
    """Return the message of a call."""
    name = method if "." in method else f"io.nsbroker.Broker.{method}"
    return msgspec.json.encode({"method": name, "parameters": parameters or {}, **flags}) + b"\0"


def open_call(**target: object) -> bytes:
    """Return the message of a call of Open."""
    return message("Open", {"target": target})


WHO = message("WhoAmI")
SELF = open_call(self=True)


def connection(scene: Scene, *, blocking: bool = True) -> socket.socket:
    """Open a connection of the attacker.  The caller closes it."""
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.settimeout(5)
        sock.connect(scene.socket)
        sock.setblocking(blocking)
        if blocking:
            sock.settimeout(5)
    except BaseException:
        sock.close()
        raise
    return sock


def read(sock: socket.socket) -> int:
    """Read what has arrived, close its fds, and return how many messages ended.  Raises ConnectionResetError at the end."""
    data, control, _, _ = sock.recvmsg(MESSAGE_MAX, 1024 * 4 + 64)
    for level, kind, numbers in control:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds = array.array("i")
            fds.frombytes(numbers[: len(numbers) - len(numbers) % fds.itemsize])
            for fd in fds:
                os.close(fd)
    if not data:
        raise ConnectionResetError
    return data.count(b"\0")


def pipelines(scene: Scene, make: Callable[[int], Sequence[bytes]], connections: int = CONNECTIONS) -> Iterator[int]:
    """Keep many connections full of calls, and read all replies.  `make` returns the calls of a turn."""
    poll = select.epoll()
    socks: dict[int, tuple[socket.socket, list[int]]] = {}
    try:
        number = 0
        while True:
            # Open as many as the broker accepts, and try the others again in the next turn.
            with contextlib.suppress(OSError):
                for _ in range(min(_FEW, connections - len(socks))):
                    sock = connection(scene, blocking=False)
                    socks[sock.fileno()] = (sock, [0])
                    poll.register(sock, select.EPOLLIN | select.EPOLLOUT)
            done = 0
            for fd, events in poll.poll(0.1, 64):
                sock, flying = socks[fd]
                try:
                    if events & (select.EPOLLIN | select.EPOLLHUP):
                        ended = read(sock)
                        flying[0] -= ended
                        done += ended
                    if flying[0] < _IN_FLIGHT and events & select.EPOLLOUT:
                        number += 1
                        calls = make(number)
                        # What does not fit is cut off.  Half a message ends the connection, and a new one replaces it.
                        sock.send(b"".join(calls))
                        flying[0] += len(calls)
                    if flying[0] >= _IN_FLIGHT:
                        poll.modify(sock, select.EPOLLIN)
                    else:
                        poll.modify(sock, select.EPOLLIN | select.EPOLLOUT)
                except BlockingIOError:
                    pass
                except OSError:
                    poll.unregister(sock)
                    del socks[fd]
                    sock.close()
            yield done
    finally:
        poll.close()
        for sock, _ in socks.values():
            sock.close()


def same(*calls: bytes, connections: int = CONNECTIONS, batch: int = _BATCH) -> Turns:
    """Make pipelines of the same calls again and again."""
    many = [calls[number % len(calls)] for number in range(batch)]
    return lambda scene: pipelines(scene, lambda _: many, connections)


def fresh(make: Callable[[Scene, int], bytes], connections: int = CONNECTIONS, batch: int = _BATCH) -> Turns:
    """Make pipelines of calls that are all different."""
    return lambda scene: pipelines(scene, lambda turn: [make(scene, turn * batch + number) for number in range(batch)], connections)


def connect(scene: Scene) -> Iterator[int]:
    """Connect and close as fast as possible."""
    while True:
        for _ in range(_FEW):
            connection(scene).close()
        yield _FEW


def crowd(scene: Scene) -> Iterator[int]:
    """Open as many silent connections as the broker accepts, and try more."""
    socks: deque[socket.socket] = deque()
    while True:
        with contextlib.suppress(OSError):
            socks.append(connection(scene))
        if len(socks) > 2 * CONNECTIONS:
            socks.popleft().close()
        yield 1


def deaf(scene: Scene) -> Iterator[int]:
    """Ask for eight descriptors again and again, and never read a reply."""
    socks: list[socket.socket] = []
    while True:
        with contextlib.suppress(OSError):
            while len(socks) < CONNECTIONS:
                socks.append(connection(scene, blocking=False))
        for sock in list(socks):
            try:
                sock.send(SELF * _BATCH)
                yield _BATCH
            except BlockingIOError:
                pass
            except OSError:
                socks.remove(sock)
                sock.close()
        yield 0
        time.sleep(0.01)


def halves(scene: Scene) -> Iterator[int]:
    """Send half a message, and then a byte now and then, so that it never ends."""
    socks: list[socket.socket] = []
    while True:
        with contextlib.suppress(OSError):
            while len(socks) < CONNECTIONS:
                sock = connection(scene, blocking=False)
                sock.send(SELF[:40])
                socks.append(sock)
        for sock in list(socks):
            try:
                sock.send(b" ")
                yield 1
            except OSError:
                socks.remove(sock)
                sock.close()
        time.sleep(0.05)


def hangup(scene: Scene) -> Iterator[int]:
    """Ask for a list, read the beginning, and hang up."""
    ask = message("List", more=True)
    while True:
        socks = []
        for _ in range(_FEW):
            sock = connection(scene)
            socks.append(sock)
            sock.send(ask)
        for sock in socks:
            sock.settimeout(0.1)
            with contextlib.suppress(OSError):
                sock.recv(100)
            sock.close()
            yield 1


def lingering(listener: socket.socket, taken: deque[socket.socket]) -> socket.socket:
    """Return a socket whose close takes eight seconds: its peer does not read, and SO_LINGER makes the close wait."""
    sock = socket.create_connection(listener.getsockname())
    other, _ = listener.accept()
    taken.append(other)
    if len(taken) > _LINGERING:
        taken.popleft().close()
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            sock.send(bytes(65536))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 8))
    return sock


def linger(scene: Scene) -> Iterator[int]:
    """Send sockets that take eight seconds to close."""
    taken: deque[socket.socket] = deque()
    kinds = (WHO, SELF, b"garbage\0", WHO[:10])
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        number = 0
        while True:
            number += 1
            slow = lingering(listener, taken)
            with contextlib.suppress(OSError), connection(scene) as sock:
                for _ in range(4):
                    ancillary.send(sock, kinds[number % 4], [slow.fileno()] * (1 + number % 3))
            # Our socket is non-blocking, so this close does not wait.
            slow.close()
            yield 1


def strangers(scene: Scene) -> Iterator[int]:
    """Send descriptors that are no pidfds, and too many of them."""
    pair = socket.socketpair()
    fds = [
        *os.pipe(),
        os.memfd_create("a"),
        os.eventfd(0),
        select.epoll().fileno(),
        os.open("/", os.O_PATH),
        os.open("/dev/null", os.O_RDWR),
        os.open("/proc/self/ns/net", os.O_RDONLY),
        *(sock.fileno() for sock in pair),
    ]
    with contextlib.suppress(OSError):
        fds.append(os.open("/dev/ptmx", os.O_RDWR))
    ask = open_call(pidFileDescriptor=0)
    while True:
        with contextlib.suppress(OSError), connection(scene) as sock:
            for count in (1, 5, 50, 253):
                for _ in range(4):
                    ancillary.send(sock, ask, (fds * 30)[:count])
                    yield count
                while read(sock) == 0:
                    pass


def pidfds(scene: Scene) -> Iterator[int]:
    """Send pidfds of processes that are ending, that have ended, or that are not the user's."""
    ask = open_call(pidFileDescriptor=0)
    others = os.pidfd_open(1)
    while True:
        with contextlib.suppress(OSError), connection(scene) as sock:
            for _ in range(20):
                child = os.fork()
                if child == 0:
                    os._exit(0)
                mine = os.pidfd_open(child)
                for fd in (mine, others):
                    ancillary.send(sock, ask, [fd])
                os.waitpid(child, 0)
                ancillary.send(sock, ask, [mine])
                os.close(mine)
                answers = 0
                while answers < 3:
                    answers += read(sock)
                yield 3


def garbage(scene: Scene) -> Iterator[int]:
    """Send data that is no message, or a message that is too long or nested too deeply."""
    rubbish = (
        b"x" * 100 + b"\0",
        b"{" * 60_000 + b"\0",
        b'{"method":"a","parameters":' + b"[" * 17 + b'"' + b'\\"' * 32000 + b"\0",
        b'{"method":"a"' + b',"x.y":1' * 7000 + b"}\0",
        b"\0" * 65536,
        b"\xff" * 1000 + b"\0",
        b'{"method":"io.nsbroker.Broker.Open","parameters":{"target":{"pid":' + b"9" * 60_000 + b"}}}\0",
        b'{"method":"io.nsbroker.Broker.Explain","parameters":{"target":{"self":true},"sockets":['
        + b'"inet:stream",' * 4500
        + b'"a"]}}\0',
        b" " * 70_000,
    )
    while True:
        for one in rubbish:
            with contextlib.suppress(OSError), connection(scene) as sock:
                sock.sendall(one)
                yield 1
                sock.settimeout(0.5)
                read(sock)


def oob(scene: Scene) -> Iterator[int]:
    """Send out-of-band bytes, which varlink does not have."""
    while True:
        with contextlib.suppress(OSError), connection(scene) as sock:
            for _ in range(10):
                sock.send(b"x", socket.MSG_OOB)
                yield 1


def urgent(scene: Scene) -> Iterator[int]:
    """Send sockets that take eight seconds to close, each with an out-of-band byte that the next call makes the kernel drop."""
    taken: deque[socket.socket] = deque()
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        while True:
            slow = lingering(listener, taken)
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", slow.fileno()))
            with contextlib.suppress(OSError), connection(scene) as sock:
                # While a refusal waits for its time, the broker does not read, so the rest arrives together.
                sock.send(open_call(pid=1))
                sock.sendmsg([b"x"], [rights], socket.MSG_OOB)
                sock.send(WHO)
            slow.close()
            yield 1


def explain(scene: Scene, number: int) -> bytes:
    """Return a call of Explain about a thousand kinds of sockets."""
    kinds = [f"inet{'6' * (port % 2)}:{kind}:{port}" for port in range(1, 500) for kind in ("stream", "dgram")]
    return message("Explain", {"target": {"name": f"x{number}"}, "sockets": kinds})


def longest(scene: Scene, number: int) -> bytes:
    """Return a call with a name or path of the greatest length, a different one each time."""
    tail = f"{number:08x}"
    return (
        open_call(name="n" * 247 + tail),
        open_call(container="c" * 247 + tail),
        open_call(path="/" + "p/" * 2040 + tail),
        open_call(unit="u" * 239 + tail + ".service"),
    )[number % 4]


def dashes(scene: Scene, number: int) -> bytes:
    """Return a call whose name takes as many steps as possible to match with a pattern with several stars."""
    tail = f"{number:06x}"
    return (open_call(name="web-" + "-" * 240 + tail), open_call(container="web-" + "-" * 240 + tail))[number % 2]


def dash_paths(scene: Scene, number: int) -> bytes:
    """Return such a call with a path."""
    return open_call(path="/run/netns/" + "-" * 4000 + f"{number:06x}")


def own_engines(scene: Scene) -> Iterator[int]:
    """Have own engines: a docker that never replies, and a crun with a thousand made-up containers."""
    place = f"/run/user/{os.getuid()}"
    crun = f"{place}/crun"
    with contextlib.suppress(FileExistsError):
        os.mkdir(crun)
        for number in range(_STATUSES):
            os.mkdir(f"{crun}/c{number}")
            with open(f"{crun}/c{number}/status", "w") as file:
                json.dump({"pid": 2 + number, "process-start-time": number}, file)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{place}/docker.sock")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{place}/docker.sock")
    listener.listen(100)
    calls = [
        message("ListContainers", more=True),
        open_call(container="c7"),
        open_call(container="c7", engine="crun"),
        message("List", more=True),
    ]
    yield from pipelines(scene, lambda _: calls, _FEW)


def creations(scene: Scene) -> Iterator[int]:
    """Create namespaces without end."""
    calls = [message("Create", {"types": [ns_type]}) for ns_type in ("net", "ipc", "uts", "mnt", "cgroup")]
    return pipelines(scene, lambda _: calls, _FEW)


def holds(scene: Scene) -> Iterator[int]:
    """Hold namespaces, list them and release them."""
    calls = []
    for number in range(_FEW):
        name = f"held-{number}"
        calls += [
            message("Create", {"types": ["uts"], "name": name}),
            message("ListHeld", more=True),
            message("Release", {"name": name}),
        ]
    return pipelines(scene, lambda _: calls, _FEW)


def family(scene: Scene) -> Iterator[int]:
    """Start and end hundreds of processes with their own user namespaces, while listing namespaces."""
    children: deque[int] = deque()
    lists = same(message("List", more=True), connections=2, batch=1)(scene)
    while True:
        for _ in range(4):
            child = os.fork()
            if child == 0:
                with contextlib.suppress(OSError):
                    ctypes_unshare(0x10000000)
                time.sleep(1000)
                os._exit(0)
            children.append(child)
            if len(children) > 300:
                gone = children.popleft()
                os.kill(gone, signal.SIGKILL)
                os.waitpid(gone, 0)
        yield next(lists)


def ctypes_unshare(flags: int) -> None:
    """Call unshare(2), for which Python 3.11 has no function."""
    import ctypes

    if ctypes.CDLL(None, use_errno=True).unshare(flags) < 0:
        raise OSError(ctypes.get_errno(), "unshare")


# Root's own work.


_CHURNED = "soak-"


def churn(scene: Scene) -> Iterator[int]:
    """Make and remove dozens of containers and named networks."""
    number = 0
    while True:
        number += 1
        names = [f"{_CHURNED}{os.getpid()}-{number}-{each}" for each in range(_DOZENS)]
        for name in names:
            if scene.bundle is not None:
                run_container(scene.bundle, name)
            run_quietly(["ip", "netns", "add", name])
            yield 1
        for name in names:
            if scene.bundle is not None:
                delete_container(name)
            run_quietly(["ip", "netns", "del", name])
            yield 1


_SMALL = '[[allow]]\nname = "small"\nwho = ["user:4999"]\ntargets = ["name:x"]\nnamespaces = ["net"]\n'
_BROKEN = ("[[allow]", "nonsense = 1", "a = " + "[" * 5000, '[[allow]]\nname = "root"\nwho = "everyone"\ntargets = ["*"]\n')
_HUGE = "".join(_SMALL.replace("small", f"huge-{number}").replace("name:x", f"name:x-{number}-*") for number in range(5000))


def reloads(scene: Scene) -> Iterator[int]:
    """Change and reload the policy a few times a second; every second version is broken."""
    pause = 0.2 if scene.alone else 2
    try:
        while True:
            with scene.policy_lock():
                scene.write_policy("reloads", _BROKEN[random.randrange(len(_BROKEN))])
                scene.host.reload()
                yield 1
                time.sleep(pause)
                scene.write_policy("reloads", _SMALL)
            scene.host.reload()
            yield 1
            time.sleep(pause)
    finally:
        scene.remove_policy("reloads")


def huge(scene: Scene) -> Iterator[int]:
    """Add and remove a policy of five thousand rules."""
    while True:
        scene.write_policy("huge", _HUGE)
        scene.host.reload()
        yield 1
        time.sleep(3 if scene.alone else 10)
        scene.remove_policy("huge")
        scene.host.reload()
        yield 1
        time.sleep(3 if scene.alone else 50)


def hangups(scene: Scene) -> Iterator[int]:
    """Send storms of SIGHUP."""
    while True:
        for _ in range(50):
            scene.host.reload()
            yield 1
        time.sleep(0.2 if scene.alone else 20)


def stopped(scene: Scene) -> Iterator[int]:
    """Ask for containers of a stopped engine of root, as root, one call after the other."""
    questions = (open_call(container="web", engine="docker"), open_call(container="web"))
    with connection(scene) as sock:
        while True:
            for question in questions:
                sock.sendall(question)
                read(sock)
                yield 1
                time.sleep(0.02)


def journal(scene: Scene) -> Iterator[int]:
    """Stop the reader of the audit records for a second now and then."""
    while True:
        time.sleep(4 if scene.alone else 45)
        with scene.interruption():
            scene.host.stop_records(1.0)
        yield 1


def restarts(scene: Scene) -> Iterator[int]:
    """Restart the daemon every ten seconds, or every minute when other attacks run, too."""
    time.sleep(10)
    while True:
        with scene.policy_lock(), scene.interruption():
            scene.host.restart()
        yield 1
        time.sleep(10 if scene.alone else 60)


def _rule(*targets: str, **more: Sequence[str]) -> str:
    lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in more.items())
    return f'[[allow]]\nname = "{{name}}"\nwho = ["user:{{user}}"]\ntargets = {json.dumps(targets)}\n{lines}'


_ME = {"self": True}
_STARTED = message("Open", {"target": _ME, "types": ["net"], "expect": {"startTime": 1}})
_SOCKET = message("OpenSocket", {"target": _ME, "family": "inet", "type": "stream"})
_DEVICES = (message("ListDevices", {"target": _ME}), message("OpenDevice", {"target": _ME, "name": "null", "access": "read"}))
_FILES = tuple(message("OpenFile", {"target": _ME, "name": name}) for name in ("hosts", "net/dev", "net/tcp"))
_INTERFACES = tuple(
    message("AddInterface", {"target": _ME, "kind": kind, "name": "soak0", **more})
    for kind, more in (("tap", {}), ("veth", {"peer": {"target": _ME, "name": "soak1"}}))
)

ATTACKS = (
    Attack("connect", "connect and close", connect),
    Attack("crowd", "more silent connections than are let in", crowd),
    Attack("whoami", "256 pipelines of WhoAmI", same(WHO)),
    Attack("open", "256 pipelines of Open self, eight types", same(SELF)),
    Attack("deaf", "256 clients call and never read", deaf),
    Attack("halves", "256 messages that never end", halves),
    Attack("garbage", "rubbish: too long, too deep, no JSON", garbage),
    Attack("oob", "out-of-band bytes", oob),
    Attack("linger", "sockets that take 8 s to close are sent", linger),
    Attack("urgent", "the same with out-of-band bytes", urgent),
    Attack("strangers", "up to 253 descriptors that are no pidfds", strangers),
    Attack("pidfds", "pidfds of the dead and of others", pidfds),
    Attack("denied", "256 pipelines of what no rule allows", same(open_call(pid=1), open_call(name="no-such"))),
    Attack("longest", "targets of the greatest length, all different", fresh(longest)),
    Attack(
        "stars",
        "name:web-*-*-prod against 250 dashes",
        fresh(dashes, _FEW, 2),
        rules=_rule("name:web-*-*-prod", "container:web-*-*-prod", namespaces=["net"]),
    ),
    Attack(
        "paths",
        "path:/run/netns/*-*-prod against 4000 dashes",
        fresh(dash_paths, _FEW, 2),
        rules=_rule("path:/run/netns/*-*-prod", namespaces=["net"]),
    ),
    Attack("explain", "Explain of a thousand kinds of sockets", fresh(explain, _FEW, 2)),
    Attack(
        "ids", "searches for namespaces by id", fresh(lambda _, number: open_call(namespace=f"net:[{4026530000 + number % 9999}]"))
    ),
    Attack(
        "units",
        "Open unit:..., a different unit each time",
        fresh(lambda _, number: open_call(unit=f"no{number}.service")),
        rules=_rule("unit:*.service", namespaces=["net"]),
    ),
    Attack("starts", "Open with a start time, read on threads", same(_STARTED)),
    Attack("sockets", "256 pipelines of OpenSocket self", same(_SOCKET), rules=_rule("own", sockets=["inet:stream"])),
    Attack("devices", "pipelines of ListDevices and OpenDevice", same(*_DEVICES), rules=_rule("own", devices=["null", "zero"])),
    Attack("files", "256 pipelines of OpenFile", same(*_FILES), rules=_rule("own", files=["hosts", "net/dev", "net/tcp"])),
    Attack("interfaces", "256 pipelines of AddInterface", same(*_INTERFACES), rules=_rule("own", interfaces=["veth", "tap"])),
    Attack("create", "namespaces without end", creations),
    Attack("holds", "Create, ListHeld, Release", holds, rules=_rule("name:held-*", namespaces=["uts"])),
    Attack("lists", "List to its end on 256 connections", same(message("List", more=True), batch=1)),
    Attack("hangup", "List, and hang up", hangup),
    Attack("watch", "256 watches, and more of them", same(message("Watch", more=True), batch=1)),
    Attack("family", "processes come and go while lists are made", family),
    Attack("engines", "the user's own silent docker and 1000 made-up containers", own_engines, home=True),
    Attack(
        "docker",
        "a user's calls query a stopped engine of root",
        same(open_call(container="web", engine="docker"), connections=_FEW, batch=2),
        rules=_rule("docker:web*", "container:web*", namespaces=["net"]),
    ),
    Attack("stopped", "root's calls query a stopped engine of root", stopped, root=True),
    Attack("churn", "containers and networks by dozens", churn, root=True),
    Attack("reloads", "policies good and broken", reloads, root=True),
    Attack("huge", "a policy of 5000 rules comes and goes", huge, root=True),
    Attack("hangups", "storms of SIGHUP", hangups, root=True),
    Attack("journal", "the reader of the records stops for 1 s", journal, root=True),
    Attack("restarts", "the daemon is restarted", restarts, root=True, booted=True),
)
"""In the order of the table."""


def uid_of(attack: Attack) -> int:
    """Return the uid of the attacker."""
    return 0 if attack.root else FIRST_ATTACKER + ATTACKS.index(attack)


def rules_of(attacks: Sequence[Attack]) -> str:
    """Return the rules that the attackers need in the policy."""
    return "\n".join(one.rules.format(name=f"attack-{one.name}", user=uid_of(one)) for one in attacks)


def prepare(attack: Attack, scene: Scene, stack: contextlib.ExitStack) -> None:
    """Set up, as root, what the attack needs, until `stack` is closed."""
    if attack.home:
        add_user(scene, uid_of(attack))
    if attack.name in ("docker", "stopped") and not os.path.lexists(_DOCKER_SOCKET):
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(_DOCKER_SOCKET)
        stack.callback(os.unlink, _DOCKER_SOCKET)
        # Connections wait in its queue and nobody accepts them, as with a stopped server.
        listener.listen(4)


def release(scene: Scene) -> None:
    """Remove what outlives the attackers: what the broker holds for them, policies, containers and networks."""
    for place, delete in (("/run/crun", delete_container), ("/run/netns", lambda name: run_quietly(["ip", "netns", "del", name]))):
        for name in os.listdir(place) if os.path.isdir(place) else ():
            if name.startswith(_CHURNED):
                delete(name)
    scene.host.resume_records()
    for name in ("reloads", "huge"):
        scene.remove_policy(name)
    scene.host.reload()
    with contextlib.suppress(NsbrokerError), connect_client(scene.address, timeout=10) as broker:
        for name in {held.name for held in broker.held()}:
            with contextlib.suppress(NsbrokerError):
                broker.release(name)


def turns_of(attack: Attack, scene: Scene) -> Callable[[], Iterator[int]]:
    """Return the function that starts the turns of an attack, for `crew.attack`."""
    return partial(attack.turns, scene)
