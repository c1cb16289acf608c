"""Make a million calls of Open, and a hundred thousand of OpenSocket, and see what the broker has left of them.

usage: python -m tests.soak.calls [--opens N] [--sockets N] [--seed N]

Targets, types and families are chosen at random, among them many that are refused or wrong.  Calls come alone and in batches, and
some clients hang up in the middle.  Each socket that arrives is checked to be in the right network.
"""

import argparse
import os
import random
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec

from nsbroker.cli.output import print_table
from nsbroker.linux import ancillary, descriptors
from nsbroker.linux.socket_options import network_namespace
from nsbroker.model.identity import NamespaceType
from nsbroker.varlink.framing import END, Frame, Inbox
from tests.soak.report import Criterion, print_result
from tests.world import Daemon, Sleeper, named_network

_GROWTH = 1024 * 1024
_BATCH = 24
_CALLERS = 8
_SETTLE = 2.0
_WARM_UP = 0.05
_REPORT = 10.0
_FAMILIES = [
    ("inet", "stream"), ("inet", "dgram"), ("inet6", "stream"), ("inet6", "dgram"), ("unix", "stream"), ("unix", "seqpacket"),
    ("netlink", "raw"), ("packet", "raw"), ("inet", "raw"), ("vsock", "seqpacket"),
]  # fmt: skip
_TYPES = [str(one) for one in NamespaceType]


class Caller:
    """One connection to the broker, which is replaced when it was broken off.  It closes all descriptors that it receives."""

    def __init__(self, daemon: Daemon, networks: dict[str, int], chance: random.Random) -> None:
        self._daemon = daemon
        self._networks = networks
        self._chance = chance
        self._sock = daemon.raw()
        self._buffer = bytearray(1 << 16)
        self.answers: Counter[str] = Counter()
        self.wrong: list[str] = []

    def close(self) -> None:
        """Close the connection."""
        self._sock.close()

    def run(self, calls: list[tuple[str, str, bytes]]) -> None:
        """Make these calls (method, target, bytes), and read the replies; now and then, hang up before they have all come."""
        self._sock.sendall(b"".join(data for _, _, data in calls))
        hangs_up = self._chance.random() < 0.03
        inbox = Inbox()
        try:
            for method, target, _ in calls[: self._chance.randrange(len(calls)) if hangs_up else len(calls)]:
                while (frame := inbox.next_frame()) is None:
                    data, fds = ancillary.receive_piece(self._sock, self._buffer, END)
                    if not data:
                        raise ConnectionError("the broker hung up")
                    inbox.feed(data, fds)
                try:
                    self._check(method, target, frame)
                finally:
                    descriptors.close_all(frame.fds)
        finally:
            inbox.close()
        if hangs_up:
            self._sock.close()
            self._sock = self._daemon.raw()

    def _check(self, method: str, target: str, reply: Frame) -> None:
        error = msgspec.json.decode(reply.data).get("error", "")
        self.answers[f"{method} {error.rpartition('.')[2] or 'allowed'}"] += 1
        if method != "OpenSocket" or not reply.fds:
            return
        with socket.socket(fileno=os.dup(reply.fds[0])) as sock:
            fd = network_namespace(sock)
            try:
                found = os.fstat(fd).st_ino
            finally:
                os.close(fd)
        if found != self._networks[target]:
            self.wrong.append(f"{target}: a socket in net:[{found}]")


def targets(stack: ExitStack) -> tuple[list[tuple[str, dict[str, Any]]], dict[str, int]]:
    """Make processes and a named network.  Returns targets, also some that do not exist, and the networks of those that do."""
    named = f"calls-{os.getpid()}"
    place = stack.enter_context(named_network(named))
    sleepers = [stack.enter_context(Sleeper()) for _ in range(4)]
    networks = {f"pid:{one.pid}": one.inode("net") for one in sleepers} | {f"name:{named}": place.stat().st_ino}
    found: list[tuple[str, dict[str, Any]]] = [(f"pid:{one.pid}", {"pid": one.pid}) for one in sleepers]
    found += [(f"name:{named}", {"name": named}), ("name:nothing", {"name": "nothing"}), ("pid:gone", {"pid": 4_000_000})]
    found += [("both", {"pid": 1, "name": "x"}), ("none", {}), ("wrong", {"pid": -1}), ("dots", {"name": "../../x"})]
    return found, networks


def make_call(method: str, chance: random.Random, known: list[tuple[str, dict[str, Any]]]) -> tuple[str, str, bytes]:
    """Return a random call of a method, with its target."""
    name, target = chance.choice(known)
    if method == "Open":
        types = chance.sample(_TYPES, chance.choice((1, 1, 1, 2, 8)))
        parameters: dict[str, Any] = {"target": target, "types": types if chance.random() < 0.95 else ["nothing"]}
    else:
        family, kind = chance.choice(_FAMILIES)
        parameters = {"target": target, "family": family, "type": kind}
        if family.startswith("inet") and kind == "stream" and chance.random() < 0.2:
            parameters["bind"] = {"address": "127.0.0.1" if family == "inet" else "::1", "port": chance.choice((80, 8080, 70_000))}
        if chance.random() < 0.05:
            parameters["protocol"] = chance.choice((1, 6, 17, 1234, -1))
    return method, name, msgspec.json.encode({"method": f"io.nsbroker.Broker.{method}", "parameters": parameters}) + b"\0"


def batches(opens: int, sockets: int, chance: random.Random) -> Iterator[list[str]]:
    """Return the methods of all calls in random order, in batches of random size."""
    while opens or sockets:
        size = min(chance.choice((1, 1, 4, _BATCH)), opens + sockets)
        methods = []
        for _ in range(size):
            is_open = chance.random() * (opens + sockets) < opens
            opens, sockets = opens - is_open, sockets - (not is_open)
            methods.append("Open" if is_open else "OpenSocket")
        yield methods


def run(
    daemon: Daemon,
    networks: dict[str, int],
    known: list[tuple[str, dict[str, Any]]],
    chance: random.Random,
    opens: int,
    sockets: int,
) -> tuple[Counter[str], list[str]]:
    """Make the calls, each batch by another of some clients, which are then gone, and print a line now and then.

    Returns how often there was each answer, and what was wrong.
    """
    callers = [Caller(daemon, networks, chance) for _ in range(_CALLERS)]
    began = said = time.monotonic()
    done, total = 0, opens + sockets
    for methods in batches(opens, sockets, chance):
        chance.choice(callers).run([make_call(method, chance, known) for method in methods])
        done += len(methods)
        if time.monotonic() - said > _REPORT:
            said = time.monotonic()
            print(f"{done:9} of {total} calls, {done / (said - began):.0f} a second, {daemon.memory() / 2**20:.2f} MiB", flush=True)
    for one in callers:
        one.close()
    time.sleep(_SETTLE)
    return sum((one.answers for one in callers), Counter[str]()), [text for one in callers for text in one.wrong]


def main() -> int:
    """Parse the arguments, make the calls, and print what is left.  Return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--opens", type=int, default=1_000_000, help="the number of calls of Open (default: 1000000)")
    parser.add_argument("--sockets", type=int, default=100_000, help="the number of calls of OpenSocket (default: 100000)")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000, help="repeat the calls of a run")
    options = parser.parse_args()
    chance = random.Random(options.seed)
    print(f"seed {options.seed}", flush=True)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.chmod(0o755)
        daemon = stack.enter_context(Daemon(folder))
        known, networks = targets(stack)
        # A part of the calls comes first, so that everything that stays is there before it is measured.
        run(daemon, networks, known, chance, int(options.opens * _WARM_UP), int(options.sockets * _WARM_UP))
        before, memory = daemon.snapshot(), daemon.memory()
        network = os.stat(f"/proc/{daemon.pid}/ns/net").st_ino
        answers, wrong = run(daemon, networks, known, chance, options.opens, options.sockets)
        after, growth = daemon.snapshot(), daemon.memory() - memory
        home = os.stat(f"/proc/{daemon.pid}/ns/net").st_ino == network
        faults = [line for line in daemon.words() if "internal error" in line]
    for answer, count in sorted(answers.items()):
        print(f"{count:9} {answer}")
    for line in [*wrong[:10], *faults[:10]]:
        print(f"error: {line}")
    left = "nothing" if before == after else before.difference(after)[:200]
    criteria = [
        Criterion("sockets in a wrong network", "0", str(len(wrong)), not wrong),
        Criterion("fds and threads left, when all clients have gone", "nothing", left, before == after),
        Criterion("memory", "<= 1 MiB more", f"{growth / 2**20:.2f} MiB", growth <= _GROWTH),
        Criterion("the event loop's thread is in its own network", "yes", "yes" if home else "no", home),
        Criterion("faults that the daemon logged", "0", str(len(faults)), not faults),
    ]
    print_table(
        ["criterion", "limit", "found", ""], [[one.what, one.limit, one.found, "yes" if one.met else "NO"] for one in criteria]
    )
    return print_result(criteria)


if __name__ == "__main__":
    sys.exit(main())
