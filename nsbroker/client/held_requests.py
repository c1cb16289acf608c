"""The calls that create, hold and release namespaces: see `requests`."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from nsbroker.client import results
from nsbroker.client.requests import Request, TargetLike, parse_target, parse_types, target_fds
from nsbroker.model.identity import NamespaceType
from nsbroker.namespace import Namespace
from nsbroker.protocol import messages
from nsbroker.protocol.messages import CreateRequest, HeldDescription, HoldRequest, ReleaseRequest
from nsbroker.protocol.target_spec import TargetSpec
from nsbroker.varlink import service
from nsbroker.varlink.connection import IncomingReply


class Created(NamedTuple):
    """New namespaces (the handles are the caller's).  `durable`: the broker holds them, and they survive its restart."""

    namespaces: dict[NamespaceType, Namespace]
    durable: bool


def create(types: Iterable[str], name: str | None, up: bool) -> Request[Created]:
    """Create namespaces; the broker also holds them under `name`, if one is given, and with `up` it sets lo up."""
    ns_types = parse_types(types) or []
    request = CreateRequest(ns_types, name, up or None)

    def read(replies: Sequence[IncomingReply]) -> Created:
        return Created(*results.created(replies[0], ns_types))

    return Request(messages.CREATE, request, (), read, "create", types=ns_types, most_fds=len(ns_types), held_as=name)


def hold(where: TargetLike, types: Iterable[str] | None, name: str) -> Request[bool]:
    """Hold `types` (None: every type it has) of the target under `name`."""
    target = parse_target(where)
    ns_types = parse_types(types)
    request = HoldRequest(target=TargetSpec.of(target), types=ns_types, name=name)
    fds, action = target_fds(target), "hold" if ns_types else "hold the namespaces of"

    def read(replies: Sequence[IncomingReply]) -> bool:
        return results.hold(replies).durable

    return Request(messages.HOLD, request, fds, read, action, target, ns_types or (), held_as=name)


def release(name: str) -> Request[None]:
    """Stop holding what is held under `name`."""
    return Request(messages.RELEASE, ReleaseRequest(name), (), lambda _: None, f"release name:{name}")


def list_held() -> Request[list[HeldDescription]]:
    """List the held namespaces that the caller holds or may open."""
    return Request(messages.LIST_HELD, service.Nothing(), (), results.held, "list the held namespaces", more=True)
