"""cri: the pods and containers that Kubernetes runs through containerd, by the annotations of their specifications."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from nsbroker.daemon.engines.container import Container
from nsbroker.daemon.engines.containerd import Task, Tasks
from nsbroker.daemon.engines.trusted_directory import Folder, in_thread, read_each
from nsbroker.model.target import is_container_name

PLACES = ("/run/containerd",)
USER_PLACES = ()
_NAMESPACE = "k8s.io"
_KEY = "io.kubernetes.cri"


class Cri:
    """NAMESPACE/POD is a pod's sandbox, NAMESPACE/POD/CONTAINER one of its containers."""

    name = "cri"

    def __init__(self, place: Path) -> None:
        self.place = str(place)
        self._tasks = Tasks(place, self.name)

    async def find(self, word: str) -> list[Container]:
        """By name, id or the beginning of an id."""
        return await in_thread(self._find, word)

    async def containers(self) -> list[Container]:
        """All sandboxes and containers that have a process."""
        return await in_thread(self._find, "")

    def _find(self, word: str) -> list[Container]:
        with self._tasks.open() as folder:
            return list(self._fitting(folder, word))

    def _fitting(self, folder: Folder, word: str) -> Iterator[Container]:
        ids = self._tasks.ids(folder, _NAMESPACE)
        # Who asks by id need not read the names of all others.
        fitting = ids if "/" in word else [one for one in ids if one.startswith(word)]
        return read_each(partial(self._read, folder, word), fitting, word)

    def _read(self, folder: Folder, word: str, id: str) -> Container | None:
        task = self._tasks.task(folder, _NAMESPACE, id)
        if task is None:
            return None
        pod, name = _names(task)
        if not is_container_name(name) or ("/" in word and word != name):
            return None
        return self._tasks.container(folder, _NAMESPACE, id, task, self.name, (name,), shown=id, pod=pod)


def _names(task: Task) -> tuple[str, str]:
    said = task.annotations
    pod = f"{said.get(f'{_KEY}.sandbox-namespace', '')}/{said.get(f'{_KEY}.sandbox-name', '')}"
    container = said.get(f"{_KEY}.container-name")
    return pod, pod if container is None else f"{pod}/{container}"


def engine(place: Path, user: int) -> Cri:  # noqa: ARG001 - only root runs it
    """Kubernetes' containers in the containerd with its state at `place`."""
    return Cri(place)
