"""lxc: `lxc-info`, which asks the process that watches over the container."""

import os
import re
import socket
import subprocess
from collections.abc import Collection
from pathlib import Path

import trio

import nsbroker.inside.trio
from nsbroker.daemon.engines.container import Container, State
from nsbroker.daemon.engines.query import ask_each
from nsbroker.daemon.engines.trusted_directory import Folder, beginning_with, in_thread, read_each
from nsbroker.errors import EngineUnavailable
from nsbroker.linux.socket_options import peer_credentials
from nsbroker.model.identity import NamespaceType
from nsbroker.namespace import Namespace

PLACES = ("/var/lib/lxc",)
USER_PLACES = ()
_PROGRAM = "/usr/bin/lxc-info"
_FACT = re.compile(r"(State|PID):\s*(\w+)")
_PATIENCE = 1.0
_ENTER = "/usr/bin/nsenter"
_OURS = "/proc/self/ns/net"
_HOSTS = "/proc/1/ns/net"
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}


class Lxc:
    """The containers with a folder at `place` (`lxc-create --lxcpath`)."""

    name = "lxc"

    def __init__(self, place: Path, user: int) -> None:
        self.place = str(place)
        self._place = place
        self._user = user

    async def find(self, word: str) -> list[Container]:
        """By name, or the beginning of one: lxc has no other ids."""
        names = await in_thread(self._read_names, ".")
        if word in names:
            return [await self._container(word, names)]
        found = await ask_each(lambda name: self._listed(name, names), beginning_with(names, word))
        return [container for container in found if container is not None]

    async def containers(self) -> list[Container]:
        """All that run."""
        names = await in_thread(self._read_names, ".")
        found = await ask_each(lambda name: self._listed(name, names), names)
        return [container for container in found if container is not None and container.pid]

    async def _listed(self, name: str, names: Collection[str]) -> Container | None:
        # One that cannot be asked, because somebody keeps its socket busy, hides no other, and does not hold it up for long.
        with trio.move_on_after(_PATIENCE):
            try:
                return await self._container(name, names)
            except EngineUnavailable:
                pass
        return None

    def _read_names(self, below: str) -> list[str]:
        with Folder(self._place, self._user, self.name) as folder:
            return list(read_each(lambda name: name if folder.facts(f"{name}/config") else None, folder.names(below)))

    async def _container(self, name: str, names: Collection[str]) -> Container:
        state, pid = "STOPPED", 0
        for network in (_OURS, _HOSTS) if _is_apart() else (_OURS,):
            if await self._is_watched(name, network):
                state, pid = await self._ask(name, network)
                break
        # Where a group was left behind, the next one gets a number behind its name; which must not be another's name.
        second = f"{name}-1"
        return Container(
            engine=self.name,
            id=name,
            names=(name,),
            state=State.of(state),
            pid=pid,
            groups=(f"lxc.payload.{name}", *([] if second in names else [f"lxc.payload.{second}"])),
            user=self._user,
        )

    async def _is_watched(self, name: str, network: str) -> bool:
        """Whether a process of root's watches over it.  The address is open to all: a user may listen in its place."""
        address = f"\0{self._place}/{name}/command"
        with await _socket(network) as sock:
            sock.setblocking(False)
            try:
                sock.connect(address)
            except ConnectionRefusedError:
                return False
            except OSError as error:
                raise EngineUnavailable(self.name, f"{name}: {error.strerror or error}") from error
            return peer_credentials(sock).uid == self._user

    async def _ask(self, name: str, network: str) -> tuple[str, int]:
        enter = [] if network == _OURS else [_ENTER, f"--net={network}"]
        command = [*enter, _PROGRAM, f"--lxcpath={self._place}", f"--name={name}", "--state", "--pid", "--no-humanize"]
        try:
            answer = await trio.run_process(
                command, capture_stdout=True, stderr=subprocess.DEVNULL, check=False, env=_ENVIRONMENT, stdin=subprocess.DEVNULL
            )
        except OSError as error:
            raise EngineUnavailable(self.name, f"{_PROGRAM}: {error.strerror}") from error
        said = dict(_FACT.findall(answer.stdout.decode(errors="replace")))
        if answer.returncode or "State" not in said:
            raise EngineUnavailable(self.name, f"{_PROGRAM} ends with {answer.returncode} and does not tell the state of {name}")
        pid = said.get("PID", "0")
        return said["State"], int(pid) if pid.isascii() and pid.isdigit() and len(pid) < 10 else 0


def _is_apart() -> bool:
    """Whether the service manager gave us a network of our own: containers' command sockets are in the host's."""
    try:
        return os.stat(_OURS).st_ino != os.stat(_HOSTS).st_ino
    except OSError:
        return False


async def _socket(network: str) -> socket.socket:
    if network == _OURS:
        return socket.socket(socket.AF_UNIX)
    with Namespace.from_path(network, NamespaceType.NET) as space:
        return await nsbroker.inside.trio.call([space], socket.socket, socket.AF_UNIX)


def engine(place: Path, user: int) -> Lxc:
    """Lxc with its containers at `place`."""
    return Lxc(place, user)
