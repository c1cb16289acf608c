"""Replace containers again and again, while processes inside ask the broker who they are.

usage: tests/private-host tests/in-own-pids python -m tests.engines.replacements COUNT    (or `make test-replacements`)

The first process of one container is killed, and its state file stays.  Another container is started, whose first process gets the
very same number.  Then a new container takes the name of the first one.  Nobody may ever be taken for a process of the wrong
container.
"""

import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from nsbroker.client.blocking import Broker, connect
from nsbroker.errors import NsbrokerError, PermissionDenied
from nsbroker.linux.process import Process
from tests.engines.real import WORK, Crun, run
from tests.world import ALICE, Daemon, as_user, eventually, named_network

# All who test on this machine share its control groups.
_SUFFIX = os.urandom(4).hex()
ALLOWED, OTHER = f"replaced-{_SUFFIX}", f"neighbour-{_SUFFIX}"
"""The names of the containers.  The rule is for the first one."""
Answer = tuple[str, str | None]
"""What a process gets of the target, and in which container the broker sees it."""
_LAST_PID = Path("/proc/sys/kernel/ns_last_pid")
_PATIENCE = 60.0


class Groups:
    """The control groups of a container.  The next container with the same name has them again."""

    def __init__(self, pid: int) -> None:
        """Read them from the container's first process."""
        self._places: list[tuple[Path, str]] = []
        with Process.open(pid) as process:
            groups = process.cgroups()
        for hierarchy, path in groups.items():
            top = Path("/sys/fs/cgroup") / (hierarchy.removeprefix("name=") or "unified")
            if hierarchy == "" and not top.exists():
                top = Path("/sys/fs/cgroup")
            if (top / "cgroup.procs").exists():
                self._places.append((top, path))

    def enter(self) -> bool:
        """Move this process into them, as root.  Returns False when they do not exist at the moment."""
        with as_root():
            try:
                for top, path in self._places:
                    Path(f"{top}{path}/cgroup.procs").write_text(str(os.getpid()))
            except OSError:
                return False
        return True

    def leave(self) -> None:
        """Move this process out of them, as root."""
        with as_root():
            for top, _ in self._places:
                (top / "cgroup.procs").write_text(str(os.getpid()))


@contextlib.contextmanager
def as_root() -> Iterator[None]:
    """Have the effective uid 0 meanwhile, which decides what this process may write.  Whom the broker sees is always ALICE."""
    os.seteuid(0)
    try:
        yield
    finally:
        os.seteuid(ALICE)


def ask(broker: Broker, target: str) -> Answer:
    """Ask for a namespace of the target, and for the own container."""
    container = broker.who_am_i().container
    try:
        broker.open(target, "net").close()
    except PermissionDenied:
        return "denied", container
    return "allowed", container


def check(answer: Answer, name: str) -> None:
    """Check what a process was told that is in the groups of the container `name`, whatever state that is in."""
    verdict, container = answer
    assert container in (None, f"crun:{name}"), f"a process in {name} was taken for one in {container}"
    assert verdict == "denied" or name == ALLOWED, f"a process in {name} got what only {ALLOWED} may have"


class Place(NamedTuple):
    """Where a peer is, and whom it asks for what."""

    address: str
    target: str
    name: str
    groups: Groups


def visit(place: Place) -> int:
    """Enter the container, ask, leave it and ask once more.  Returns how many answers there were."""
    if not place.groups.enter():
        return 0
    with connect(place.address, timeout=_PATIENCE) as broker:
        for _ in range(3):
            check(ask(broker, place.target), place.name)
        place.groups.leave()
        left = ask(broker, place.target)
        assert left == ("denied", None), f"a process that has left {place.name} is still taken for one in it: {left}"
    return 4


class Peer:
    """A process that visits a container again and again.  When the container is removed, it is killed with it."""

    def __init__(self, place: Place, log: Path) -> None:
        self._place, self._log = place, log
        self._pid = 0

    def start(self) -> None:
        """Start it, unless it runs."""
        if self._pid and os.waitpid(self._pid, os.WNOHANG) == (0, 0):
            return
        self._pid = os.fork()
        if self._pid:
            return
        try:
            with open(self._log, "a", buffering=1) as log:
                os.setresuid(ALICE, ALICE, 0)
                while True:
                    try:
                        log.write(f"{visit(self._place)}\n")
                    except NsbrokerError as error:
                        log.write(f"0 {type(error).__name__}\n")
                    except BaseException as error:
                        log.write(f"wrong: {type(error).__name__}: {error}\n")
                        raise
        finally:
            os._exit(1)

    def answers(self) -> int:
        """Return how many answers it got.  Fails when one of them was wrong."""
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        assert not any(line.startswith("wrong") for line in lines), lines[-1]
        return sum(int(line.split()[0]) for line in lines if line[:1].isdigit())

    def stop(self) -> None:
        """End it."""
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)


class Replacements:
    """Two containers that are replaced in turn."""

    def __init__(self, engine: Crun, places: dict[str, Place]) -> None:
        self._engine, self._places = engine, places
        self._ahead = 3
        self.reused = 0

    def replace(self, ended: str, follower: str) -> None:
        """End one container, give the number of its first process to the other one, and make the first one anew."""
        number = self._engine.pid(ended)
        os.kill(number, signal.SIGKILL)
        eventually(lambda: not Path(f"/proc/{number}").exists(), "the number is free")
        remove(self._engine, follower)
        # The kernel gives the next number to the runtime, and then come those of the runtime's own processes.
        if _LAST_PID.exists():
            _LAST_PID.write_text(str(number - self._ahead))
        self._engine.make(follower)
        found = self._engine.pid(follower)
        self.reused += found == number
        self._ahead = max(1, self._ahead + found - number) if abs(found - number) < 20 else 3
        self._check_inside(follower)
        self._check_ended(ended)
        remove(self._engine, ended)
        self._engine.make(ended)
        self._check_inside(ended)

    def _check_inside(self, name: str) -> None:
        """Check that a process inside is taken for what it is."""
        expected = ("allowed" if name == ALLOWED else "denied", f"crun:{name}")
        eventually(lambda: inside(self._places[name]) == expected, f"a process in {name} gets {expected}")

    def _check_ended(self, name: str) -> None:
        """Check that what is left of a container whose first process has ended is taken for nothing."""
        assert inside(self._places[name]) in (None, ("denied", None)), name


def inside(place: Place) -> Answer | None:
    """Return what a new process inside is told; None when there are no such groups, or it ended with them."""

    def work() -> Answer | None:
        os.setresuid(ALICE, ALICE, 0)
        if not place.groups.enter():
            return None
        with connect(place.address, timeout=_PATIENCE) as broker:
            answer = ask(broker, place.target)
        check(answer, place.name)
        place.groups.leave()
        return answer

    return as_user(0, work)


def remove(engine: Crun, name: str) -> None:
    """Remove a container.  This can take several attempts, because processes enter its groups meanwhile."""

    def is_removed() -> bool:
        with contextlib.suppress(AssertionError):
            run(engine.programs[0], "delete", "-f", name)
        return not Path(f"/run/crun/{name}").exists()

    eventually(is_removed, f"{name} is removed")


def main(count: int) -> None:
    """Replace `count` containers, and print what happened."""
    with contextlib.ExitStack() as stack:
        WORK.mkdir(exist_ok=True)
        engine = Crun()
        engine.start()
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.chmod(0o755)
        # What an engine answers is not to depend on how busy the machine is.
        daemon = stack.enter_context(Daemon(folder, limits="engine-deadline = 60.0", prefix=["env"]))
        network = f"target-{_SUFFIX}"
        stack.enter_context(named_network(network))
        target = f"name:{network}"
        daemon.allow("inside", who=[f"crun:{ALLOWED}"], targets=[target], namespaces=["net"])
        places = {}
        for name in (ALLOWED, OTHER):
            engine.make(name)
            stack.callback(remove, engine, name)
            places[name] = Place(daemon.address, target, name, Groups(engine.pid(name)))
        peers = [Peer(place, folder / f"answers-{name}") for name, place in places.items()]
        for peer in peers:
            peer.start()
            stack.callback(peer.stop)
        replacements = Replacements(engine, places)
        for number in range(count):
            replacements.replace(*((ALLOWED, OTHER) if number % 2 else (OTHER, ALLOWED)))
            for peer in peers:
                peer.start()
            if number % 100 == 99:
                print(f"{number + 1} replacements", flush=True)
        eventually(lambda: all(peer.answers() for peer in peers), "each peer got answers")
        answers = sum(peer.answers() for peer in peers)
        print(f"{count} replacements, {replacements.reused} with the number of another process; {answers} answers, none wrong")


if __name__ == "__main__":
    main(int(sys.argv[1]))
