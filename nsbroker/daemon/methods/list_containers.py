"""The method ListContainers: the containers of which a peer may open at least one namespace."""

from collections.abc import Mapping

import trio

from nsbroker.daemon.context import Context
from nsbroker.daemon.discovery.visibility import openable_types
from nsbroker.daemon.engines.container import Container, State
from nsbroker.daemon.engines.registry import distinct
from nsbroker.daemon.methods.call import Caller, Reply, ReplyStream, check_more
from nsbroker.daemon.peer import Peer
from nsbroker.daemon.policy.grants import Grants
from nsbroker.daemon.targets.pinned import PinnedContainer
from nsbroker.daemon.targets.resolve import engine_query
from nsbroker.errors import BrokerError
from nsbroker.linux.cgroup import is_frozen
from nsbroker.linux.process import Process
from nsbroker.model.identity import NamespaceType
from nsbroker.protocol.messages import ContainerDescription, ListContainersReply, UnavailableEngine
from nsbroker.varlink import service
from nsbroker.varlink.connection import IncomingCall

# After this many containers, other tasks get their turn.
_IN_A_ROW = 8
# Labels may take this many of the 65536 bytes of a message.
_LABELS_MAX = 32768


class ListContainersMethod:
    """Answers calls to ListContainers."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def list(self, caller: Caller, call: IncomingCall, request: service.Nothing) -> ReplyStream:
        """Reply with each container, then with each engine that could not be queried, and with an empty reply at the end."""
        check_more(call)
        return self._stream_containers(caller.peer, caller.grants(self._context.policy))

    async def _stream_containers(self, peer: Peer, grants: Grants) -> ReplyStream:
        self._context.audit.record(peer, "ListContainers", "container:*", "allowed")
        result = await self._context.engines.list(engine_query(grants, peer))
        found: dict[Container, ContainerDescription] = {}
        for number, container in enumerate(result.containers):
            description = await self._describe(container, grants, peer)
            if description is not None:
                found[container] = description
            if number % _IN_A_ROW == 0:
                await trio.lowlevel.checkpoint()
        for container in distinct(found):
            yield Reply(ListContainersReply(container=found[container]), continues=True)
        for failure in result.failures:
            yield Reply(ListContainersReply(unavailable=UnavailableEngine(failure.engine, failure.reason)), continues=True)
        yield Reply(ListContainersReply())

    async def _describe(self, container: Container, grants: Grants, peer: Peer) -> ContainerDescription | None:
        try:
            process = await self._context.engines.pin(container, peer.user)
        except (BrokerError, OSError):
            return None
        return _describe(container, process, grants, peer)


def _describe(container: Container, process: Process, grants: Grants, peer: Peer) -> ContainerDescription | None:
    """Describe the container as far as the peer may know it.  Takes `process`.

    Return None when the peer may not open any of its namespaces, or when it has ended by now.
    """
    pinned = PinnedContainer(container, process)
    try:
        frozen = container.state is State.RUNNING and is_frozen(process.cgroups())
        types = openable_types(pinned, grants, peer)
        if not types:
            return None
        network = None
        if NamespaceType.NET in types:
            with pinned.open(NamespaceType.NET) as ns:
                network = ns.inode
        pinned.check_unchanged()
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
        labels=_truncate_labels(container.labels),
    )


def _truncate_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """Return as many labels as fit into a reply, since images can have labels of any length."""
    kept: dict[str, str] = {}
    size = 0
    for name, value in labels.items():
        # JSON may need six bytes for a character.
        size += 6 * (len(name) + len(value))
        if size > _LABELS_MAX:
            break
        kept[name] = value
    return kept
