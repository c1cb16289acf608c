"""What the verbs have in common: who calls, what is answered, and how."""

from collections.abc import AsyncGenerator, Coroutine, Sequence
from typing import Any, NamedTuple

from msgspec import Struct

from nsbroker.daemon.limits.connections import ConnectionCharge
from nsbroker.daemon.peer import Peer
from nsbroker.errors import ExpectedMore, InvalidParameter
from nsbroker.linux.ancillary import close_all
from nsbroker.linux.closing import Closer
from nsbroker.model.identity import NamespaceType
from nsbroker.varlink.connection import IncomingCall


class Caller(NamedTuple):
    """Who calls, and their share of the broker."""

    peer: Peer
    charge: ConnectionCharge


class Answer(NamedTuple):
    """What to reply.  Whoever holds the answer owns `fds`; `closing_waits`: closing them can take as long as the peer likes.
    `is_refusal`: the peer may not know why, and so not by the time that it took either.
    """

    parameters: Struct | dict[str, Any] | None = None
    fds: Sequence[int] = ()
    error: str | None = None
    continues: bool = False
    closing_waits: bool = False
    is_refusal: bool = False

    def close(self, closer: Closer, user: int) -> None:
        """Close the fds, of which `user` has copies by now, or never will."""
        if self.closing_waits:
            for fd in self.fds:
                closer.close(fd, user)
        else:
            close_all(self.fds)


Later = Coroutine[Any, Any, Answer]
"""An answer that has to be waited for."""

Stream = AsyncGenerator[Answer, None]
"""The answers to a call with `more`."""


def checked_types(types: list[NamespaceType] | None) -> tuple[NamespaceType, ...] | None:
    """The types of a request, at least one and each once; None for all.  Raises InvalidParameter."""
    if types is None:
        return None
    if not types or len(set(types)) != len(types):
        raise InvalidParameter("types")
    return tuple(types)


def see_more(call: IncomingCall) -> None:
    """See that a call to a method that gives several replies is one, and has no fds.  Raises ExpectedMore, InvalidParameter."""
    call.take_fds()
    if not call.more:
        raise ExpectedMore
