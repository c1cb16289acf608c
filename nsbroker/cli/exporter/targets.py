"""Which networks there are, how the broker is asked for each, and how its metrics are labelled."""

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from nsbroker.model.description import NamespaceDescription, ReferenceKind
from nsbroker.model.text import escaped
from nsbroker.namespace.opening import NAME_DIRECTORIES
from nsbroker.protocol.messages import ContainerDescription

_NAMED = "name"


class Labels(NamedTuple):
    """The labels of all metrics of one network or container.

    `engine` and `container` are the two parts of a target, such as docker:web or name:blue.  `pod` and `namespace` are those of
    Kubernetes, or empty.
    """

    engine: str
    container: str
    pod: str = ""
    namespace: str = ""


class Target(NamedTuple):
    """One network: how the broker is asked for it, its labels, and the labels of all containers that use it."""

    text: str
    labels: Labels
    users: Sequence[Labels] = ()


def find_targets(containers: Iterable[ContainerDescription], networks: Iterable[NamespaceDescription]) -> dict[int, Target]:
    """Return the networks of containers, and those that have only a name, by their inodes.

    Containers can share one network.  It gets the labels of the first of them, whose first process has the lowest number: in a pod
    this is the one for which the engine made the network.
    """
    sharing: dict[int, list[ContainerDescription]] = {}
    for container in sorted(containers, key=lambda one: (one.pid, one.engine, one.id)):
        if container.network_namespace is not None:
            sharing.setdefault(container.network_namespace, []).append(container)
    known: set[Labels] = set()
    found: dict[int, Target] = {}
    for inode, users in sharing.items():
        labels = [_label(user, known) for user in users]
        found[inode] = Target(f"{users[0].engine}:{users[0].id}", labels[0], labels)
    for network in networks:
        name = min(_names(network), default=None)
        if name is not None and network.inode not in found:
            found[network.inode] = Target(f"{_NAMED}:{name}", Labels(_NAMED, escaped(name)))
    return found


def _label(container: ContainerDescription, known: set[Labels]) -> Labels:
    """Return labels that no other container has: two daemons of one engine can each have a container of the same name."""
    namespace, _, pod = (container.pod or "").rpartition("/")
    name = container.names[0] if container.names else container.id
    labels = Labels(*map(escaped, (container.engine, name, pod, namespace)))
    if labels in known:
        labels = labels._replace(container=escaped(container.id))
    known.add(labels)
    return labels


def _names(network: NamespaceDescription) -> Iterator[str]:
    for reference in network.references or ():
        folder, _, name = (reference.path or "").rpartition("/")
        if reference.kind is ReferenceKind.MOUNT and reference.pid is None and folder in NAME_DIRECTORIES:
            yield name
        elif reference.kind is ReferenceKind.DESCRIPTOR and reference.path and reference.path.startswith(f"{_NAMED}:"):
            yield reference.path.removeprefix(f"{_NAMED}:")


def keep_silent(found: dict[int, Target], before: Mapping[int, Target], silent: Container[str]) -> set[int]:
    """Put the targets of before back into `found` whose engine is one of the `silent` ones.  Return their inodes.

    The broker shows neither these containers nor their networks as long as the engine does not answer.
    """
    kept = set()
    for inode, target in before.items():
        if target.labels.engine in silent and (inode not in found or found[inode].labels.engine == _NAMED):
            found[inode] = target
            kept.add(inode)
    return kept
