"""A made-up host: descriptions of its namespaces, such as List returns."""

from collections.abc import Iterable, Mapping, Sequence

from nsbroker.model.description import LeadingProcess, NamespaceDescription, Reference, ReferenceKind
from nsbroker.model.identity import NamespaceType

T = NamespaceType
POD = (T.NET, T.IPC, T.UTS)
"""The namespace types that the containers of a pod share."""
OWN = (T.PID, T.MNT, T.CGROUP)
"""The namespace types that each container has alone."""
_NSFS = 4
HOSTILE = "<script>alert(1)</script>&amp;\"'\n\x1b[31m\u202e\x00\ud800\udcff]]>--></style>"
HOSTILE_AS_TEXT = "<script>alert(1)</script>&amp;\"'\\n\\x1b[31m\\u202e\\x00\\ud800\\xff]]>--></style>"

Cells = dict[NamespaceType, NamespaceDescription]


class Imagined:
    """A host with its own namespaces and those that the methods add."""

    def __init__(self) -> None:
        self._inode = 4026531840
        self._pid = 100
        init = LeadingProcess(1, uid=0, command="/sbin/init")
        self.host: Cells = {
            ns_type: NamespaceDescription(
                ns_type, self._next(), _NSFS, 150, owner_uid=0, process=init, containers=[], units=["init.scope"]
            )
            for ns_type in NamespaceType
        }
        self.namespaces = list(self.host.values())

    def _next(self) -> int:
        self._inode += 1
        return self._inode

    def make(
        self, ns_type: NamespaceType, command: str = "/bin/sleep 1000", references: Iterable[Reference] = (), *, processes: int = 1
    ) -> NamespaceDescription:
        """Add a namespace.  If it has processes, the leading one gets a new pid."""
        self._pid += 1
        leader = LeadingProcess(self._pid, uid=0, command=command) if processes else None
        ns = NamespaceDescription(
            ns_type,
            self._next(),
            _NSFS,
            processes,
            owner_uid=0,
            process=leader,
            references=[*references] or None,
            containers=[],
            units=[],
        )
        self.namespaces.append(ns)
        return ns

    def container(
        self, name: str, own: Sequence[NamespaceType] = OWN, others: Mapping[NamespaceType, NamespaceDescription] | None = None
    ) -> Cells:
        """Add a container.  It gets new namespaces of the types `own`, those in `others`, and the host's for all other types."""
        cells = {**self.host, **{ns_type: self.make(ns_type) for ns_type in own}, **(others or {})}
        for ns in cells.values():
            assert ns.containers is not None
            ns.containers.append(name)
        return cells

    def pod(self, name: str, *containers: str) -> Cells:
        """Add a Kubernetes pod with these containers, and return the namespaces of its sandbox."""
        sandbox = self.container(f"cri:{name}", (*POD, *OWN))
        for container in containers:
            self.container(f"cri:{name}/{container}", OWN, {ns_type: sandbox[ns_type] for ns_type in POD})
        return sandbox

    def unit(
        self, name: str, own: Sequence[NamespaceType] = (), others: Mapping[NamespaceType, NamespaceDescription] | None = None
    ) -> Cells:
        """Add a systemd unit.  Its namespaces are chosen as those of a container."""
        cells = {**self.host, **{ns_type: self.make(ns_type) for ns_type in own}, **(others or {})}
        for ns in cells.values():
            assert ns.units is not None
            ns.units.append(name)
        return cells

    def bound(self, path: str, ns_type: NamespaceType = T.NET) -> NamespaceDescription:
        """Add a namespace that only a bind mount at `path` keeps alive."""
        return self.make(ns_type, references=[Reference(ReferenceKind.MOUNT, path=path)], processes=0)


def busy_host(columns: int) -> Imagined:
    """Make a host with about this number of columns: pods, containers that share a network, units, a named network."""
    host = Imagined()
    for number in range(3 if columns == 1 else 40):
        host.unit(f"service-{number}.service")
    if columns == 1:
        return host
    host.unit("systemd-udevd.service", (T.MNT,))
    web = host.container("docker:web", (T.NET, *OWN))
    host.unit("docker-4f1c.scope", (), web)
    host.container("docker:db", OWN, {T.NET: web[T.NET]})
    host.container("podman:builder", (*POD, *OWN, T.USER))
    host.bound("/run/netns/blue")
    for number in range(max(1, (columns - 6) // 4)):
        host.pod(f"shop/checkout-{number}", "app", "log", "proxy")
    return host
