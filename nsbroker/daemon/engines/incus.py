"""incus: its REST API on a Unix socket; lxd speaks the same."""

from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

import msgspec
from msgspec import Struct

from nsbroker.daemon.engines import http
from nsbroker.daemon.engines.container import Container, State
from nsbroker.daemon.engines.query import ask_each
from nsbroker.daemon.engines.trusted_directory import beginning_with
from nsbroker.errors import EngineUnavailable

PLACES = ("/var/lib/incus/unix.socket", "/run/incus/unix.socket")
USER_PLACES = ()
_DEFAULT = "default"
T = TypeVar("T")


class _State(Struct):
    pid: int = 0
    status: str = ""


class _Instance(Struct):
    name: str
    type: str
    project: str = _DEFAULT
    status: str = ""
    state: _State | None = None


class _One(Struct):
    metadata: _Instance


class _Many(Struct):
    metadata: list[_Instance] | None = None


class _Links(Struct):
    metadata: list[str] | None = None


_one = msgspec.json.Decoder(_One)
_many = msgspec.json.Decoder(_Many)
_links = msgspec.json.Decoder(_Links)


class Incus:
    """NAME is a container of the project `default`, PROJECT/NAME one of another.  Virtual machines are not containers."""

    name = "incus"

    def __init__(self, place: Path, user: int) -> None:
        self.place = str(place)
        self._socket = place
        self._user = user

    async def find(self, word: str) -> list[Container]:
        """By name, or the beginning of one in its project: incus has no other ids."""
        project, _, beginning = word.rpartition("/")
        where = f"project={quote(project or _DEFAULT, safe='')}"
        # Names cost incus nothing; what it says of the state of one container takes it 20 ms.
        links = await self._get(_links, f"?{where}")
        names = [link.partition("?")[0].rpartition("/")[2] for link in (links and links.metadata) or ()]
        found = await ask_each(
            lambda name: self._get(_one, f"/{quote(name)}?recursion=1&{where}"), beginning_with(names, beginning)
        )
        # One that is gone by now is no error.
        return self._containers(answer.metadata for answer in found if answer)

    async def containers(self) -> list[Container]:
        """All that run."""
        answer = await self._get(_many, "?recursion=2&all-projects=true")
        return [container for container in self._containers((answer and answer.metadata) or ()) if container.pid]

    async def _get(self, decoder: msgspec.json.Decoder[T], rest: str) -> T | None:
        answer = await http.get(self._socket, self._user, self.name, f"/1.0/instances{rest}")
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise EngineUnavailable(self.name, f"{self.place} answers with status {answer.status}")
        try:
            return decoder.decode(answer.body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise EngineUnavailable(self.name, f"{self.place} answers what makes no sense: {error}") from error

    def _containers(self, instances: Iterable[_Instance]) -> list[Container]:
        return [self._container(instance) for instance in instances if instance.type == "container"]

    def _container(self, instance: _Instance) -> Container:
        default = instance.project == _DEFAULT
        name = instance.name if default else f"{instance.project}/{instance.name}"
        group = f"lxc.payload.{name.replace('/', '_')}"
        state = instance.state or _State()
        return Container(
            engine=self.name,
            id=name,
            names=(name,),
            state=State.of(state.status or instance.status),
            pid=max(state.pid, 0),
            # Where a group of that name was left behind, the next one gets a number behind it.
            groups=(group, f"{group}-1"),
            user=self._user,
        )


def engine(place: Path, user: int) -> Incus:
    """Incus by the socket `place`."""
    return Incus(place, user)
