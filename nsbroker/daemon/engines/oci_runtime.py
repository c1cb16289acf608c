"""What crun and runc have in common: a folder for each container, with a state file that says which process it is."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import msgspec
from msgspec import Struct

from nsbroker.daemon.engines.container import Container, State, is_random
from nsbroker.daemon.engines.trusted_directory import Folder, in_thread, read_each

S = TypeVar("S", bound=Struct)


class FirstProcess(NamedTuple):
    """The first process of a container: its number, and when it started in clock ticks since boot."""

    pid: int
    start_time: int


class OciRuntime(Generic[S]):
    """The runtime `name` that keeps its state at `place`, run by `user`; `file` is what `decoder` reads."""

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
        """By id: those that people chose are names, too."""
        return await in_thread(self._read_beginning_with, word)

    async def containers(self) -> list[Container]:
        """All that it knows; those that ended and were not deleted have no process any more."""
        return await in_thread(self._read_beginning_with, "")

    def _read_beginning_with(self, word: str) -> list[Container]:
        with Folder(self._place, self._user, self.name) as folder:
            if word and (exact := self._read(folder, word)):
                return [exact]
            return list(read_each(partial(self._read, folder), folder.names(beginning=word), word))

    def first_process(self, id: str) -> FirstProcess | None:
        """The first process of the container `id`, None when there is no such container.  Blocks; raises as `Folder`."""
        try:
            with Folder(self._place, self._user, self.name) as folder:
                return self._load(folder, id)
        except FileNotFoundError:
            return None

    def _load(self, folder: Folder, id: str) -> FirstProcess | None:
        state = folder.load(f"{id}/{self._file}", self._decoder)
        return None if state is None else self._process(state)

    def _read(self, folder: Folder, id: str) -> Container | None:
        found = self._load(folder, id)
        if found is None:
            return None
        started = folder.facts(f"{id}/exec.fifo") is None
        return Container(
            engine=self.name,
            id=id,
            # What runs under a random id is another engine's (podman's, CRI-O's), which knows what people call it.
            names=() if is_random(id) else (id,),
            state=State.RUNNING if started else State.CREATED,
            pid=found.pid,
            start_time=found.start_time,
            user=self._user,
        )
