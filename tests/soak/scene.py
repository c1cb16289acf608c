"""What clients and attackers work with: the broker, a network and a container of the innocent user, and users."""

import contextlib
import fcntl
import json
import os
import pwd
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from nsbroker.namespace import Namespace
from tests.snapshot import Snapshot
from tests.systemd.unit import ADDRESS, Unit
from tests.world import Daemon

ROOT = 0
INNOCENT = 4100
FIRST_ATTACKER = 4200
SLEEP = ("/bin/busybox", "sleep", "100000")
RULE = """
[[allow]]
name = "innocent"
who = ["user:4100"]
targets = ["name:innocent", "crun:innocent-*"]
namespaces = ["net"]
sockets = ["inet:stream"]
"""
_SO_NETNS_COOKIE = 71
_PATIENCE = 30.0
_INTERRUPTIONS = "interruptions"
_POLICY_LOCK = "policy.lock"
_CUT_SHORT = 2.0


class Host(Protocol):
    """A running broker, and ways to control it."""

    address: str
    config: Path
    """The folder with `nsbroker.d` in it."""

    @property
    def pid(self) -> int:
        """The pid of the daemon; 0 when it does not run at the moment."""

    def reload(self) -> None:
        """Make the daemon reload the policy, without waiting for the result."""

    def restart(self) -> None:
        """Restart the daemon."""

    def stop_records(self, seconds: float) -> None:
        """Stop the reader of the audit records for some seconds."""

    def resume_records(self) -> None:
        """Continue the reader of the audit records, in case the process that stopped it was killed meanwhile."""

    def faults(self) -> list[str]:
        """Return the faults that the daemon logged."""


class PlainHost(Daemon):
    """`nsbroker serve` without systemd.  A program drops the audit records, so that an hour of them does not fill the disk."""

    def __init__(self, folder: Path) -> None:
        # Like a service of systemd, the daemon gets a session of its own.  The kernel gives it the same share of each processor
        # as all attackers together (autogroups in sched(7)).
        super().__init__(folder, prefix=["setsid"])
        os.mkfifo(self._log)
        self._kept = folder / "said"
        self._reader: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        # The log is a FIFO.  `start` opens it for writing, which blocks until the reader has opened it, too.
        with open(self._kept, "ab") as kept:
            command = ["grep", "--line-buffered", "--invert-match", "^{", str(self._log)]
            # It gets a session of its own, too, since the journal also has its own share of the processors.
            self._reader = subprocess.Popen(command, stdout=kept, start_new_session=True)
        super().start()

    def words(self) -> list[str]:
        return self._kept.read_text(errors="replace").splitlines() if self._kept.exists() else []

    def reload(self) -> None:
        os.kill(self.pid, signal.SIGHUP)

    def restart(self) -> None:
        self.stop()
        self.start()

    def stop(self, number: int = signal.SIGTERM) -> int:
        code = super().stop(number)
        if self._reader is not None:
            self._reader.wait()
            self._reader = None
        return code

    def stop_records(self, seconds: float) -> None:
        assert self._reader is not None
        # The caller may be a forked process that is not the parent of the reader, so use the pid.
        os.kill(self._reader.pid, signal.SIGSTOP)
        time.sleep(seconds)
        self.resume_records()

    def resume_records(self) -> None:
        if self._reader is not None:
            os.kill(self._reader.pid, signal.SIGCONT)

    def faults(self) -> list[str]:
        return [line for line in self.words() if "internal error:" in line]


class UnitHost:
    """The unit that ships with nsbroker, in a booted systemd."""

    def __init__(self) -> None:
        self.address = ADDRESS
        self.config = Path("/etc/nsbroker")
        self._unit = Unit(str(Path(sys.executable).with_name("nsbroker")))
        self._since = f"@{time.time():.0f}"

    def __enter__(self) -> "UnitHost":
        program = self._unit.program
        self._unit.run(program, "install-units")
        self._unit.run("systemctl", "enable", "--now", "nsbroker.socket")
        (self.config / "nsbroker.d").mkdir(parents=True, exist_ok=True)
        self._unit.run("systemctl", "start", "nsbroker.service")
        return self

    def __exit__(self, *_: object) -> None:
        self._unit.clear()
        self._unit.run(self._unit.program, "remove-units")

    @property
    def pid(self) -> int:
        return self._unit.pid

    def reload(self) -> None:
        # Like `systemctl reload`, this leaves out a process that is only starting: it does not handle the signal yet, which would
        # end it.
        shown = self._unit.run("systemctl", "show", "--property", "MainPID,ActiveState", "nsbroker.service")
        now = dict(line.split("=", 1) for line in shown.splitlines())
        if now["ActiveState"] == "active":
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(now["MainPID"]), signal.SIGHUP)

    def restart(self) -> None:
        subprocess.run(["systemctl", "restart", "nsbroker.service"], capture_output=True, timeout=60)

    def stop_records(self, seconds: float) -> None:
        os.kill(self._journal(), signal.SIGSTOP)
        time.sleep(seconds)
        self.resume_records()

    def resume_records(self) -> None:
        os.kill(self._journal(), signal.SIGCONT)

    def _journal(self) -> int:
        return int(self._unit.run("systemctl", "show", "--property", "MainPID", "--value", "systemd-journald.service"))

    def faults(self) -> list[str]:
        since = ["--since", self._since, "--grep", "internal error:"]
        command = ["journalctl", "-u", "nsbroker.service", "-o", "cat", *since, "--no-pager"]
        said = subprocess.run(command, capture_output=True, text=True).stdout
        return [line for line in said.splitlines() if "internal error:" in line]


@dataclass
class Scene:
    """Everything that clients and attackers need to know."""

    host: Host
    folder: Path
    network: int = 0
    """The inode of the innocent user's network."""
    cookie: int = 0
    """The cookie of the same network (SO_NETNS_COOKIE), by which its sockets are recognized."""
    container: int = 0
    """The inode of the network of the innocent user's container; 0 without one."""
    container_name: str = f"innocent-{os.getpid()}"
    """It has the pid in it, because even private hosts share the control groups, which are named after containers."""
    alone: bool = True
    """Whether only one attack runs.  Root's own work then has shorter pauses."""
    bundle: Path | None = None
    """The bundle from which crun makes containers."""
    homes: dict[int, Path] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return self.host.address

    @property
    def socket(self) -> str:
        """The path of the broker's socket."""
        return self.address.removeprefix("unix:")

    @contextlib.contextmanager
    def interruption(self) -> Iterator[None]:
        """Record the time of the block, in which all calls wait for root's work: a restart, or a stopped journal."""
        with open(self.folder / _INTERRUPTIONS, "a", buffering=1) as file:
            print(os.getpid(), time.monotonic(), file=file)
            yield
            print(os.getpid(), time.monotonic(), file=file)

    def interruptions(self) -> list[tuple[float, float]]:
        """Return the beginning and the end of each interruption.

        The process that caused it may have been killed before the end; then the end is two seconds after the beginning.
        """
        path = self.folder / _INTERRUPTIONS
        times: dict[str, list[float]] = {}
        for line in path.read_text().splitlines() if path.exists() else ():
            process, moment = line.split()
            times.setdefault(process, []).append(float(moment))
        return [
            (one[number], one[number + 1] if number + 1 < len(one) else one[number] + _CUT_SHORT)
            for one in times.values()
            for number in range(0, len(one), 2)
        ]

    @contextlib.contextmanager
    def policy_lock(self) -> Iterator[None]:
        """Let one process at a time be in such a block, in which the policy is broken, or else the daemon is restarted."""
        with open(self.folder / _POLICY_LOCK, "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def write_policy(self, name: str, text: str) -> None:
        """Write a drop-in of the policy.  It is in force after the next reload."""
        path = self.host.config / "nsbroker.d" / f"{name}.toml"
        partial = path.with_suffix(".partial")
        partial.write_text(text)
        partial.rename(path)

    def remove_policy(self, name: str) -> None:
        """Remove a drop-in of the policy."""
        (self.host.config / "nsbroker.d" / f"{name}.toml").unlink(missing_ok=True)


def socket_network(sock: socket.socket) -> int:
    """Return the cookie of the network namespace of a socket.  Any user may ask for it."""
    cookie: int = struct.unpack("=Q", sock.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8))[0]
    return cookie


@contextlib.contextmanager
def scene(host: Host, folder: Path, rules: str) -> Iterator[Scene]:
    """Set up the scene around a running broker, with `rules` in its policy beside the innocent user's rule."""
    made = Scene(host, folder)
    with contextlib.ExitStack() as stack:
        stack.callback(subprocess.run, ["ip", "netns", "del", "innocent"], capture_output=True)
        subprocess.run(["ip", "netns", "add", "innocent"], check=True)
        with Namespace.from_name("innocent", "net") as ns:
            made.network = ns.inode
            with ns.call(lambda: socket.socket(socket.AF_INET)) as sock:
                made.cookie = socket_network(sock)
        made.bundle = _make_bundle(folder)
        if made.bundle is not None:
            stack.callback(delete_container, made.container_name)
            run_container(made.bundle, made.container_name)
            state = subprocess.run(["crun", "state", made.container_name], capture_output=True, check=True).stdout
            pid = int(json.loads(state)["pid"])
            made.container = os.stat(f"/proc/{pid}/ns/net").st_ino
        made.write_policy("soak", RULE + rules)
        stack.callback(made.remove_policy, "soak")
        host.reload()
        # A reload has no reply, so give the daemon time to put the rules in force.
        time.sleep(0.5)
        yield made


def _make_bundle(folder: Path) -> Path | None:
    """Make a bundle with one program for crun; None when crun or busybox is not installed."""
    if not shutil.which("crun") or not Path("/bin/busybox").exists():
        return None
    bundle = folder / "bundle"
    for name in ("bin", "proc", "sys", "dev"):
        (bundle / "rootfs" / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", bundle / "rootfs/bin")
    subprocess.run(["crun", "spec"], cwd=bundle, check=True)
    path = bundle / "config.json"
    config = json.loads(path.read_text())
    config["process"] |= {"terminal": False, "args": list(SLEEP)}
    config["process"].pop("rlimits", None)
    path.write_text(json.dumps(config))
    return bundle


def run_container(bundle: Path, name: str) -> None:
    """Start a container without control groups, because not every test machine lets crun make them."""
    null = subprocess.DEVNULL
    command = ["crun", "--cgroup-manager=disabled", "run", "--detach", "--bundle", str(bundle), name]
    subprocess.run(command, stdin=null, stdout=null, stderr=null, check=True, timeout=30)


def delete_container(name: str) -> None:
    """Stop and remove a container, if it exists."""
    subprocess.run(["crun", "--cgroup-manager=disabled", "delete", "--force", name], capture_output=True, timeout=30)


def add_user(scene: Scene, uid: int) -> None:
    """Give a user a name, a home, and a folder where rootless engines run."""
    home = scene.folder.parent / f"home-{uid}"
    for place in (home, Path(f"/run/user/{uid}")):
        place.mkdir(parents=True, exist_ok=True)
        os.chown(place, uid, uid)
    scene.homes[uid] = home
    try:
        pwd.getpwuid(uid)
    except KeyError:
        with open("/etc/passwd", "a") as users:
            users.write(f"soak{uid}:x:{uid}:{uid}::{home}:/bin/sh\n")


@dataclass(frozen=True)
class Measure:
    """The fds, threads and memory (bytes) of the daemon."""

    pid: int
    fds: int
    threads: int
    memory: int

    @classmethod
    def of(cls, pid: int) -> "Measure | None":
        """Measure the daemon `pid`; None when it is gone."""
        try:
            snapshot = Snapshot.of(pid)
            memory = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
        except (OSError, IndexError):
            return None
        return cls(pid, len(snapshot.fds), len(snapshot.threads), memory)


def measure_least(host: Host, seconds: float, enough: Callable[[Measure], bool] = lambda _: False) -> Measure:
    """Return the smallest numbers of the next `seconds`, since calls come and go.  Stops early when `enough` is true."""
    end = time.monotonic() + seconds
    found: list[Measure] = []
    while time.monotonic() < end:
        if (pid := host.pid) and (one := Measure.of(pid)) is not None:
            found.append(one)
            if enough(one):
                break
        time.sleep(0.05)
    if not found:
        return Measure(0, 0, 0, 0)
    now = found[-1].pid
    same = [one for one in found if one.pid == now]
    return Measure(now, min(one.fds for one in same), min(one.threads for one in same), same[-1].memory)


def run_quietly(command: Sequence[str]) -> None:
    """Run a program whose failure does not matter."""
    subprocess.run(command, capture_output=True, timeout=_PATIENCE, check=False)
