"""How each rule fits a subject, a target and what is wanted of it: for people who look for the rule that is missing."""

from collections.abc import Sequence
from typing import NamedTuple

from nsbroker.daemon.policy.grants import Rule
from nsbroker.daemon.policy.permission import Permission
from nsbroker.daemon.policy.rules import Policy
from nsbroker.daemon.policy.scope import Names
from nsbroker.daemon.policy.subject import Subject


class Question(NamedTuple):
    """What is asked: whether `subject` may have `wanted` of the target with these names.

    `own`: the target is the subject's own, and the kernel lets that user look into it.  `exactly`: another user chose the name,
    so only rules that have exactly this name, or that are for anything, name the target; no pattern is enough.
    """

    subject: Subject
    names: Names
    wanted: Sequence[Permission]
    own: bool
    exactly: bool


class RuleFit(NamedTuple):
    """How one rule fits."""

    rule: Rule
    who: bool
    named: bool
    """Whether the rule names the target, or is for anything."""
    own: bool
    """Whether it is for what is the subject's own, and the target is."""
    ended: bool
    allows: tuple[Permission, ...]
    lacks: tuple[Permission, ...]

    @property
    def target(self) -> bool:
        """Whether the rule is for the target."""
        return self.named or self.own

    @property
    def closeness(self) -> int:
        """How much of the rule fits."""
        return self.who + self.target + (not self.ended) + bool(self.allows)


def fit_rules(policy: Policy, question: Question) -> list[RuleFit]:
    """Return how each rule fits, in the order of the rules; those that had ended when they were loaded come last."""
    return [_fit(rule, question, ended) for rule, ended in policy.all_rules()]


def allowing_rules(fits: Sequence[RuleFit], wanted: Sequence[Permission]) -> list[str | None]:
    """Return for each thing that is wanted the name of the first rule that allows it; None where none does.

    As in a verdict, what is the subject's own counts only if the rules that name the target do not allow everything.
    """
    by_name = [fit for fit in fits if fit.who and fit.named and not fit.ended]
    rules = [next((fit.rule.name for fit in by_name if one in fit.allows), None) for one in wanted]
    if None not in rules:
        return rules
    by_any = [fit for fit in fits if fit.who and fit.target and not fit.ended]
    return [next((fit.rule.name for fit in by_any if one in fit.allows), None) for one in wanted]


def _fit(rule: Rule, question: Question, ended: bool) -> RuleFit:
    named = rule.has_exactly(question.names) if question.exactly else rule.is_named(question.names)
    pairs = [(one, rule.allowance.allows(one)) for one in question.wanted]
    allows = tuple(one for one, is_allowed in pairs if is_allowed)
    lacks = tuple(one for one, is_allowed in pairs if not is_allowed)
    return RuleFit(rule, question.subject.is_in(rule), named, rule.own and question.own, ended, allows, lacks)
