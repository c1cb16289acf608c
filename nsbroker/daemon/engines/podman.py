"""podman, read from the files that it keeps, since it has no daemon.

Every podman command reads these files, and reading them starts no process.  Lists come from podman's API service where it is
served, because it tells more about each container.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from nsbroker.daemon.engines import crun, docker, runc
from nsbroker.daemon.engines.container import Container, Engine, State
from nsbroker.daemon.engines.decoding import DECODE_ERRORS
from nsbroker.daemon.engines.oci_runtime import FirstProcess
from nsbroker.daemon.engines.trusted_directory import TrustedDirectory, in_thread, read_each

PLACES = ("/var/lib/containers/storage",)
USER_PLACES = ("{home}/.local/share/containers/storage",)
_GROUPS = ("libpod-{id}", "libpod-{id}.scope", "libpod-payload-{id}")
_SUFFIX = "-containers"
_FILES = ("containers.json", "volatile-containers.json")


class _Stored(Struct):
    id: str
    names: list[str] | None = None


# The entries are decoded one by one, so that one that makes no sense does not hide the others.
_entries = msgspec.json.Decoder(list[msgspec.Raw])
_stored = msgspec.json.Decoder(_Stored)


class Storage:
    """The containers in podman's storage.  The runtimes' state files tell which of them run; the API service tells more."""

    name = "podman"

    def __init__(self, place: Path, user: int) -> None:
        self.place = str(place)
        self._place = place
        self._user = user
        runtime = Path(f"/run/user/{user}" if user else "/run")
        self._runtimes = (crun.engine(runtime / "crun", user), runc.engine(runtime / "runc", user))
        # The API service knows only the usual storage.
        usual = bool(user) or str(place) in PLACES
        self._api = _make_api(runtime / "podman/podman.sock", user) if usual else None

    async def find(self, word: str) -> list[Container]:
        """Find containers by name, id or the beginning of an id."""
        return await in_thread(self._find, word)

    async def find_by_ids(self, ids: Sequence[str]) -> list[Container]:
        """Find containers by their ids.

        The storage is read once.  Other runtimes than crun and runc have no state files here, so where the API service is served,
        it tells the processes that are missing.
        """
        found = await in_thread(self._find_by_ids, ids)
        missing = [container.id for container in found if not container.pid]
        if missing and self._api is not None:
            with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
                found += await self._api.find_by_ids(missing)
        return found

    async def containers(self) -> list[Container]:
        """List all running containers, from the API service where it is served: it tells more about them."""
        if self._api is not None:
            with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
                return await self._api.containers()
        return [container for container in await in_thread(self._find, "") if container.pid]

    def _find(self, word: str) -> list[Container]:
        stored = self._read(lambda one: word in (one.names or ()) or one.id.startswith(word))
        # The state is in another file.  If that cannot be read, it is an error only when this very container is wanted.
        wanted = [one.id for one in stored.values() if word == one.id or word in (one.names or ())]
        return list(read_each(lambda one: self._container(stored[one]), stored, next(iter(wanted), "")))

    def _find_by_ids(self, ids: Sequence[str]) -> list[Container]:
        return [self._container(one) for one in self._read(lambda one: one.id in ids).values()]

    def _read(self, is_wanted: Callable[[_Stored], bool]) -> dict[str, _Stored]:
        with TrustedDirectory(self._place, self._user, self.name) as directory:
            return {one.id: one for one in self._load(directory) if is_wanted(one)}

    @staticmethod
    def _load(directory: TrustedDirectory) -> Iterator[_Stored]:
        for name in directory.names():
            if name.endswith(_SUFFIX):
                for file in _FILES:
                    for entry in directory.load(f"{name}/{file}", _entries) or ():
                        with contextlib.suppress(*DECODE_ERRORS):
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
            groups=tuple(group.format(id=stored.id) for group in _GROUPS),
            user=self._user,
        )

    def _first_process(self, id: str) -> FirstProcess | None:
        found = (runtime.first_process(id) for runtime in self._runtimes)
        return next((process for process in found if process is not None), None)


def _make_api(socket: Path, user: int) -> docker.Api:
    return docker.Api("podman", socket, user, _GROUPS)


def engine(place: Path, user: int) -> Engine:
    """Return podman with its storage at `place`, or with its API service alone when `place` is a socket."""
    return Storage(place, user) if place.is_dir() else _make_api(place, user)
