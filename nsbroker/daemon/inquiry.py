"""One question to the policy, from the asking to the record: the part that all verbs with a target share.

    with inquiry:  see_askable -> (resolve) -> judge -> (open) -> succeed

What the peer learns hangs on the rules: an error that tells whether the target exists goes out as it is only to a peer
that a rule's names fit, to any other peer it is PermissionDenied, the very same in all cases.
"""

import errno
from collections.abc import Sequence
from typing import Self

from nsbroker.daemon.audit import Audit
from nsbroker.daemon.engines.roster import Asker
from nsbroker.daemon.peer import Peer
from nsbroker.daemon.policy import Policy, Verdict, names_of
from nsbroker.daemon.resolve import Pinned
from nsbroker.errors import BrokerError, InvalidParameter, PermissionDenied, QuotaExceeded
from nsbroker.identity import NamespaceType
from nsbroker.namespace import Namespace
from nsbroker.target import Kind, Target

_NOTHING = Verdict(False, (), "")


class Inquiry:
    """`peer` wants `types` (None: all there are) of `target`."""

    __slots__ = ("_audit", "_grants", "_peer", "_verb", "names", "said", "target", "types", "verdict")

    def __init__(
        self, verb: str, target: Target, types: tuple[NamespaceType, ...] | None, peer: Peer, policy: Policy, audit: Audit
    ) -> None:
        self._verb = verb
        self._peer = peer
        self._audit = audit
        self._grants = policy.grants(peer)
        self.target = target
        self.types = types
        self.said = str(target)
        self.names = names_of(target) if target.kind is Kind.CONTAINER else (self.said,)
        self.verdict = _NOTHING

    def see_askable(self) -> None:
        """Raises PermissionDenied when no rule could allow it, before anything is looked up."""
        if self.target.kind is Kind.PIDFD:
            return  # It has no name yet; and looking at an fd that the peer holds anyway tells it nothing new.
        if not self._grants.may_ask(self.target, self.names, self.types):
            raise PermissionDenied

    def asker(self) -> Asker:
        """On whose behalf engines are asked."""
        return self._grants.asker(self._peer)

    def judge(self, pinned: Pinned) -> Verdict:
        """The verdict on what the target turned out to be; from here on the inquiry is about that.  `types` are settled."""
        self.said = pinned.target
        self.names = pinned.names
        if self.types is None:
            self.types = pinned.types()
        own = not self._peer.anonymous and pinned.is_of(self._peer.uid)
        self.verdict = self._grants.verdict(self.names, self.types, own=own)
        return self.verdict

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Any error within is recorded, and becomes what the peer is told."""
        if isinstance(error, Exception):
            raise self._fail(error) from error

    def _fail(self, error: Exception) -> BrokerError:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            error = QuotaExceeded("open files of the broker")
        if not self.verdict.allowed and self.types is not None:
            # It did not come to a verdict on facts; what the target's name alone says tells a failure from a refusal.
            self.verdict = self._grants.verdict(self.names, self.types, own=False)
        allowed = self.verdict.allowed or (self.types is None and self._grants.names(self.names))
        if isinstance(error, PermissionDenied) and not allowed:
            self._record("denied")
        else:
            self._record("failed" if allowed else "denied", error=f"{type(error).__name__}: {error}")
        return self._masked(error)

    def succeed(self, namespaces: Sequence[Namespace] = ()) -> None:
        """Record the verdict, with what was opened.  Raises OSError when the record is not taken."""
        self._record("allowed" if self.verdict.allowed else "denied", namespaces)

    def _masked(self, error: Exception) -> BrokerError:
        if isinstance(error, PermissionDenied | InvalidParameter | QuotaExceeded):
            return PermissionDenied() if isinstance(error, PermissionDenied) else error
        if isinstance(error, BrokerError) and (self.verdict.allowed or self._grants.names(self.names)):
            return error
        return PermissionDenied()

    def _record(self, verdict: str, namespaces: Sequence[Namespace] = (), *, error: str = "") -> None:
        self._audit.record(self._peer, self._verb, self.said, verdict, rule=self.verdict.rule, namespaces=namespaces, error=error)
