"""Explain for somebody else: root asks what the policy allows a user, and how each rule fits."""

from collections.abc import Sequence

import msgspec
import trio

from nsbroker.daemon.context import Context
from nsbroker.daemon.engines.query import EngineQuery
from nsbroker.daemon.methods.call import Caller, Reply
from nsbroker.daemon.methods.explain_messages import make_reply
from nsbroker.daemon.policy.explanation import Question, RuleFit, allowing_rules, fit_rules
from nsbroker.daemon.policy.grants import names_of
from nsbroker.daemon.policy.permission import Permission
from nsbroker.daemon.policy.subject import Subject
from nsbroker.daemon.targets.pinned import Pinned, PinnedHeld
from nsbroker.daemon.targets.resolve import resolve, resolve_slowly, takes_time
from nsbroker.errors import (
    ConfigurationError,
    EngineUnavailable,
    InvalidParameter,
    InvalidTarget,
    NoSuchTarget,
    PermissionDenied,
    TimedOut,
)
from nsbroker.model.identity import NamespaceType
from nsbroker.model.interface import InterfaceKind
from nsbroker.model.target import TargetKind
from nsbroker.model.text import escaped
from nsbroker.protocol.messages import ExplainReply, ExplainRequest, RuleVerdict

# A client takes messages of 64 KiB.  The rest of the reply, with 64 things of each kind, takes less than a third of it.
_RULES_SIZE_MAX = 40 * 1024
_encoder = msgspec.json.Encoder()


class ExplainAs:
    """One call of Explain with `as`.  Raises InvalidParameter, and PermissionDenied for everybody but root."""

    def __init__(self, context: Context, caller: Caller, request: ExplainRequest, wanted: tuple[Permission, ...] | None) -> None:
        self._context = context
        self._caller = caller
        self._target = request.target.to_target()
        self._text = str(self._target)
        self._words = request.as_ or []
        self._wanted = wanted
        if not caller.is_root:
            self._record("denied")
            raise PermissionDenied
        if self._target.kind is TargetKind.PIDFD:
            raise InvalidParameter("target")

    async def explain(self) -> Reply:
        """Return how each rule fits, and the verdict."""
        try:
            # The host's user database can be one on the network.
            subject = await trio.to_thread.run_sync(Subject.parse, self._words)
        except (ConfigurationError, InvalidTarget) as error:
            raise InvalidParameter("as") from error
        self._record("allowed")
        return Reply(await self._explain(subject))

    async def _explain(self, subject: Subject) -> ExplainReply:
        names = names_of(self._target)
        wanted: Sequence[Permission] = tuple(NamespaceType) if self._wanted is None else self._wanted
        if self._target.kind is TargetKind.SELF:
            # Everybody's own process is there, whichever it is.
            return self._reply(self._text, Question(subject, names, wanted, own=True, exactly=False))
        try:
            pinned = await self._pin(subject)
        except (NoSuchTarget, EngineUnavailable, TimedOut) as error:
            reply = self._reply(self._text, Question(subject, names, wanted, own=False, exactly=False))
            reply.target_unknown = str(error)
            return reply
        try:
            if self._wanted is None:
                wanted = pinned.types()
            is_mine = pinned.belongs_to(subject)
            own = is_mine and pinned.is_open_to(subject.credentials)
            exactly = isinstance(pinned, PinnedHeld) and not is_mine
            reply = self._reply(pinned.target, Question(subject, pinned.names, wanted, own, exactly))
            pinned.check_unchanged()
        finally:
            pinned.close()
        return reply

    async def _pin(self, subject: Subject) -> Pinned:
        """Pin the target (the caller closes it) as root knows it, with the rootless containers of the subject."""
        context, closer = self._context, self._context.users.closer
        if not takes_time(self._target):
            return resolve(self._target, self._text, self._caller.peer, None, [], context.held_store, closer)
        query = EngineQuery(subject.uid, subject.uid, subject.gid, subject.uid != 0, lambda _: True, lambda _: True)
        return await resolve_slowly(self._target, context.engines, query, context.locations, context.threads, closer)

    def _reply(self, target: str, question: Question) -> ExplainReply:
        fits = fit_rules(self._context.policy, question)
        reply = make_reply(target, question.wanted, allowing_rules(fits, question.wanted))
        fits.sort(key=lambda fit: fit.closeness, reverse=True)
        reply.rules = _verdicts(fits)
        reply.rules_left_out = len(fits) - len(reply.rules) or None
        return reply

    def _record(self, verdict: str) -> None:
        wanted = "every type" if self._wanted is None else " ".join(map(str, self._wanted))
        self._context.audit.record(self._caller.peer, "Explain", self._text, verdict, wanted=f"{wanted} as {' '.join(self._words)}")


def _verdicts(fits: Sequence[RuleFit]) -> list[RuleVerdict]:
    """Return as many of the verdicts as fit into the reply."""
    found: list[RuleVerdict] = []
    left = _RULES_SIZE_MAX
    for fit in fits:
        allows, lacks = ([_describe(one) for one in some] for some in (fit.allows, fit.lacks))
        verdict = RuleVerdict(fit.rule.name, escaped(str(fit.rule.origin)), fit.who, fit.target, fit.ended, allows, lacks)
        left -= len(_encoder.encode(verdict)) + 1
        if left < 0:
            break
        found.append(verdict)
    return found


def _describe(permission: Permission) -> str:
    return f"interface {permission}" if isinstance(permission, InterfaceKind) else str(permission)
