"""How rules fit is what verdicts rest on: for every subject, target and permission, the two agree."""

import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsbroker.daemon.configuration import Configuration, RuleText, SourcedRule, SourceFile
from nsbroker.daemon.peer import Peer
from nsbroker.daemon.policy.explanation import Question, allowing_rules, fit_rules
from nsbroker.daemon.policy.grants import names_of
from nsbroker.daemon.policy.permission import Device, File, Permission
from nsbroker.daemon.policy.rules import Policy
from nsbroker.daemon.policy.subject import Subject
from nsbroker.model.identity import NamespaceType
from nsbroker.model.socket_kind import SocketKind
from nsbroker.model.target import Target

NET, UTS = NamespaceType.NET, NamespaceType.UTS
WANTED: tuple[Permission, ...] = (NET, UTS, SocketKind.parse("inet:stream"), Device("null"), File("hosts"))
PAST, FUTURE = (datetime.datetime(year, 1, 1, tzinfo=datetime.UTC) for year in (2001, 2999))


def _some(*words: str, least: int = 0) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(words), min_size=least).map(tuple)


_rule = st.builds(
    RuleText,
    name=st.just(""),
    who=_some("everyone", "user:7", "user:8", "group:70", "unit:a.service", "docker:web", "container:w*", least=1),
    targets=_some("own", "*", "name:blue", "name:b*", "pid:5", "docker:web", "container:*", least=1),
    namespaces=_some("net", "*", least=1),
    sockets=_some("inet:stream", "*"),
    devices=_some("null", "*"),
    files=_some("hosts", "*"),
    until=st.sampled_from((None, PAST, FUTURE)),
)
_words = st.sampled_from(
    (["user:7"], ["user:8", "group:70"], ["user:9", "unit:a.service"], ["user:9", "docker:web"], ["user:9", "group:71"])
)


def policy(rules: list[RuleText]) -> Policy:
    file = SourceFile(Path("x"), "")
    named = [msgspec.structs.replace(rule, name=f"r{number}") for number, rule in enumerate(rules)]
    return Policy(Configuration(tuple(SourcedRule(rule, file, number) for number, rule in enumerate(named))))


def peer(subject: Subject) -> Peer:
    """The peer that the subject would be.  It is made up; test_peer tests real peers."""
    workload = SimpleNamespace(names=subject.container) if subject.container else None
    found = SimpleNamespace(
        uid=subject.uid,
        groups_among=subject.groups.intersection,
        anonymous=False,
        unit=lambda: subject.unit,
        workload=lambda: workload,
    )
    return cast(Peer, found)


_target = st.sampled_from(("name:blue", "pid:5", "pid:6", "docker:web", "container:db"))


@given(st.lists(_rule, max_size=4), _words, _target, st.booleans())
def test_what_the_rules_that_fit_allow_is_the_verdict(rules: list[RuleText], words: list[str], target: str, own: bool) -> None:
    compiled, subject, names = policy(rules), Subject.parse(words), names_of(Target.parse(target))
    fits = fit_rules(compiled, Question(subject, names, WANTED, own, exactly=False))
    assert sorted(fit.rule.name for fit in fits) == [f"r{number}" for number in range(len(rules))]
    grants = compiled.grants(peer(subject))
    verdict = grants.verdict(names, WANTED, own=False)
    if not verdict.allowed:
        verdict = grants.verdict(names, WANTED, own=own)
    assert allowing_rules(fits, WANTED) == verdict.rules
    for fit in fits:
        assert {*fit.allows, *fit.lacks} == set(WANTED)
        assert fit.ended == (fit.rule.until < FUTURE.timestamp())


@given(st.lists(_rule, max_size=4), _words)
def test_for_a_name_that_another_user_chose_the_same_rules_count_as_in_a_verdict(rules: list[RuleText], words: list[str]) -> None:
    compiled, subject, names = policy(rules), Subject.parse(words), ("name:blue",)
    fits = fit_rules(compiled, Question(subject, names, WANTED, own=False, exactly=True))
    grants = compiled.grants(peer(subject))
    assert allowing_rules(fits, WANTED) == grants.exactly("name:blue").verdict(names, WANTED, own=False).rules
    types = grants.types_of_held("name:blue", own=False)
    assert types & {NET, UTS} == {one for one, rule in zip(WANTED, allowing_rules(fits, WANTED), strict=True) if rule} & {NET, UTS}


def test_what_is_asked_of_a_rule_takes_time_in_proportion_to_its_length() -> None:
    """Each comparison of two things that are asked is counted, since the time itself depends on the machine."""
    compared: list[object] = []

    class Counted(Device):
        __slots__ = ()
        __hash__ = Device.__hash__

        def __eq__(self, other: object) -> bool:
            compared.append(other)
            return super().__eq__(other)

    wanted = [Counted(f"dev{number}") for number in range(64)]
    texts = [RuleText("a", ("everyone",), ("*",), devices=("*",))]
    fit_rules(policy(texts), Question(Subject.parse(["user:7"]), ("pid:5",), wanted, own=False, exactly=False))
    assert len(compared) <= len(wanted)


@pytest.mark.parametrize(
    ("targets", "fit"),
    [
        (["name:b*"], [False]),
        (["name:b*", "name:blue"], [False, True]),
        (["name:b*", "*"], [False, True]),
        (["name:b*", "name:green"], [False, False]),
    ],
)
def test_a_name_that_another_user_chose_takes_a_rule_with_exactly_this_name(targets: list[str], fit: list[bool]) -> None:
    texts = [RuleText("a", ("everyone",), (target,), ("net",)) for target in targets]
    # A rule for somebody else does not count.
    texts.append(RuleText("a", ("user:8",), ("name:blue",), ("net",)))
    question = Question(Subject.parse(["user:7"]), ("name:blue",), (NET,), own=False, exactly=True)
    assert [one.target for one in fit_rules(policy(texts), question)][: len(fit)] == fit
