"""incus, queried over its REST API on a Unix socket; lxd has the same API."""

from collections.abc import Collection, Iterable
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
        taken = {_full_name(project or _DEFAULT, name) for name in names}
        # A container may have been removed since its name was listed, which is no error.
        return self._containers((response.metadata for response in found if response), taken)

    async def containers(self) -> list[Container]:
        """List all running containers."""
        response = await self._get(_many, "?recursion=2&all-projects=true")
        instances = (response and response.metadata) or []
        taken = {_full_name(instance.project, instance.name) for instance in instances}
        return [container for container in self._containers(instances, taken) if container.pid]

    async def _get(self, decoder: msgspec.json.Decoder[T], rest: str) -> T | None:
        response = await http.get(self._socket, self._user, self.name, f"/1.0/instances{rest}")
        if response.status == 404:
            return None
        if response.status != 200:
            raise EngineUnavailable(self.name, f"{self.place} answered with status {response.status}")
        return decode(decoder, response.body, self.name, self.place)

    def _containers(self, instances: Iterable[_Instance], taken: Collection[str]) -> list[Container]:
        """Return those of `instances` that are containers.  `taken` are the names of all instances in their projects."""
        return [self._container(instance, taken) for instance in instances if instance.type == "container"]

    def _container(self, instance: _Instance, taken: Collection[str]) -> Container:
        name = _full_name(instance.project, instance.name)
        # When a control group was left behind, the new one gets a number at the end of its name.  That name must not be the one
        # of another container.
        second = f"{name}-1"
        state = instance.state or _State()
        return Container(
            engine=self.name,
            id=name,
            names=(name,),
            state=State.of(state.status or instance.status),
            pid=max(state.pid, 0),
            groups=(_group(name), *([] if second in taken else [_group(second)])),
            user=self._user,
        )


def _full_name(project: str, name: str) -> str:
    return name if project == _DEFAULT else f"{project}/{name}"


def _group(name: str) -> str:
    """Return the control group of the container `name`.  No name of a container has an underscore, so it is not another one's."""
    return f"lxc.payload.{name.replace('/', '_')}"


def engine(place: Path, user: int) -> Incus:
    """Return incus with its API on the socket `place`."""
    return Incus(place, user)
