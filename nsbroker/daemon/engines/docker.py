"""docker, queried over the Engine API on its socket; podman serves the same API."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

import msgspec
from msgspec import Struct

from nsbroker.daemon.engines import http
from nsbroker.daemon.engines.container import Container, State
from nsbroker.daemon.engines.decoding import decode
from nsbroker.daemon.engines.query import query_each
from nsbroker.errors import EngineUnavailable
from nsbroker.model.target import is_container_name

PLACES = ("/run/docker.sock",)
USER_PLACES = ("{runtime}/docker.sock",)
_PROJECT = "com.docker.compose.project"
_SERVICE = "com.docker.compose.service"
_CONTAINERS_MAX = 5000


class _State(Struct, rename="pascal"):
    status: str = ""
    pid: int = 0


class _Config(Struct, rename="pascal", frozen=True):
    labels: dict[str, str] | None = None


class _Inspected(Struct, rename="pascal"):
    id: str
    name: str
    state: _State
    config: _Config = _Config()


class _Listed(Struct, rename="pascal"):
    id: str


_one = msgspec.json.Decoder(_Inspected)
_many = msgspec.json.Decoder(list[_Listed])


class Api:
    """The Engine API on the socket `place`, served by the uid `user`.

    `groups` are the names of the control groups that the engine makes for a container, with `{id}` for the container's id.
    """

    def __init__(self, name: str, place: Path, user: int, groups: tuple[str, ...]) -> None:
        self.name = name
        self.place = str(place)
        self._socket = place
        self._user = user
        self._groups = groups

    async def find(self, word: str) -> list[Container]:
        """Find containers by name, id or the beginning of an id, as the engine does; PROJECT/SERVICE by the labels of compose."""
        if "/" in word:
            project, _, service = word.partition("/")
            return await self._inspect_all(await self._list({"label": [f"{_PROJECT}={project}", f"{_SERVICE}={service}"]}))
        response = await self._get(f"/containers/{quote(word)}/json")
        if response.status == 200:
            return [self._container(response)]
        if response.status == 404:
            return []
        # Several ids may begin with the word.  The engines report that with different statuses.
        several = [found for found in await self._list({}) if found.startswith(word)]
        if len(several) < 2:
            raise EngineUnavailable(self.name, f"{self.place} answered with status {response.status}")
        return await self._inspect_all(several)

    async def find_by_ids(self, ids: Sequence[str]) -> list[Container]:
        """Find containers by their ids, each with one request."""
        return [container for identifier in ids for container in await self.find(identifier)]

    async def containers(self) -> list[Container]:
        """List all running containers, including the paused ones."""
        running = await self._list({"status": ["running", "paused"]})
        return [container for container in await self._inspect_all(running) if container.pid]

    async def _list(self, filters: Mapping[str, list[str]]) -> list[str]:
        query = quote(msgspec.json.encode(filters).decode())
        response = await self._get(f"/containers/json?all=1&filters={query}")
        if response.status != 200:
            raise EngineUnavailable(self.name, f"{self.place} answered with status {response.status}")
        return [listed.id for listed in decode(_many, response.body, self.name, self.place)]

    async def _inspect_all(self, ids: list[str]) -> list[Container]:
        if len(ids) > _CONTAINERS_MAX:
            raise EngineUnavailable(self.name, f"{self.place} has more than {_CONTAINERS_MAX} containers")
        found = await query_each(self._inspect, ids)
        return [container for container in found if container is not None]

    async def _inspect(self, identifier: str) -> Container | None:
        response = await self._get(f"/containers/{quote(identifier)}/json")
        # The container may have ended since its id was listed, which is no error.
        return self._container(response) if response.status == 200 else None

    async def _get(self, path: str) -> http.Response:
        return await http.get(self._socket, self._user, self.name, path)

    def _container(self, response: http.Response) -> Container:
        found = decode(_one, response.body, self.name, self.place)
        labels = found.config.labels or {}
        # An image can set any labels, so these are good enough to find the container, but not to allow access to it.
        service = f"{labels.get(_PROJECT, '')}/{labels.get(_SERVICE, '')}"
        return Container(
            engine=self.name,
            id=found.id,
            names=(found.name.removeprefix("/"),),
            aliases=(service,) if is_container_name(service) else (),
            state=State.of(found.state.status),
            pid=found.state.pid,
            groups=tuple(group.format(id=found.id) for group in self._groups),
            user=self._user,
            labels=labels,
        )


def engine(place: Path, user: int) -> Api:
    """Return docker with its API on the socket `place`."""
    return Api("docker", place, user, ("{id}", "docker-{id}.scope"))
