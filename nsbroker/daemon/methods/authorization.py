"""One question to the policy, from the asking to the record: the part that all verbs with a target share.

    inquire -> with inquiry:  pin_now, or await pin -> judge -> (open) -> succeed

What the peer learns hangs on the rules: an error that tells whether the target exists goes out as it is only to a peer
that a rule's names fit, to any other peer it is PermissionDenied, the very same in all cases.
"""

import errno
from collections.abc import Iterable, Sequence
from typing import Self

from nsbroker.daemon.context import Parts
from nsbroker.daemon.methods.call import Caller
from nsbroker.daemon.policy.grants import Verdict, names_of
from nsbroker.daemon.policy.permission import Permission
from nsbroker.daemon.targets.pinned import Pinned
from nsbroker.daemon.targets.resolve import resolve, resolve_slowly, takes_time
from nsbroker.errors import BrokerError, InvalidParameter, PermissionDenied, QuotaExceeded, RecordFailed
from nsbroker.model.identity import NamespaceType
from nsbroker.model.target import Kind
from nsbroker.namespace import Namespace
from nsbroker.protocol.messages import TargetSpec
from nsbroker.varlink.connection import IncomingCall

_NOTHING = Verdict(False, (), "")


def inquire(
    parts: Parts,
    verb: str,
    caller: Caller,
    call: IncomingCall,
    spec: TargetSpec,
    wanted: tuple[Permission, ...] | None,
    *,
    some: bool = False,
) -> "Inquiry":
    """The question that a call puts, seen to be one that may be put.  Takes the call's fds, which go with its target.

    Raises PermissionDenied when no rule could allow it (with `some`: not even a part of it), before anything is looked up.
    """
    inquiry = Inquiry(parts, verb, caller, spec, wanted)
    with inquiry:
        inquiry.see_askable(some=some)
    index = spec.pid_file_descriptor
    inquiry.take_pidfd(call.take_fds(None if index is None else {"target.pidFileDescriptor": index}))
    return inquiry


class Inquiry:
    """`caller` wants `wanted` (None: every type of namespace that there is) of a target.

    Between `inquire` and the pinning nothing may be awaited: a pidfd that came along would be forgotten.
    """

    __slots__ = ("_caller", "_grants", "_parts", "_pidfd", "_verb", "details", "names", "said", "target", "verdict", "wanted")

    def __init__(self, parts: Parts, verb: str, caller: Caller, spec: TargetSpec, wanted: tuple[Permission, ...] | None) -> None:
        """Use `inquire`.  Raises InvalidParameter for what is no target."""
        self._parts = parts
        self._verb = verb
        self._caller = caller
        self._grants = parts.policy.grants(caller.peer)
        self._pidfd: list[int] = []
        self.target = spec.to_target()
        self.wanted = wanted
        self.details = ""
        """What the record says of what was wanted, where that is no namespace."""
        self.said = str(self.target)
        self.names = names_of(self.target) if self.target.kind is Kind.CONTAINER else (self.said,)
        self.verdict = _NOTHING

    def see_askable(self, *, some: bool) -> None:
        """Raises PermissionDenied when no rule could allow it; with `some`, when none could allow any part of it."""
        if self.target.kind is Kind.PIDFD:
            return  # It has no name yet; and looking at an fd that the peer holds anyway tells it nothing new.
        wanted = self.wanted
        parts = [(one,) for one in wanted] if some and wanted else [wanted]
        if not any(self._grants.may_ask(self.target, self.names, part) for part in parts):
            raise PermissionDenied

    def take_pidfd(self, fds: list[int]) -> None:
        """Take what came with the target."""
        self._pidfd = fds

    def takes_time(self) -> bool:
        """Whether finding the target cannot be done at once."""
        return takes_time(self.target)

    def pin_now(self) -> Pinned:
        """What the target means, the caller's to close, of one that does not take time."""
        return resolve(self.target, self.said, self._caller.peer, self._grants, self._pidfd, self._parts.holder)

    async def pin(self) -> Pinned:
        """What the target means, the caller's to close."""
        if not takes_time(self.target):
            return self.pin_now()
        parts = self._parts
        asker = self._grants.asker(self._caller.peer)
        return await resolve_slowly(self.target, parts.roster, asker, parts.hints, parts.threads)

    def judge(self, pinned: Pinned) -> Verdict:
        """The verdict on what the target turned out to be; from here on the inquiry is about that.  `wanted` is settled."""
        self.said = pinned.names[0] if pinned.names else pinned.target
        self.names = pinned.names
        if self.wanted is None:
            self.wanted = pinned.types()
        self.verdict = self.verdict_on(pinned, self.wanted)
        return self.verdict

    def narrow(self, pinned: Pinned, wanted: tuple[Permission, ...]) -> None:
        """Go on with a part of what was wanted."""
        self.wanted = wanted
        self.verdict = self.verdict_on(pinned, wanted)

    def open(self, pinned: Pinned, kinds: Iterable[NamespaceType]) -> list[Namespace]:
        """Open namespaces of what was pinned, one for each thing that the verdict is about; the caller's to close.

        What is allowed only because the process is the peer's own is opened with the peer's rights instead of the broker's:
        the kernel lets no user look into a process that has capabilities, that is not dumpable, or that acts as its user
        for a moment, whatever its uid (PTRACE_MODE_READ_FSCREDS in ptrace(2)).
        """
        opened: list[Namespace] = []
        try:
            for kind, by_name in zip(kinds, self.verdict.by_name, strict=True):
                if by_name or not pinned.is_process:
                    opened.append(pinned.open(kind))
                else:
                    opened.append(pinned.open_as(self._caller.peer.credentials, kind))
        except BaseException:
            for space in opened:
                space.close()
            raise
        return opened

    def check_access(self, pinned: Pinned) -> None:
        """Check for something that is no namespace what `open` leaves to the kernel.  Raises PermissionDenied, NoSuchTarget."""
        if pinned.is_process and not all(self.verdict.by_name):
            pinned.open_as(self._caller.peer.credentials, NamespaceType.NET).close()

    def explain(self, pinned: Pinned) -> Verdict:
        """The verdict with what `open` leaves to the kernel, without opening anything for the peer."""
        verdict = self.judge(pinned)
        if not all(verdict.by_name) and not pinned.is_open_to(self._caller.peer.credentials):
            rules = [rule if by_name else None for rule, by_name in zip(verdict.rules, verdict.by_name, strict=True)]
            self.verdict = Verdict(False, rules, " ".join(filter(None, dict.fromkeys(rules))), verdict.by_name)
        if not any(self.verdict.rules) and not self._grants.is_named(self.names):
            # Of what no rule gives it anything, the peer does not even learn what it is.
            raise PermissionDenied
        return self.verdict

    def verdict_on(self, pinned: Pinned, wanted: tuple[Permission, ...]) -> Verdict:
        """What the rules say of `wanted` of what was pinned."""
        peer = self._caller.peer
        own = not peer.anonymous and pinned.is_of(peer.uid)
        return self._grants.verdict(pinned.names, wanted, own=own)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Any error within is recorded, and becomes what the peer is told."""
        if isinstance(error, Exception):
            raise self._fail(error) from error

    def _fail(self, error: Exception) -> BrokerError:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            error = QuotaExceeded("open files of the broker")
        if not self.verdict.allowed and self.wanted is not None:
            # It did not come to a verdict on facts; what the target's name alone says tells a failure from a refusal.
            self.verdict = self._grants.verdict(self.names, self.wanted, own=False)
        allowed = self.verdict.allowed or (self.wanted is None and self._grants.is_named(self.names))
        if isinstance(error, PermissionDenied) and not allowed:
            self._record("denied")
        else:
            self._record("failed" if allowed else "denied", error=f"{type(error).__name__}: {error}")
        return self._masked(error)

    def succeed(self, namespaces: Sequence[Namespace] = ()) -> None:
        """Record the verdict, with the namespaces that were opened.  Raises RecordFailed."""
        self._record("allowed" if self.verdict.allowed else "denied", namespaces)

    def _masked(self, error: Exception) -> BrokerError:
        if isinstance(error, PermissionDenied | InvalidParameter | QuotaExceeded | RecordFailed):
            return PermissionDenied() if isinstance(error, PermissionDenied) else error
        # Of itself, a peer may be told anything.
        may_know = self.target.kind is Kind.SELF or self.verdict.allowed or self._grants.is_named(self.names)
        if isinstance(error, BrokerError) and may_know:
            return error
        return PermissionDenied()

    def _record(self, verdict: str, namespaces: Sequence[Namespace] = (), *, error: str = "") -> None:
        self._parts.audit.record(
            self._caller.peer,
            self._verb,
            self.said,
            verdict,
            rule=self.verdict.rule,
            namespaces=namespaces,
            wanted=self.details if namespaces else self.details or " ".join(map(str, self.wanted or ())),
            error=error,
        )
