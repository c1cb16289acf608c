"""cri: the pods and containers that Kubernetes runs through containerd, named by the annotations of their specifications."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from nsbroker.daemon.engines.container import Container
from nsbroker.daemon.engines.containerd import Task, TaskEngine
from nsbroker.daemon.engines.trusted_directory import TrustedDirectory, read_each
from nsbroker.model.target import is_container_name

PLACES = ("/run/containerd",)
USER_PLACES = ()
_NAMESPACE = "k8s.io"
_KEY = "io.kubernetes.cri"


class Cri(TaskEngine):
    """The containers of Kubernetes: NAMESPACE/POD is a pod's sandbox, NAMESPACE/POD/CONTAINER one of its containers."""

    name = "cri"

    def _match(self, directory: TrustedDirectory, word: str) -> Iterator[Container]:
        ids = self._tasks.ids(directory, _NAMESPACE)
        # A word without a '/' is the beginning of an id: tasks with other ids need not be read.
        matching = ids if "/" in word else [one for one in ids if one.startswith(word)]
        return read_each(partial(self._read, directory, word), matching, word)

    def _read(self, directory: TrustedDirectory, word: str, id: str) -> Container | None:
        task = self._tasks.task(directory, _NAMESPACE, id)
        if task is None:
            return None
        pod, name = _names(task)
        if not is_container_name(name) or ("/" in word and word != name):
            return None
        return self._tasks.container(directory, _NAMESPACE, id, task, self.name, (name,), shown_id=id, pod=pod)


def _names(task: Task) -> tuple[str, str]:
    annotations = task.annotations
    pod = f"{annotations.get(f'{_KEY}.sandbox-namespace', '')}/{annotations.get(f'{_KEY}.sandbox-name', '')}"
    container = annotations.get(f"{_KEY}.container-name")
    return pod, pod if container is None else f"{pod}/{container}"


def engine(place: Path, user: int) -> Cri:  # noqa: ARG001 - only root runs it
    """Return Kubernetes' containers in the containerd with its state directory at `place`."""
    return Cri(place)
