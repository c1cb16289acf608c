"""The verb ListContainers: the containers of which a peer may open something."""

from collections.abc import Mapping

import trio

from nsbroker.daemon.context import Parts
from nsbroker.daemon.engines.container import Container, State
from nsbroker.daemon.engines.registry import distinct
from nsbroker.daemon.methods.call import Answer, Caller, Stream, see_more
from nsbroker.daemon.peer import Peer
from nsbroker.daemon.policy.grants import Grants
from nsbroker.daemon.targets.pinned import PinnedContainer
from nsbroker.errors import BrokerError
from nsbroker.linux.cgroup import is_frozen
from nsbroker.linux.process import Process
from nsbroker.model.identity import NamespaceType
from nsbroker.protocol.messages import ContainerDescription, ListContainersReply, UnavailableEngine
from nsbroker.varlink import service
from nsbroker.varlink.connection import IncomingCall

# After so many looked at in one go, others get their turn.
_IN_A_ROW = 8
# Of the 65536 bytes of a message.
_LABELS_MAX = 32768


class Containers:
    """Answers calls for containers."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def list(self, caller: Caller, call: IncomingCall, request: service.Nothing) -> Stream:
        """Each container, each engine that could not be asked, and an empty reply for the end."""
        see_more(call)
        return self._listed(caller.peer, self._parts.policy.grants(caller.peer))

    async def _listed(self, peer: Peer, grants: Grants) -> Stream:
        self._parts.audit.record(peer, "ListContainers", "container:*", "allowed")
        survey = await self._parts.roster.survey(grants.asker(peer))
        found: dict[Container, ContainerDescription] = {}
        for number, container in enumerate(survey.containers):
            described = await self._described(container, grants, peer)
            if described is not None:
                found[container] = described
            if number % _IN_A_ROW == 0:
                await trio.lowlevel.checkpoint()
        for container in distinct(found):
            yield Answer(ListContainersReply(container=found[container]), continues=True)
        for failure in survey.failures:
            yield Answer(ListContainersReply(unavailable=UnavailableEngine(failure.engine, failure.reason)), continues=True)
        yield Answer(ListContainersReply())

    async def _described(self, container: Container, grants: Grants, peer: Peer) -> ContainerDescription | None:
        try:
            process = await self._parts.roster.pin(container, peer.user)
        except (BrokerError, OSError):
            return None
        return _describe(container, process, grants, peer)


def _describe(container: Container, process: Process, grants: Grants, peer: Peer) -> ContainerDescription | None:
    """What the peer may learn; None when it may open nothing of it, or when it has ended by now.  Takes `process`."""
    try:
        pinned = PinnedContainer(container, process)
    except (BrokerError, OSError):
        return None
    try:
        frozen = container.state is State.RUNNING and is_frozen(process.cgroups())
        own = not peer.anonymous and pinned.is_of(peer.uid) and pinned.is_open_to(peer.credentials)
        types = grants.types(pinned.names, own=own)
        if not types:
            return None
        network = None
        if NamespaceType.NET in types:
            with pinned.open(NamespaceType.NET) as space:
                network = space.inode
        pinned.see_unchanged()
    except (BrokerError, OSError):
        return None
    finally:
        pinned.close()
    return ContainerDescription(
        engine=container.engine,
        id=container.id,
        names=list(container.names),
        state=State.PAUSED if frozen else container.state,
        pid=peer.number_of(container.pid) or 0,
        types=sorted(types),
        network_namespace=network,
        pod=container.pod or None,
        labels=_trimmed(container.labels),
    )


def _trimmed(labels: Mapping[str, str]) -> dict[str, str]:
    """As many labels as fit into a reply: images have them of any length."""
    kept: dict[str, str] = {}
    size = 0
    for name, value in labels.items():
        # A character may be written as six.
        size += 6 * (len(name) + len(value))
        if size > _LABELS_MAX:
            break
        kept[name] = value
    return kept
