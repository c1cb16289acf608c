"""The method OpenSocket: a socket in the network namespace of a target."""

import ipaddress

import trio

from nsbroker.daemon.context import Context
from nsbroker.daemon.limits.rate_limit import TokenBucket
from nsbroker.daemon.methods.authorization import Authorization, begin
from nsbroker.daemon.methods.call import Caller, PendingReply, Reply
from nsbroker.daemon.methods.socket_maker import SocketMaker, WantedSocket
from nsbroker.daemon.policy.permission import MARK_MAX
from nsbroker.errors import InvalidParameter
from nsbroker.model.socket_kind import SocketFamily, SocketKind, SocketType
from nsbroker.protocol.messages import OpenSocketReply, OpenSocketRequest, SocketAddress
from nsbroker.varlink.connection import IncomingCall

_PORT_MAX = 65535
_PROTOCOL_MAX = 2**31 - 1


class OpenSocketMethod:
    """Answers calls to OpenSocket."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._maker = SocketMaker()
        self._bucket = TokenBucket(context.users.limits.sockets_per_user)

    def open_socket(self, caller: Caller, call: IncomingCall, request: OpenSocketRequest) -> Reply | PendingReply:
        """Make a socket inside the target's network namespace."""
        protocol = request.protocol or 0
        if not 0 <= protocol <= _PROTOCOL_MAX:
            raise InvalidParameter("protocol")
        address = _parse_bind_address(request)
        if request.mark is not None and not 0 < request.mark <= MARK_MAX:
            raise InvalidParameter("mark")
        kind = SocketKind.bound(request.family, request.type, address[1] if address else 0)
        wanted = WantedSocket(kind, protocol, address, request.mark)
        permissions = wanted.permissions()
        details = " ".join(map(str, permissions))
        maker = caller.peer.maker()
        authorization = begin(
            self._context, "OpenSocket", caller, call, request.target, permissions, hands_over=True, details=details
        )
        user = caller.peer.user
        if authorization.takes_time() or self._maker.takes_time(maker, wanted) or self._delay(user):
            return self._open(caller, authorization, wanted)
        with authorization as pinned:
            self._bucket.charge(user)
            with authorization.open_network() as ns:
                sock = self._maker.make_at_once(pinned, ns, maker, wanted)
            authorization.on_failure(sock.close)
        fds = [sock.detach()]
        return Reply(OpenSocketReply(0), fds, slow_fds=fds)

    async def _open(self, caller: Caller, authorization: Authorization, wanted: WantedSocket) -> Reply:
        async with authorization as pinned:
            self._bucket.charge(caller.peer.user)
            if delay := self._delay(caller.peer.user):
                await trio.sleep(delay)
            with authorization.open_network() as ns:
                sock = await self._maker.make(pinned, ns, caller.peer.maker(), wanted)
            authorization.on_failure(sock.close)
        fds = [sock.detach()]
        return Reply(OpenSocketReply(0), fds, slow_fds=fds)

    def _delay(self, user: int) -> float:
        """Return the seconds until the user is within the limit on sockets.

        A program that may have no more sockets for a moment would fail.  One that waits does not even notice.
        """
        self._bucket.most = self._context.users.limits.sockets_per_user
        return self._bucket.delay(user)


def _parse_bind_address(request: OpenSocketRequest) -> tuple[str, int] | None:
    """Return the address and port that the request wants the socket bound to, or None.  Raises InvalidParameter."""
    bind: SocketAddress | None = request.bind
    if bind is None:
        return None
    versions = {SocketFamily.INET: 4, SocketFamily.INET6: 6}
    try:
        if ipaddress.ip_address(bind.address).version != versions.get(request.family) or request.type is SocketType.RAW:
            raise ValueError
    except ValueError as error:
        raise InvalidParameter("bind.address") from error
    if not 0 < bind.port <= _PORT_MAX:
        raise InvalidParameter("bind.port")
    return bind.address, bind.port
