"""incus, queried over its REST API on a Unix socket; lxd has the same API."""

from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

import msgspec
from msgspec import Struct

from nsbroker.daemon.engines import http
from nsbroker.daemon.engines.container import Container, State
from nsbroker.daemon.engines.decoding import decode
from nsbroker.daemon.engines.query import query_each
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
    """The containers of incus: NAME in the project `default`, PROJECT/NAME in another.  Virtual machines are left out."""

    name = "incus"

    def __init__(self, place: Path, user: int) -> None:
        self.place = str(place)
        self._socket = place
        self._user = user

    async def find(self, word: str) -> list[Container]:
        """Find containers by name, or by the beginning of a name in its project: incus has no other ids."""
        project, _, beginning = word.rpartition("/")
        parameter = f"project={quote(project or _DEFAULT, safe='')}"
        # incus lists names at once, but takes 20 ms for the state of each container: only those that match are read.
        links = await self._get(_links, f"?{parameter}")
        names = [link.partition("?")[0].rpartition("/")[2] for link in (links and links.metadata) or ()]
        found = await query_each(
            lambda name: self._get(_one, f"/{quote(name)}?recursion=1&{parameter}"), beginning_with(names, beginning)
        )
        # A container may have been removed since its name was listed, which is no error.
        return self._containers(response.metadata for response in found if response)

    async def containers(self) -> list[Container]:
        """List all running containers."""
        response = await self._get(_many, "?recursion=2&all-projects=true")
        return [container for container in self._containers((response and response.metadata) or ()) if container.pid]

    async def _get(self, decoder: msgspec.json.Decoder[T], rest: str) -> T | None:
        response = await http.get(self._socket, self._user, self.name, f"/1.0/instances{rest}")
        if response.status == 404:
            return None
        if response.status != 200:
            raise EngineUnavailable(self.name, f"{self.place} answered with status {response.status}")
        return decode(decoder, response.body, self.name, self.place)

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
            # When a control group of that name was left behind, the new one gets a number at the end of its name.
            groups=(group, f"{group}-1"),
            user=self._user,
        )


def engine(place: Path, user: int) -> Incus:
    """Return incus with its API on the socket `place`."""
    return Incus(place, user)
