"""lxc: `lxc-info`, which asks the process that watches over the container."""

import re
import subprocess
from pathlib import Path

import trio

from nsbroker.daemon.engines.asking import ask_each
from nsbroker.daemon.engines.container import Container, State
from nsbroker.daemon.engines.state_files import Folder, beginning_with, in_thread
from nsbroker.errors import EngineUnavailable

PLACES = ("/var/lib/lxc",)
USER_PLACES = ()
_PROGRAM = "/usr/bin/lxc-info"
_FACT = re.compile(r"(State|PID):\s*(\w+)")
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
        return await ask_each(self._container, beginning_with(await self._names(), word))

    async def containers(self) -> list[Container]:
        """All that run."""
        return [container for container in await ask_each(self._container, await self._names()) if container.pid]

    async def _names(self) -> list[str]:
        return await in_thread(self._read_names, ".", self._user)

    def _read_names(self, below: str) -> list[str]:
        with Folder(self._place, self._user, self.name) as folder:
            return [name for name in folder.names(below) if folder.facts(f"{name}/config") is not None]

    async def _container(self, name: str) -> Container:
        command = [_PROGRAM, f"--lxcpath={self._place}", f"--name={name}", "--state", "--pid", "--no-humanize"]
        try:
            answer = await trio.run_process(
                command, capture_stdout=True, stderr=subprocess.DEVNULL, check=False, env=_ENVIRONMENT, stdin=subprocess.DEVNULL
            )
        except OSError as error:
            raise EngineUnavailable(self.name, f"{_PROGRAM}: {error.strerror}") from error
        said = dict(_FACT.findall(answer.stdout.decode(errors="replace")))
        if answer.returncode or "State" not in said:
            raise EngineUnavailable(self.name, f"{_PROGRAM} ends with {answer.returncode} and does not tell the state of {name}")
        return Container(
            engine=self.name,
            id=name,
            names=(name,),
            state=State.of(said["State"]),
            pid=int(said.get("PID", 0)),
            # A second container of a name, elsewhere, gets a number behind it.
            groups=(f"lxc.payload.{name}", f"lxc.payload.{name}-1"),
            user=self._user,
        )


def engine(place: Path, user: int) -> Lxc:
    """Lxc with its containers at `place`."""
    return Lxc(place, user)
