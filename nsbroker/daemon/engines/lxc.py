"""lxc, queried with `lxc-info`, which asks the monitor process of the container."""

import os
import re
import socket
import subprocess
from collections.abc import Collection
from pathlib import Path

import trio

import nsbroker.inside.trio
from nsbroker.daemon.engines.container import Container, State
from nsbroker.daemon.engines.query import query_each
from nsbroker.daemon.engines.trusted_directory import TrustedDirectory, beginning_with, in_thread, read_each
from nsbroker.errors import EngineUnavailable
from nsbroker.linux.socket_options import peer_credentials
from nsbroker.model.identity import NamespaceType
from nsbroker.namespace import Namespace

PLACES = ("/var/lib/lxc",)
USER_PLACES = ()
_LXC_INFO = "/usr/bin/lxc-info"
_FACT = re.compile(r"(State|PID):\s*(\w+)")
_PATIENCE = 1.0
_NSENTER = "/usr/bin/nsenter"
_OWN_NETWORK = "/proc/self/ns/net"
_HOST_NETWORK = "/proc/1/ns/net"
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}


class Lxc:
    """The containers that have a directory below `place` (`lxc-create --lxcpath`)."""

    name = "lxc"

    def __init__(self, place: Path, user: int) -> None:
        self.place = str(place)
        self._place = place
        self._user = user

    async def find(self, word: str) -> list[Container]:
        """Find containers by name, or by the beginning of a name: lxc has no other ids."""
        names = await in_thread(self._read_names, ".")
        if word in names:
            return [await self._container(word, names)]
        found = await query_each(lambda name: self._try_container(name, names), beginning_with(names, word))
        return [container for container in found if container is not None]

    async def containers(self) -> list[Container]:
        """List all running containers."""
        names = await in_thread(self._read_names, ".")
        found = await query_each(lambda name: self._try_container(name, names), names)
        return [container for container in found if container is not None and container.pid]

    async def _try_container(self, name: str, names: Collection[str]) -> Container | None:
        # A container may not answer because somebody keeps its socket busy.  It must not hide the others, or delay them for long.
        with trio.move_on_after(_PATIENCE):
            try:
                return await self._container(name, names)
            except EngineUnavailable:
                pass
        return None

    def _read_names(self, below: str) -> list[str]:
        with TrustedDirectory(self._place, self._user, self.name) as directory:
            return list(read_each(lambda name: name if directory.facts(f"{name}/config") else None, directory.names(below)))

    async def _container(self, name: str, names: Collection[str]) -> Container:
        state, pid = "STOPPED", 0
        for network in (_OWN_NETWORK, _HOST_NETWORK) if _has_private_network() else (_OWN_NETWORK,):
            if await self._is_watched(name, network):
                state, pid = await self._run_lxc_info(name, network)
                break
        # When a control group was left behind, the new one gets a number at the end of its name.  That name must not be the one
        # of another container.
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
        """Return whether a monitor process of the right user runs for the container.

        The address of its socket is abstract, so any user may listen on it in the monitor's place.
        """
        address = f"\0{self._place}/{name}/command"
        with await _make_socket(network) as sock:
            sock.setblocking(False)
            try:
                sock.connect(address)
            except ConnectionRefusedError:
                return False
            except OSError as error:
                raise EngineUnavailable(self.name, f"{name}: {error.strerror or error}") from error
            return peer_credentials(sock).uid == self._user

    async def _run_lxc_info(self, name: str, network: str) -> tuple[str, int]:
        enter = [] if network == _OWN_NETWORK else [_NSENTER, f"--net={network}"]
        command = [*enter, _LXC_INFO, f"--lxcpath={self._place}", f"--name={name}", "--state", "--pid", "--no-humanize"]
        try:
            done = await trio.run_process(
                command, capture_stdout=True, stderr=subprocess.DEVNULL, check=False, env=_ENVIRONMENT, stdin=subprocess.DEVNULL
            )
        except OSError as error:
            raise EngineUnavailable(self.name, f"{_LXC_INFO}: {error.strerror}") from error
        facts = dict(_FACT.findall(done.stdout.decode(errors="replace")))
        if done.returncode or "State" not in facts:
            raise EngineUnavailable(self.name, f"{_LXC_INFO} could not print the state of {name}: exit status {done.returncode}")
        pid = facts.get("PID", "0")
        return facts["State"], int(pid) if pid.isascii() and pid.isdigit() and len(pid) < 10 else 0


def _has_private_network() -> bool:
    """Return whether the broker is in another network namespace than the host, as with PrivateNetwork= (systemd.exec(5)).

    The command sockets of the containers are in the host's network namespace.
    """
    try:
        return os.stat(_OWN_NETWORK).st_ino != os.stat(_HOST_NETWORK).st_ino
    except OSError:
        return False


async def _make_socket(network: str) -> socket.socket:
    if network == _OWN_NETWORK:
        return socket.socket(socket.AF_UNIX)
    with Namespace.from_path(network, NamespaceType.NET) as ns:
        return await nsbroker.inside.trio.call([ns], socket.socket, socket.AF_UNIX)


def engine(place: Path, user: int) -> Lxc:
    """Return lxc with its containers below `place`."""
    return Lxc(place, user)
