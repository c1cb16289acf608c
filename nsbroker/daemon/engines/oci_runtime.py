"""What crun and runc share: a directory for each container, with a state file that names its first process."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import msgspec
from msgspec import Struct

from nsbroker.daemon.engines.container import Container, State, is_random
from nsbroker.daemon.engines.trusted_directory import TrustedDirectory, in_thread, read_each
from nsbroker.errors import EngineUnavailable

S = TypeVar("S", bound=Struct)


class FirstProcess(NamedTuple):
    """The first process of a container: its number, its start time in clock ticks since boot, and its control group's name."""

    pid: int
    start_time: int
    group: str = ""


class OciRuntime(Generic[S]):
    """The runtime `name` with its state directory at `place`, run by the uid `user`.

    `file` is the name of a container's state file, `decoder` decodes it, and `process` returns the first process from it.
    """

    def __init__(
        self,
        name: str,
        place: Path,
        user: int,
        file: str,
        decoder: msgspec.json.Decoder[S],
        process: Callable[[S], FirstProcess],
    ) -> None:
        self.name = name
        self.place = str(place)
        self._place = place
        self._user = user
        self._file = file
        self._decoder = decoder
        self._process = process

    async def find(self, word: str) -> list[Container]:
        """Find containers by id or the beginning of an id.  An id that people chose is also a name."""
        found = self._find_at_once(word)
        return [found] if found is not None else await in_thread(self._read_beginning_with, word)

    async def containers(self) -> list[Container]:
        """List all containers that the runtime knows.  Some may have ended without being deleted: their process is gone."""
        return await in_thread(self._read_beginning_with, "")

    def _find_at_once(self, id: str) -> Container | None:
        """Return the container with this id, None when that needs a thread: its file can block, cannot be read, or is not there.

        The state directory is in memory (/run) almost everywhere, and a thread costs more than reading the file.
        """
        try:
            with TrustedDirectory(self._place, self._user, self.name, quick=True) as directory:
                return self._read(directory, id)
        except (EngineUnavailable, OSError):
            return None

    def _read_beginning_with(self, word: str) -> list[Container]:
        with TrustedDirectory(self._place, self._user, self.name) as directory:
            if word and (exact := self._read(directory, word)):
                return [exact]
            return list(read_each(partial(self._read, directory), directory.names(beginning=word), word))

    def first_process(self, id: str) -> FirstProcess | None:
        """Return the first process of a container, None when there is no such container.  Blocks; raises like TrustedDirectory."""
        try:
            with TrustedDirectory(self._place, self._user, self.name) as directory:
                return self._load(directory, id)
        except FileNotFoundError:
            return None

    def _load(self, directory: TrustedDirectory, id: str) -> FirstProcess | None:
        if "/" in id:
            # A folder below belongs to a container, and can be mounted into it: crun has one for sd_notify(3).
            return None
        state = directory.load(f"{id}/{self._file}", self._decoder)
        return None if state is None else self._process(state)

    def _read(self, directory: TrustedDirectory, id: str) -> Container | None:
        found = self._load(directory, id)
        if found is None:
            return None
        started = directory.facts(f"{id}/exec.fifo") is None
        return Container(
            engine=self.name,
            id=id,
            # A random id was made up by another engine (podman, CRI-O) that uses this runtime.  That engine knows the name.
            names=() if is_random(id) else (id,),
            state=State.RUNNING if started else State.CREATED,
            pid=found.pid,
            start_time=found.start_time,
            groups=(found.group,) if found.group else (),
            user=self._user,
        )
