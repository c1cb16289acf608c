"""podman: the files that it keeps, since it has no daemon; its API service is asked for lists, of which it tells more.

The files are what every podman command reads, and asking them starts nothing.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from nsbroker.daemon.engines import crun, docker, runc
from nsbroker.daemon.engines.container import Container, Engine, State
from nsbroker.daemon.engines.oci_runtime import FirstProcess
from nsbroker.daemon.engines.trusted_directory import Folder, in_thread, read_each

PLACES = ("/var/lib/containers/storage",)
USER_PLACES = ("{home}/.local/share/containers/storage",)
_GROUPS = ("libpod-{id}", "libpod-{id}.scope", "libpod-payload-{id}")
_SUFFIX = "-containers"
_FILES = ("containers.json", "volatile-containers.json")


class _Stored(Struct):
    id: str
    names: list[str] | None = None


# One entry after the other: one that makes no sense hides no other.
_entries = msgspec.json.Decoder(list[msgspec.Raw])
_stored = msgspec.json.Decoder(_Stored)


class Storage:
    """The storage that podman's containers are in, the runtimes' own word on which of them run, and the API beside it."""

    name = "podman"

    def __init__(self, place: Path, user: int) -> None:
        self.place = str(place)
        self._place = place
        self._user = user
        runtime = Path(f"/run/user/{user}" if user else "/run")
        self._runtimes = (crun.engine(runtime / "crun", user), runc.engine(runtime / "runc", user))
        # Of another storage than the usual one it knows nothing.
        usual = bool(user) or str(place) in PLACES
        self._api = _api(runtime / "podman/podman.sock", user) if usual else None

    async def find(self, word: str) -> list[Container]:
        """By name, id or the beginning of an id."""
        return await in_thread(self._find, word)

    async def containers(self) -> list[Container]:
        """All that run: from the API, which tells more of them, where it is served."""
        if self._api is not None:
            with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
                return await self._api.containers()
        return [container for container in await in_thread(self._find, "") if container.pid]

    def _find(self, word: str) -> list[Container]:
        with Folder(self._place, self._user, self.name) as folder:
            stored = {one.id: one for one in self._load(folder) if word in (one.names or ()) or one.id.startswith(word)}
        # Its state is another file: one that cannot be read is an error for whoever asks for this container.
        wanted = [one.id for one in stored.values() if word == one.id or word in (one.names or ())]
        return list(read_each(lambda one: self._container(stored[one]), stored, next(iter(wanted), "")))

    @staticmethod
    def _load(folder: Folder) -> Iterator[_Stored]:
        for name in folder.names():
            if name.endswith(_SUFFIX):
                for file in _FILES:
                    for entry in folder.load(f"{name}/{file}", _entries) or ():
                        with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                            yield _stored.decode(entry)

    def _container(self, stored: _Stored) -> Container:
        process = self._first_process(stored.id)
        return Container(
            engine=self.name,
            id=stored.id,
            names=tuple(stored.names or ()),
            state=State.ENDED if process is None else State.RUNNING,
            pid=process.pid if process else 0,
            start_time=process.start_time if process else None,
            user=self._user,
        )

    def _first_process(self, id: str) -> FirstProcess | None:
        found = (runtime.first_process(id) for runtime in self._runtimes)
        return next((process for process in found if process is not None), None)


def _api(socket: Path, user: int) -> docker.Api:
    return docker.Api("podman", socket, user, _GROUPS)


def engine(place: Path, user: int) -> Engine:
    """Podman by its storage, or by the socket of its API service alone."""
    return Storage(place, user) if place.is_dir() else _api(place, user)
