"""containerd, read from its state directory.

Each task has a directory there with the number of its first process and the specification it was made from.  containerd's
gRPC API would need a library that runs threads of its own; the directories say the same, and containerd's shims use them, too.
containerd's namespaces of docker and of Kubernetes are left to the engines docker and cri, which know those containers by the
names that people give them.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec import Struct

from nsbroker.daemon.engines.container import Container, State, is_random
from nsbroker.daemon.engines.trusted_directory import TrustedDirectory, in_thread, read_each
from nsbroker.model.target import is_container_name

PLACES = ("/run/containerd",)
USER_PLACES = ()
_TASKS = "io.containerd.runtime.v2.task"
_OTHERS = frozenset(("moby", "k8s.io"))
_DEFAULT = "default"
_DIGITS_MAX = 10
_NERDCTL_NAME = "nerdctl/name"


class _Linux(Struct, rename="camel", frozen=True):
    cgroups_path: str = ""


class _Specification(Struct):
    annotations: dict[str, str] | None = None
    linux: _Linux = _Linux()


class _RuncState(Struct):
    init_process_start: int


class Task(NamedTuple):
    """What never changes about a task: the annotations and the control groups of its specification."""

    annotations: Mapping[str, str]
    groups: tuple[str, ...]


_specifications = msgspec.json.Decoder(_Specification)
_runc_states = msgspec.json.Decoder(_RuncState)


class Tasks:
    """The tasks of one containerd.  A specification is read once, and kept in a cache as long as its file stays unchanged."""

    def __init__(self, place: Path, engine: str) -> None:
        self.place = place
        self._engine = engine
        self._cache: dict[str, tuple[tuple[int, ...], Task]] = {}

    def open(self) -> TrustedDirectory:
        """Open the state directory for the methods below; the caller closes it.  Raises like TrustedDirectory."""
        return TrustedDirectory(self.place, 0, self._engine)

    @staticmethod
    def namespaces(directory: TrustedDirectory) -> list[str]:
        """Return the namespaces of containerd in which something runs."""
        return directory.names(_TASKS)

    def ids(self, directory: TrustedDirectory, namespace: str) -> list[str]:
        """Return the ids of a namespace's tasks; specifications of tasks that are gone leave the cache."""
        ids = directory.names(f"{_TASKS}/{namespace}")
        existing = {f"{namespace}/{name}" for name in ids}
        # Replace the dictionary as a whole: other threads may be reading it.
        self._cache = {
            key: value for key, value in list(self._cache.items()) if key in existing or not key.startswith(f"{namespace}/")
        }
        return ids

    def task(self, directory: TrustedDirectory, namespace: str, id: str) -> Task | None:
        """Return a task, or None when it is gone."""
        key = f"{namespace}/{id}"
        file = f"{_TASKS}/{key}/config.json"
        facts = directory.facts(file)
        if facts is None:
            return None
        version = (facts.st_ino, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_size)
        known = self._cache.get(key)
        if known is not None and known[0] == version:
            return known[1]
        read = directory.load(file, _specifications)
        if read is None:
            return None
        task = Task(read.annotations or {}, _groups(read.linux.cgroups_path))
        self._cache[key] = version, task
        return task

    @staticmethod
    def container(
        directory: TrustedDirectory,
        namespace: str,
        id: str,
        task: Task,
        engine: str,
        names: tuple[str, ...],
        *,
        shown_id: str,
        pod: str = "",
    ) -> Container:
        """Return the task as a container of `engine` with the id `shown_id` and the process that it has now."""
        key = f"{namespace}/{id}"
        number = directory.read(f"{_TASKS}/{key}/init.pid") or b""
        state = directory.load(f"runc/{key}/state.json", _runc_states)
        created = directory.facts(f"runc/{key}/exec.fifo") is not None
        return Container(
            engine=engine,
            id=shown_id,
            names=names,
            state=State.CREATED if created else State.RUNNING if number else State.ENDED,
            pid=int(number) if number.isdigit() and len(number) <= _DIGITS_MAX else 0,
            start_time=None if state is None else state.init_process_start,
            groups=task.groups,
            pod=pod,
            labels=task.annotations,
        )


def _groups(path: str) -> tuple[str, ...]:
    """Return the last component of a control group, which is written as /PARENT/ID or in systemd's form SLICE:PREFIX:ID.

    None when there is no component: the root group belongs to no container.
    """
    parts = path.split(":")
    if len(parts) == 3:
        return (f"{parts[1]}-{parts[2]}.scope",)
    last = path.rstrip("/").rpartition("/")[2]
    return (last,) if last else ()


class TaskEngine(ABC):
    """An engine whose containers are tasks of containerd."""

    name: str

    def __init__(self, place: Path) -> None:
        self.place = str(place)
        self._tasks = Tasks(place, self.name)

    async def find(self, word: str) -> list[Container]:
        """Find containers by name, by id, or by the beginning of an id."""
        return await in_thread(self._find, word)

    async def containers(self) -> list[Container]:
        """List all containers that have a task."""
        return await in_thread(self._find, "")

    def _find(self, word: str) -> list[Container]:
        with self._tasks.open() as directory:
            return list(self._match(directory, word))

    @abstractmethod
    def _match(self, directory: TrustedDirectory, word: str) -> Iterator[Container]:
        """Return the containers that match `word`; all for an empty word."""


class Containerd(TaskEngine):
    """All tasks but those of docker and Kubernetes.

    A container is called ID in containerd's namespace `default`, and NAMESPACE/ID in others.  The name that nerdctl gave it can
    stand in the place of the id.
    """

    name = "containerd"

    def _match(self, directory: TrustedDirectory, word: str) -> Iterator[Container]:
        only = word.rpartition("/")[0]
        for namespace in self._tasks.namespaces(directory):
            if namespace in _OTHERS or only not in ("", namespace):
                continue
            prefix = "" if namespace == _DEFAULT else f"{namespace}/"
            read = partial(self._read, directory, namespace, prefix, word)
            wanted = word.removeprefix(prefix) if word.startswith(prefix) else ""
            yield from read_each(read, self._tasks.ids(directory, namespace), wanted)

    def _read(self, directory: TrustedDirectory, namespace: str, prefix: str, word: str, id: str) -> Container | None:
        """Return the container of task `id`; None when there is no such task or `word` does not match.

        The process is read only after a match.
        """
        shown_id = prefix + id
        task = self._tasks.task(directory, namespace, id)
        if task is None:
            return None
        # nerdctl makes up random ids, and keeps the name in an annotation.  Other clients let people choose the id.
        words = (task.annotations.get(_NERDCTL_NAME, ""), "" if is_random(id) else id)
        names = tuple(dict.fromkeys(prefix + name for name in words if is_container_name(name)))
        if word not in names and not shown_id.startswith(word):
            return None
        return self._tasks.container(directory, namespace, id, task, self.name, names, shown_id=shown_id)


def engine(place: Path, user: int) -> Containerd:  # noqa: ARG001 - a rootless containerd is in a mount namespace of its user's
    """Return containerd with its state directory at `place`."""
    return Containerd(place)
