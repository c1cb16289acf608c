"""What all methods have in common: the caller, the reply, and checks of common parameters."""

import os
from collections.abc import AsyncGenerator, Coroutine, Mapping, Sequence
from typing import Any

from msgspec import Struct

from nsbroker.daemon.limits.connections import ConnectionCharge
from nsbroker.daemon.limits.users import ROOT
from nsbroker.daemon.peer import Peer
from nsbroker.daemon.policy.grants import Grants
from nsbroker.daemon.policy.restriction import Restriction
from nsbroker.daemon.policy.rules import Policy
from nsbroker.errors import ExpectedMore, InvalidParameter
from nsbroker.linux.closing import Closer
from nsbroker.model.identity import NamespaceType
from nsbroker.varlink.connection import IncomingCall


class Caller(Struct, eq=False):
    """The peer that calls, the charge of its connection, and the restriction of that connection (None: it is unrestricted)."""

    peer: Peer
    charge: ConnectionCharge
    restriction: Restriction | None = None
    _restricted: tuple[Grants, Restriction, Grants] | None = None
    """The grants that `grants` returned last, after those and the restriction from which it made them."""

    def grants(self, policy: Policy) -> Grants:
        """Return what the caller may do: what `policy` allows the peer, within the restriction of the connection.

        Every method takes the rights of its caller from here, so none can forget the restriction.
        """
        grants = policy.grants(self.peer)
        if self.restriction is None:
            return grants
        if self._restricted is None or self._restricted[0] is not grants or self._restricted[1] is not self.restriction:
            self._restricted = (grants, self.restriction, grants.restricted(self.restriction))
        return self._restricted[2]

    @property
    def is_root(self) -> bool:
        """Whether the caller is root, and has not given up rights.  Only root may learn what other users do."""
        return self.restriction is None and self.peer.owns(ROOT)


class Reply(Struct):
    """A reply to a call.  Whoever has the reply owns its `fds`.

    `slow_fds` are those of `fds` whose closing can block for as long as the peer likes.  `is_refusal` is True when the peer must
    not learn why it was refused, also not from the time that the reply takes.
    """

    parameters: Struct | dict[str, Any] | None = None
    fds: Sequence[int] = ()
    error: str | None = None
    continues: bool = False
    slow_fds: Sequence[int] = ()
    is_refusal: bool = False

    def close(self, closer: Closer, user: int) -> None:
        """Close the fds, after they were sent to `user` or because they will not be sent."""
        for fd in self.fds:
            if fd in self.slow_fds:
                closer.close(fd, user)
            else:
                os.close(fd)


PendingReply = Coroutine[Any, Any, Reply]
"""A reply that has to be awaited."""

ReplyStream = AsyncGenerator[Reply, None]
"""The replies to a call with `more`."""


def validate_types(types: list[NamespaceType] | None, parameter: str = "types") -> tuple[NamespaceType, ...] | None:
    """Return the types of a request, which it has as `parameter`, as a tuple, or None for all types.

    Raises InvalidParameter when the list is empty or has a type twice.
    """
    if types is None:
        return None
    if not types or len(set(types)) != len(types):
        raise InvalidParameter(parameter)
    return tuple(types)


def check_more(call: IncomingCall) -> None:
    """Check that a call to a method with several replies has `more` set, and no fds.  Raises ExpectedMore, InvalidParameter."""
    call.take_fds()
    if not call.more:
        raise ExpectedMore


def reason_of(error: OSError, reasons: Mapping[int, str]) -> str:
    """Return why a system call failed: the text in `reasons` for its errno, or else the kernel's own text."""
    return reasons.get(error.errno or 0) or error.strerror or str(error)
