"""A host that is not there: descriptions of its namespaces, as List would give them."""

from collections.abc import Iterable, Mapping, Sequence

from nsbroker.model.description import Holder, HolderKind, LeadingProcess, NamespaceDescription
from nsbroker.model.identity import NamespaceType

T = NamespaceType
POD = (T.NET, T.IPC, T.UTS)
"""What the containers of a pod share."""
OWN = (T.PID, T.MNT, T.CGROUP)
"""What each has of its own."""
_NSFS = 4
HOSTILE = "<script>alert(1)</script>&amp;\"'\n\x1b[31m\u202e\x00\ud800\udcff]]>--></style>"
HOSTILE_AS_TEXT = "<script>alert(1)</script>&amp;\"'\\n\\x1b[31m\\u202e\\x00\\ud800\\xff]]>--></style>"

Cells = dict[NamespaceType, NamespaceDescription]


class Imagined:
    """The host's own namespaces, and what is added."""

    def __init__(self) -> None:
        self._inode = 4026531840
        self._pid = 100
        init = LeadingProcess(1, uid=0, command="/sbin/init")
        self.host: Cells = {
            kind: NamespaceDescription(
                kind, self._next(), _NSFS, 150, owner_uid=0, process=init, containers=[], units=["init.scope"]
            )
            for kind in NamespaceType
        }
        self.spaces = list(self.host.values())

    def _next(self) -> int:
        self._inode += 1
        return self._inode

    def make(
        self, kind: NamespaceType, command: str = "/bin/sleep 1000", holders: Iterable[Holder] = (), *, processes: int = 1
    ) -> NamespaceDescription:
        """A namespace; with processes, a new one leads them."""
        self._pid += 1
        leader = LeadingProcess(self._pid, uid=0, command=command) if processes else None
        space = NamespaceDescription(
            kind, self._next(), _NSFS, processes, owner_uid=0, process=leader, holders=[*holders] or None, containers=[], units=[]
        )
        self.spaces.append(space)
        return space

    def container(
        self, name: str, own: Sequence[NamespaceType] = OWN, others: Mapping[NamespaceType, NamespaceDescription] | None = None
    ) -> Cells:
        """A container: namespaces of its own, those of others, and else the host's."""
        cells = {**self.host, **{kind: self.make(kind) for kind in own}, **(others or {})}
        for space in cells.values():
            assert space.containers is not None
            space.containers.append(name)
        return cells

    def pod(self, name: str, *containers: str) -> Cells:
        """A pod of Kubernetes."""
        sandbox = self.container(f"cri:{name}", (*POD, *OWN))
        for container in containers:
            self.container(f"cri:{name}/{container}", OWN, {kind: sandbox[kind] for kind in POD})
        return sandbox

    def unit(
        self, name: str, own: Sequence[NamespaceType] = (), others: Mapping[NamespaceType, NamespaceDescription] | None = None
    ) -> Cells:
        """A systemd unit."""
        cells = {**self.host, **{kind: self.make(kind) for kind in own}, **(others or {})}
        for space in cells.values():
            assert space.units is not None
            space.units.append(name)
        return cells

    def bound(self, path: str, kind: NamespaceType = T.NET) -> NamespaceDescription:
        """A namespace that nothing but a file keeps alive."""
        return self.make(kind, holders=[Holder(HolderKind.MOUNT, path=path)], processes=0)


def busy_host(columns: int) -> Imagined:
    """A host with about so many columns: pods, containers that share a network, units, a named network."""
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
