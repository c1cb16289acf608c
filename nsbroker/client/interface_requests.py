"""The calls that add network interfaces: see `requests`."""

import io

from nsbroker.client import results
from nsbroker.client.requests import Request, TargetLike, parse_target, target_fds, target_text
from nsbroker.errors import InvalidTarget
from nsbroker.model.interface import INTERFACE_NAME_RULE, InterfaceKind, is_interface_name
from nsbroker.model.target import TargetKind
from nsbroker.protocol import messages
from nsbroker.protocol.interface_messages import AddInterfaceRequest, InterfacePeer
from nsbroker.protocol.target_spec import TargetSpec


def add_veth(where: TargetLike, name: str, other: TargetLike, other_name: str) -> Request[None]:
    """Add a veth `name` in the network of the target, with its other end `other_name` in the network of `other`."""
    target, peer = parse_target(where), parse_target(other)
    _check_name(name)
    _check_name(other_name)
    peer_spec = TargetSpec.of(peer)
    if peer.kind is TargetKind.PIDFD:
        # If both are pidfds, the target's comes first.
        peer_spec = TargetSpec(pid_file_descriptor=len(target_fds(target)))
    request = AddInterfaceRequest(TargetSpec.of(target), InterfaceKind.VETH, name, InterfacePeer(peer_spec, other_name))
    return Request(
        messages.ADD_INTERFACE,
        request,
        (*target_fds(target), *target_fds(peer)),
        lambda _: None,
        f"add the veth {name}, with its other end {other_name} in {target_text(peer)}, to",
        target,
        permission="interfaces veth",
    )


def add_tap(where: TargetLike, name: str) -> Request[io.FileIO]:
    """Add a tap `name` to the network of the target; the caller owns the file that is connected to it."""
    target = parse_target(where)
    _check_name(name)
    return Request(
        messages.ADD_INTERFACE,
        AddInterfaceRequest(TargetSpec.of(target), InterfaceKind.TAP, name),
        target_fds(target),
        results.added_tap,
        f"add the tap {name} to",
        target,
        permission="interfaces tap",
        most_fds=1,
    )


def _check_name(name: str) -> None:
    if not is_interface_name(name):
        raise InvalidTarget(f"{name[:80]!r} is no name of an interface: {INTERFACE_NAME_RULE}")
