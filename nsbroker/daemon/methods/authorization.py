"""The steps that every method with a target shares, in the only order that is safe.

    authorization = begin(...)             check that a rule could allow the call at all
    with authorization as pinned:          pin the target, decide on facts about it, check the quota
        authorization.open(...)            open namespaces of the pinned target
                                           on leaving: check that the target is unchanged, record, close the target

Use `async with` for a target that takes time to find.  When a step fails, the namespaces that were opened are closed and the
failure is recorded.  The peer only gets an error that its rules let it know: an error that reveals whether the target exists is
sent unchanged to a peer whose rules name the target.  Any other peer gets PermissionDenied, which is the same in all cases.
"""

import contextlib
from collections.abc import Callable, Iterable, Sequence

from nsbroker.daemon.context import Context
from nsbroker.daemon.limits.namespace_closing import close_namespaces
from nsbroker.daemon.methods.call import Caller
from nsbroker.daemon.policy.grants import Grants, Verdict, names_of
from nsbroker.daemon.policy.permission import Mark, Permission
from nsbroker.daemon.policy.scope import Names
from nsbroker.daemon.targets.pinned import Pinned, PinnedHeld
from nsbroker.daemon.targets.resolve import engine_query, resolve, resolve_slowly, takes_time
from nsbroker.errors import BrokerError, InvalidParameter, NoSuchTarget, PermissionDenied, QuotaExceeded, RecordFailed, TimedOut
from nsbroker.linux.descriptors import close_and_clear, is_out_of_files
from nsbroker.model.identity import NamespaceType
from nsbroker.model.target import TargetKind
from nsbroker.namespace import Namespace
from nsbroker.protocol.target_spec import TargetSpec
from nsbroker.varlink.connection import IncomingCall

_NO_VERDICT = Verdict(False, (), "")
# These errors say nothing about the target, so they may be sent to every peer.
_HARMLESS = (InvalidParameter, QuotaExceeded, RecordFailed, TimedOut)


def begin(
    context: Context,
    method: str,
    caller: Caller,
    call: IncomingCall,
    spec: TargetSpec,
    wanted: tuple[Permission, ...] | None,
    *,
    partly: bool = False,
    hands_over: bool = False,
    details: str = "",
) -> "Authorization":
    """Begin to authorize a call that wants `wanted` (None: every type of namespace that the target has) of the target `spec`.

    With `partly`, the method goes on when only a part of `wanted` is allowed.  With `hands_over`, the reply has a descriptor for
    each thing in `wanted`, and these count towards the peer's quota.  `details` describes what is wanted in the audit record, where
    that is not a namespace.  Takes the call's fds.

    Raises PermissionDenied when no rule could allow the call, before the target is looked up, and InvalidParameter.
    """
    authorization = Authorization(context, method, caller, spec, wanted, partly, hands_over, details)
    authorization.check_possible()
    index = spec.pid_file_descriptor
    if index is not None:
        authorization.take_pidfd(call.take_fds({"target.pidFileDescriptor": index}))
    elif call.fds:
        call.take_fds()
    return authorization


class Authorization:
    """The authorization of one call, from the first check to the audit record.  Use `begin` to make one.

    Nothing may be awaited between `begin` and `with`: a cancellation there would leak a pidfd that came with the call.
    """

    # What most calls never set stands here, because a call is authorized thousands of times a second.
    verdict = _NO_VERDICT
    _finished = False
    _is_refused = False

    def __init__(
        self,
        context: Context,
        method: str,
        caller: Caller,
        spec: TargetSpec,
        wanted: tuple[Permission, ...] | None,
        partly: bool,
        hands_over: bool,
        details: str,
    ) -> None:
        """Raises InvalidParameter when `spec` is not a valid target."""
        self._context = context
        self._method = method
        self._caller = caller
        # Read once for the whole call: a reload in between must not mix two policies.
        self.grants: Grants = caller.grants(context.policy)
        """The rules that apply to the caller."""
        self._target_grants = self.grants
        self._target = spec.to_target()
        self.wanted: Sequence[Permission] | None = wanted
        """What is wanted.  If it is None at first, it is set when the target is pinned."""
        self._partly = partly
        self._hands_over = hands_over
        self.details = details
        self.target_text = str(self._target)
        """The target as rules and records name it: as the call names it at first, and once pinned as the thing that was found."""
        self._names = self._names_before_lookup()
        self._pidfd: list[int] = []
        self._pinned: Pinned  # from `__enter__` on
        self._opened: list[Namespace] = []
        self._undo: list[Callable[[], object]] = []

    def _names_before_lookup(self) -> Names:
        kind = self._target.kind
        if kind is TargetKind.CONTAINER:
            return names_of(self._target)
        if kind is TargetKind.PID and self._caller.restriction is not None:
            # A restriction can be for one process, whose number may be another in the caller's PID namespace.
            with contextlib.suppress(NoSuchTarget):
                return (f"pid:{self._caller.peer.translate(self._target.pid, self.target_text)}",)
        return (self.target_text,)

    def check_possible(self) -> None:
        """Check that a rule could allow the call, before the target is looked up.  Raises PermissionDenied."""
        if self._target.kind is TargetKind.PIDFD:
            return  # It has no name yet, and resolving an fd that the peer has anyway reveals nothing to it.
        wanted = self.wanted if self.wanted is None else tuple(self.wanted)
        if self._partly and wanted:
            is_possible = any(self.grants.may_ask(self._target, self._names, (permission,)) for permission in wanted)
        else:
            is_possible = self.grants.may_ask(self._target, self._names, wanted)
        if not is_possible:
            raise self._fail(PermissionDenied())

    def take_pidfd(self, fds: list[int]) -> None:
        """Take the pidfd that came with the call (`fds` is empty when there was none)."""
        self._pidfd = fds

    def release_pidfd(self) -> None:
        """Close the pidfd that came with the call, if it was not used."""
        close_and_clear(self._pidfd)

    def takes_time(self) -> bool:
        """Return whether finding the target can take longer than other clients should wait.  Use `async with` then."""
        return takes_time(self._target)

    def __enter__(self) -> Pinned:
        """Pin the target (borrowed), check the verdict on it, and check the quota."""
        try:
            return self._admit(self._resolve())
        except Exception as error:
            # An error that was its own cause would stay in memory, with everything on its way, until a full garbage collection.
            raise self._fail(error) from None

    async def __aenter__(self) -> Pinned:
        """Do the same as `with`, for any target."""
        try:
            if not takes_time(self._target):
                return self._admit(self._resolve())
            context, peer = self._context, self._caller.peer
            query, closer = engine_query(self.grants, peer), context.users.closer
            pinned = await resolve_slowly(self._target, context.engines, query, context.locations, context.threads, closer)
            return self._admit(pinned)
        except Exception as error:
            # An error that was its own cause would stay in memory, with everything on its way, until a full garbage collection.
            raise self._fail(error) from None

    def _resolve(self) -> Pinned:
        context, peer = self._context, self._caller.peer
        return resolve(self._target, self.target_text, peer, self.grants, self._pidfd, context.held_store, context.users.closer)

    def _admit(self, pinned: Pinned) -> Pinned:
        """Decide on facts about the pinned target (taken), and check the quota.  Raises PermissionDenied, QuotaExceeded."""
        try:
            self._names = names = pinned.names
            self.target_text = names[0] if names else pinned.target
            if isinstance(pinned, PinnedHeld) and not pinned.belongs_to(self._caller.peer):
                # Another user chose this name, for which no pattern of a rule was meant.
                self._target_grants = self.grants.exactly(self.target_text)
            wanted = pinned.types() if self.wanted is None else self.wanted
            self.wanted = wanted
            self.verdict = self._decide(pinned, tuple(wanted))
            if not self.verdict.allowed and not self._partly:
                raise PermissionDenied
            if self._hands_over:
                # A mark comes last.  It is not a descriptor, but belongs to one.
                self._context.users.check(self._caller.charge, len(wanted) - isinstance(wanted[-1], Mark))
        except BaseException:
            pinned.close()
            raise
        self._pinned = pinned
        return pinned

    def _decide(self, pinned: Pinned, wanted: tuple[Permission, ...]) -> Verdict:
        """Return the verdict on things that are wanted of `pinned`.

        The owner is read only if the names do not suffice, because that takes system calls.
        """
        verdict = self._target_grants.verdict(pinned.names, wanted, own=False)
        if not verdict.allowed and pinned.belongs_to(self._caller.peer):
            return self._target_grants.verdict(pinned.names, wanted, own=True)
        return verdict

    def verdict_on(self, wanted: tuple[Permission, ...]) -> Verdict:
        """Return the verdict on other things that are wanted of the pinned target."""
        return self._decide(self._pinned, wanted)

    def require(self, names: Names, wanted: tuple[Permission, ...]) -> None:
        """Check that the rules also allow `wanted` of what has these names, and record them with the others.

        Raises PermissionDenied.
        """
        verdict = self.grants.verdict(names, wanted, own=False)
        if not verdict.allowed:
            self._is_refused = True
            raise PermissionDenied
        self.verdict = self.verdict._replace(rule=" ".join(dict.fromkeys(f"{self.verdict.rule} {verdict.rule}".split())))

    def narrow(self) -> None:
        """Reduce `wanted` to what is allowed.  Raises PermissionDenied when nothing is."""
        pairs = zip(self.wanted or (), self.verdict.rules, strict=True)
        self.wanted = [permission for permission, rule in pairs if rule is not None]
        if not self.wanted:
            raise PermissionDenied
        self.verdict = self.verdict_on(tuple(self.wanted))

    def wanted_types(self) -> list[NamespaceType]:
        """Return the types of namespace that are wanted, once the target is pinned."""
        return [permission for permission in self.wanted or () if isinstance(permission, NamespaceType)]

    def open(self) -> list[Namespace]:
        """Open the wanted namespaces of the pinned target.  The audit record will name them.

        They are the caller's to close, once the authorization has been left without an error.
        """
        self._open(zip(self.wanted_types(), self.verdict.by_name, strict=True), self._opened)
        return self._opened

    def open_network(self) -> Namespace:
        """Open the network namespace of the pinned target, for something that is made inside.  Ownership is as in `open`."""
        self._open([(NamespaceType.NET, all(self.verdict.by_name))], self._opened)
        return self._opened[0]

    def ids(self) -> list[str]:
        """Return the ids of the wanted namespaces, such as net:[4026531840].  They are read with the same rights as in `open`."""
        opened: list[Namespace] = []
        try:
            self._open(zip(self.wanted_types(), self.verdict.by_name, strict=True), opened)
            return [str(ns) for ns in opened]
        finally:
            self._close(opened)

    def _open(self, ns_types: Iterable[tuple[NamespaceType, bool]], opened: list[Namespace]) -> None:
        """Open namespaces, each with whether a rule that names the target allows it, and append them to `opened`.

        If a type is allowed only because the process is the peer's own, its namespace is opened with the peer's rights instead
        of the broker's.  The kernel then refuses what it would refuse to the peer: whatever the uid, no user may look into a
        process that has capabilities, that is not dumpable, or that acts as this user only for a moment
        (PTRACE_MODE_READ_FSCREDS in ptrace(2)).
        """
        pinned = self._pinned
        is_process = pinned.is_process
        for ns_type, by_name in ns_types:
            if by_name or not is_process:
                opened.append(pinned.open(ns_type))
            else:
                opened.append(pinned.open_as(self._caller.peer.credentials, ns_type))

    def _close(self, namespaces: Iterable[Namespace]) -> None:
        close_namespaces(namespaces, self._context.users.closer, self._caller.peer.user)

    def check_access(self) -> None:
        """Check that the kernel would let the peer look into its own process, for something that is not a namespace.

        `open` does this check for namespaces.  Raises PermissionDenied, NoSuchTarget.
        """
        pinned = self._pinned
        if pinned.is_process and not all(self.verdict.by_name):
            pinned.open_as(self._caller.peer.credentials, NamespaceType.NET).close()

    def explain(self) -> Verdict:
        """Return the verdict as `open` would apply it, with the kernel's check of the peer's rights.  Nothing is handed over.

        Raises PermissionDenied when the peer may not even know what the target is.
        """
        verdict, pinned = self.verdict, self._pinned
        if not all(verdict.by_name) and not pinned.is_open_to(self._caller.peer.credentials):
            rules = [rule if by_name else None for rule, by_name in zip(verdict.rules, verdict.by_name, strict=True)]
            self.verdict = Verdict(False, rules, " ".join(filter(None, dict.fromkeys(rules))), verdict.by_name)
        if not any(self.verdict.rules) and not self._target_grants.is_named(self._names):
            # If no rule allows the peer anything of this target, it must not learn what the target is.
            raise PermissionDenied
        return self.verdict

    def on_failure(self, undo: Callable[[], object]) -> None:
        """Call `undo` if the authorization is left with an error, or if leaving it fails."""
        self._undo.append(undo)

    def finish(self) -> None:
        """Check that the pinned target is unchanged, and record the verdict with the namespaces that were opened.

        This happens when the authorization is left.  A method calls it earlier when something else has to come after the record.
        Raises NoSuchTarget, TargetChanged, RecordFailed.
        """
        if not self._finished:
            self._pinned.check_unchanged()
            self._record("allowed" if self.verdict.allowed else "denied", self._opened)
            self._finished = True

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Finish the authorization.  An error in the block is recorded, and replaced by the error that the peer may know."""
        failure = error
        try:
            if failure is None:
                self.finish()
                return
        except BaseException as late:
            failure = late
        finally:
            self._pinned.close()
        self._close(self._opened)
        for undo in self._undo:
            undo()
        if isinstance(failure, Exception):
            try:
                raise self._fail(failure) from None
            finally:
                # The error refers to this frame, which must not refer to the error: see `__enter__`.
                del error, failure
        if failure is not error:
            raise failure

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Do the same as on leaving `with`."""
        try:
            self.__exit__(kind, error, trace)
        finally:
            del error

    def _fail(self, error: Exception) -> BrokerError:
        """Record a failure, and return the error for the peer."""
        if is_out_of_files(error):
            error = QuotaExceeded("open files of the broker")
        if not self.verdict.allowed and self.wanted is not None:
            # There is no verdict on facts about the target.  The rules for its name alone decide whether this is recorded as a
            # failure or as a refusal.
            self.verdict = self._target_grants.verdict(self._names, tuple(self.wanted), own=False)
        allowed = self.verdict.allowed or (self.wanted is None and self._target_grants.is_named(self._names))
        if isinstance(error, PermissionDenied) and (self._is_refused or not allowed):
            self._record("denied")
        else:
            self._record("failed" if allowed else "denied", error=f"{type(error).__name__}: {error}")
        return self._hide_details(error)

    def _hide_details(self, error: Exception) -> BrokerError:
        if isinstance(error, _HARMLESS):
            return error
        # A peer may know anything about itself.
        may_know = self._target.kind is TargetKind.SELF or self.verdict.allowed or self._target_grants.is_named(self._names)
        if isinstance(error, BrokerError) and not isinstance(error, PermissionDenied) and may_know:
            return error
        return PermissionDenied()

    def _wanted_text(self) -> str:
        return "every type" if self.wanted is None else " ".join(map(str, self.wanted))

    def _record(self, verdict: str, namespaces: Sequence[Namespace] = (), *, error: str = "") -> None:
        self._context.audit.record(
            self._caller.peer,
            self._method,
            self.target_text,
            verdict,
            rule=self.verdict.rule,
            namespaces=namespaces,
            wanted=self.details if namespaces else self.details or self._wanted_text(),
            error=error,
        )
