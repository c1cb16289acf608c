"""incus: its REST API on a Unix socket; lxd speaks the same."""

from pathlib import Path
from urllib.parse import quote

import msgspec
from msgspec import Struct

from nsbroker.daemon.engines import http
from nsbroker.daemon.engines.container import Container, State
from nsbroker.errors import EngineUnavailable
from nsbroker.target import is_container_name

PLACES = ("/var/lib/incus/unix.socket", "/run/incus/unix.socket")
USER_PLACES = ()
_DEFAULT = "default"


class _State(Struct):
    pid: int = 0
    status: str = ""


class _Instance(Struct):
    name: str
    type: str
    project: str = _DEFAULT
    status: str = ""
    state: _State | None = None


class _Answer(Struct):
    metadata: list[_Instance] | None = None


_answers = msgspec.json.Decoder(_Answer)


class Incus:
    """NAME is a container of the project `default`, PROJECT/NAME one of another.  Virtual machines are not containers."""

    name = "incus"

    def __init__(self, place: Path, user: int) -> None:
        self.place = str(place)
        self._socket = place
        self._user = user

    async def find(self, word: str) -> list[Container]:
        """By name, or the beginning of one: incus has no other ids."""
        project, slash, name = word.rpartition("/")
        return [
            container
            for container in await self._instances(project if slash else _DEFAULT)
            if word in container.names or container.id.startswith(name)
        ]

    async def containers(self) -> list[Container]:
        """All that run."""
        return [container for container in await self._instances("") if container.pid]

    async def _instances(self, project: str) -> list[Container]:
        where = f"project={quote(project)}" if project else "all-projects=true"
        answer = await http.get(self._socket, self._user, self.name, f"/1.0/instances?recursion=2&{where}")
        if answer.status == 404:
            return []
        if answer.status != 200:
            raise EngineUnavailable(self.name, f"{self.place} answers with status {answer.status}")
        try:
            found = _answers.decode(answer.body).metadata or []
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise EngineUnavailable(self.name, f"{self.place} answers what makes no sense: {error}") from error
        return [self._container(instance) for instance in found if instance.type == "container"]

    def _container(self, instance: _Instance) -> Container:
        default = instance.project == _DEFAULT
        name = instance.name if default else f"{instance.project}/{instance.name}"
        group = instance.name if default else f"{instance.project}_{instance.name}"
        state = instance.state or _State()
        return Container(
            engine=self.name,
            id=name if is_container_name(name) else instance.name,
            names=(name,),
            state=State.of(state.status or instance.status),
            pid=max(state.pid, 0),
            groups=(f"lxc.payload.{group}",),
            user=self._user,
        )


def engine(place: Path, user: int) -> Incus:
    """Incus by the socket `place`."""
    return Incus(place, user)
