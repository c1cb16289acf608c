"""containerd: a folder for each task, with the number of its first process and the specification it was made from.

Its gRPC API would need a library that runs on threads of its own; the tasks' folders say the same, and are what its
shims themselves go by.  The namespaces of docker and of Kubernetes are left to the engines docker and cri, which know
those containers by the names that people give them.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec import Struct

from nsbroker.daemon.engines.container import Container, State, is_random
from nsbroker.daemon.engines.trusted_directory import Folder, in_thread, read_each
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
    """What is constant about a task: the annotations and the control groups of its specification."""

    annotations: Mapping[str, str]
    groups: tuple[str, ...]


_specifications = msgspec.json.Decoder(_Specification)
_runc_states = msgspec.json.Decoder(_RuncState)


class Tasks:
    """The tasks of one containerd.  A specification is read once: it is kept as long as its file is the very same."""

    def __init__(self, place: Path, engine: str) -> None:
        self.place = place
        self._engine = engine
        self._read: dict[str, tuple[tuple[int, ...], Task]] = {}

    def open(self) -> Folder:
        """The folder that the functions below look in.  Raises as `Folder`."""
        return Folder(self.place, 0, self._engine)

    @staticmethod
    def namespaces(folder: Folder) -> list[str]:
        """The namespaces in which something runs."""
        return folder.names(_TASKS)

    def ids(self, folder: Folder, namespace: str) -> list[str]:
        """The tasks of a namespace; what was read of those that are gone is forgotten."""
        ids = folder.names(f"{_TASKS}/{namespace}")
        there = {f"{namespace}/{name}" for name in ids}
        # Replaced as a whole: other threads may be reading it.
        self._read = {key: value for key, value in list(self._read.items()) if key in there or not key.startswith(f"{namespace}/")}
        return ids

    def task(self, folder: Folder, namespace: str, id: str) -> Task | None:
        """A task, None when it is gone."""
        key = f"{namespace}/{id}"
        file = f"{_TASKS}/{key}/config.json"
        facts = folder.facts(file)
        if facts is None:
            return None
        version = (facts.st_ino, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_size)
        known = self._read.get(key)
        if known is not None and known[0] == version:
            return known[1]
        read = folder.load(file, _specifications)
        if read is None:
            return None
        task = Task(read.annotations or {}, _groups(read.linux.cgroups_path))
        self._read[key] = version, task
        return task

    @staticmethod
    def container(
        folder: Folder, namespace: str, id: str, task: Task, engine: str, names: tuple[str, ...], *, shown: str, pod: str = ""
    ) -> Container:
        """The task as a container of `engine` with the id `shown`, and with the process it has now."""
        key = f"{namespace}/{id}"
        number = folder.read(f"{_TASKS}/{key}/init.pid") or b""
        state = folder.load(f"runc/{key}/state.json", _runc_states)
        created = folder.facts(f"runc/{key}/exec.fifo") is not None
        return Container(
            engine=engine,
            id=shown,
            names=names,
            state=State.CREATED if created else State.RUNNING if number else State.ENDED,
            pid=int(number) if number.isdigit() and len(number) <= _DIGITS_MAX else 0,
            start_time=None if state is None else state.init_process_start,
            groups=task.groups,
            pod=pod,
            labels=task.annotations,
        )


def _groups(path: str) -> tuple[str, ...]:
    """The last component of the control group: of /PARENT/ID, or of systemd's form SLICE:PREFIX:ID."""
    parts = path.split(":")
    if len(parts) == 3:
        return (f"{parts[1]}-{parts[2]}.scope",)
    return tuple(path.rsplit("/", 1)[-1:]) if path else ()


class Containerd:
    """All tasks that are not docker's or Kubernetes': ID in containerd's namespace `default`, NAMESPACE/ID in others."""

    name = "containerd"

    def __init__(self, place: Path) -> None:
        self.place = str(place)
        self._tasks = Tasks(place, self.name)

    async def find(self, word: str) -> list[Container]:
        """By id, NAMESPACE/ID, the name that nerdctl gives, or the beginning of an id."""
        return await in_thread(self._find, word)

    async def containers(self) -> list[Container]:
        """All that have a task."""
        return await in_thread(self._find, "")

    def _find(self, word: str) -> list[Container]:
        with self._tasks.open() as folder:
            return list(self._fitting(folder, word))

    def _fitting(self, folder: Folder, word: str) -> Iterator[Container]:
        only = word.rpartition("/")[0]
        for namespace in self._tasks.namespaces(folder):
            if namespace in _OTHERS or only not in ("", namespace):
                continue
            prefix = "" if namespace == _DEFAULT else f"{namespace}/"
            read = partial(self._read, folder, namespace, prefix, word)
            wanted = word.removeprefix(prefix) if word.startswith(prefix) else ""
            yield from read_each(read, self._tasks.ids(folder, namespace), wanted)

    def _read(self, folder: Folder, namespace: str, prefix: str, word: str, id: str) -> Container | None:
        """The task `id`, when `word` fits it.  What process it has is read of those alone."""
        shown = prefix + id
        task = self._tasks.task(folder, namespace, id)
        if task is None:
            return None
        # nerdctl's ids are random; those of others are what people call it.
        said = (task.annotations.get(_NERDCTL_NAME, ""), "" if is_random(id) else id)
        names = tuple(dict.fromkeys(prefix + name for name in said if is_container_name(name)))
        if word not in names and not shown.startswith(word):
            return None
        return self._tasks.container(folder, namespace, id, task, self.name, names, shown=shown)


def engine(place: Path, user: int) -> Containerd:  # noqa: ARG001 - users' own are in mount namespaces of theirs
    """Containerd with its state at `place`."""
    return Containerd(place)
