"""The method AddInterface: a veth between the networks of two targets, or a tap in the network of one.

The broker needs no right inside but CAP_NET_ADMIN, and a new thread that has no other adds the interface.  This happens only after
the call was recorded for each target.  What a thread needs inside is opened before, so most failures come before the record.
"""

import contextlib
import errno
import io
import os
import socket
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

from nsbroker.daemon.context import Context
from nsbroker.daemon.methods.authorization import Authorization
from nsbroker.daemon.methods.call import Caller, PendingReply, Reply, reason_of
from nsbroker.daemon.methods.host_networks import HostNetworks
from nsbroker.daemon.methods.several_targets import Part, begin_parts
from nsbroker.daemon.methods.visits import Visits
from nsbroker.daemon.targets.pinned import Pinned
from nsbroker.errors import InterfaceFailed, InvalidParameter
from nsbroker.linux import rtnetlink, tun
from nsbroker.linux.capabilities import CAP_NET_ADMIN, limited_to
from nsbroker.linux.rtnetlink import InterfaceError
from nsbroker.model.interface import InterfaceKind, is_interface_name
from nsbroker.namespace import Namespace
from nsbroker.protocol.interface_messages import AddInterfaceReply, AddInterfaceRequest, InterfacePeer
from nsbroker.varlink.connection import IncomingCall

T = TypeVar("T")

# At most this many threads are inside namespaces at one time.
_VISITS_MAX = 8
_TAKEN = "there is an interface with that name already"
_UNKNOWN = "this kernel has no such interfaces (load its module: `modprobe veth tun`)"
_NO_TUN = "the broker has no /dev/net/tun (`modprobe tun` and restart the broker; BindPaths= of its unit)"
_REASONS: Mapping[int, str] = {
    errno.EEXIST: _TAKEN,
    errno.EBUSY: _TAKEN,
    errno.EOPNOTSUPP: _UNKNOWN,
    errno.ENODEV: _UNKNOWN,
    errno.ENXIO: _UNKNOWN,
    errno.ENOENT: _NO_TUN,
    errno.EPERM: "the broker itself may not do that (CapabilityBoundingSet= and DeviceAllow= of its unit)",
    errno.EACCES: "the broker itself may not do that (CapabilityBoundingSet= and DeviceAllow= of its unit)",
    errno.ENOSPC: "the kernel has no room for another interface there",
}


class _End(NamedTuple):
    """An interface to be added: the target, for errors; its name; and a netlink socket in the target's network (borrowed)."""

    target: str
    name: str
    sock: socket.socket


class AddInterfaceMethod:
    """Answers calls to AddInterface."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._visits = Visits(_VISITS_MAX)
        self._host_networks = HostNetworks()

    def add_interface(self, caller: Caller, call: IncomingCall, request: AddInterfaceRequest) -> PendingReply:
        """Add an interface to the network of the target, and its other end to that of the peer."""
        kind, name, peer = request.kind, request.name, request.peer
        _check(kind, name, peer)
        parts = [Part("target", request.target, f"interface {kind} {name}")]
        if peer is not None:
            parts.append(Part("peer.target", peer.target, f"interface {kind} {peer.name}"))
        is_tap = kind is InterfaceKind.TAP
        near, *others = begin_parts(self._context, "AddInterface", caller, call, (kind,), parts, hands_over=is_tap)
        if peer is None:
            return self._add_tap(caller, near, name)
        return self._add_veth(caller, near, others[0], (name, peer.name))

    async def _add_veth(self, caller: Caller, near: Authorization, far: Authorization, names: tuple[str, str]) -> Reply:
        try:
            async with near as pinned, far as far_pinned:
                with near.open_network() as ns, far.open_network() as far_ns, contextlib.ExitStack() as opened:
                    sock = opened.enter_context(await self._open_inside(pinned, ns, names[0], rtnetlink.connect))
                    far_sock = opened.enter_context(await self._open_inside(far_pinned, far_ns, names[1], rtnetlink.connect))
                    ends = _End(pinned.target, names[0], sock), _End(far_pinned.target, names[1], far_sock)
                    await self._record(caller, near, far)
                    await self._make(ns, lambda: _make_veth(*ends, far_ns.fileno()))
        finally:
            # It still has its pidfd if the first target was refused.
            far.release_pidfd()
        return Reply(AddInterfaceReply(names[0]))

    async def _add_tap(self, caller: Caller, authorization: Authorization, name: str) -> Reply:
        user, owner = caller.peer.user, caller.peer.owner.uid
        async with authorization as pinned:
            with authorization.open_network() as ns:
                sock, file = await self._open_inside(pinned, ns, name, _open_for_tap)
                with sock, file:
                    fd = os.dup(file.fileno())
                    # Closing a tap waits for the kernel's lock of all networks, so it happens on a thread.
                    authorization.on_failure(lambda: self._context.users.closer.close(fd, user))
                    await self._record(caller, authorization)
                    await self._make(ns, lambda: _make_tap(_End(pinned.target, name, sock), fd, owner))
        return Reply(AddInterfaceReply(name, 0), [fd], slow_fds=[fd])

    async def _open_inside(self, pinned: Pinned, ns: Namespace, name: str, function: Callable[[], T]) -> T:
        """Run `function` inside `ns` (borrowed), if that may be used for `pinned`, and return what it opened.

        Raises NoSuchTarget for the host's network if no rule names that, and InterfaceFailed for the interface `name`.
        """

        def work() -> T:
            self._host_networks.check(pinned, ns, "name that network itself if you mean it")
            with limited_to(CAP_NET_ADMIN):
                return function()

        try:
            return await self._visits.call(ns, work)
        except OSError as error:
            raise InterfaceFailed(pinned.target, name, reason_of(error, _REASONS)) from error

    async def _record(self, caller: Caller, *authorizations: Authorization) -> None:
        """Count the interface, and write the records of all targets before anything is added."""
        self._context.interfaces.charge(caller.peer.user)
        for authorization in authorizations:
            authorization.finish()
        await self._context.audit.settle(caller.peer)

    async def _make(self, ns: Namespace, function: Callable[[], None]) -> None:
        """Run `function` inside `ns` with the one right that it needs."""

        def work() -> None:
            with limited_to(CAP_NET_ADMIN):
                function()

        # The thread uses descriptors that are closed afterwards, so nobody may stop waiting for it.
        await self._visits.call(ns, work, to_its_end=True)


def _check(kind: InterfaceKind, name: str, peer: InterfacePeer | None) -> None:
    """Check the parameters that are no targets.  Raises InvalidParameter."""
    if not is_interface_name(name):
        raise InvalidParameter("name")
    if (peer is not None) is not (kind is InterfaceKind.VETH):
        raise InvalidParameter("peer")
    if peer is not None and not is_interface_name(peer.name):
        raise InvalidParameter("peer.name")


def _open_for_tap() -> tuple[socket.socket, io.FileIO]:
    """Open what `_make_tap` needs (the caller's to close).  Runs inside the network that gets the tap."""
    sock = rtnetlink.connect()
    try:
        # A file object, so that it is closed when nobody takes it any more.
        return sock, io.FileIO(tun.open_clone(), "r+b")
    except BaseException:
        sock.close()
        raise


def _make_veth(near: _End, far: _End, far_network: int) -> None:
    """Add a pair of veth, whose far end is in the network with the fd `far_network` (borrowed), and set both ends up, or none.

    Raises InterfaceFailed.
    """
    try:
        rtnetlink.add_veth(near.sock, near.name, far_network, far.name)
    except OSError as error:
        is_far = error.errno == errno.EEXIST and not rtnetlink.exists(near.sock, near.name)
        raise _failure(far if is_far else near, error) from error
    try:
        for end in (near, far):
            _set_up(end)
    except BaseException:
        with contextlib.suppress(OSError):
            rtnetlink.delete(near.sock, near.name)
        raise


def _make_tap(end: _End, fd: int, owner: int) -> None:
    """Add a tap that belongs to the uid `owner`, connect `fd` (borrowed) to it, and set it up.  Raises InterfaceFailed.

    If it fails, the tap ends with `fd`.
    """
    try:
        tun.add_tap(fd, end.name, owner)
    except OSError as error:
        raise _failure(end, error) from error
    _set_up(end)


def _set_up(end: _End) -> None:
    try:
        rtnetlink.set_up(end.sock, end.name)
    except OSError as error:
        raise _failure(end, error) from error


def _failure(end: _End, error: OSError) -> InterfaceFailed:
    reason = reason_of(error, _REASONS)
    if isinstance(error, InterfaceError) and error.text:
        reason += f" (the kernel says: {error.text})"
    return InterfaceFailed(end.target, end.name, reason)
