"""Explain for somebody else: what root is told is what the other user gets."""

from pathlib import Path

import pytest

from nsbroker.client.blocking import connect
from nsbroker.errors import InvalidParameter, PermissionDenied
from nsbroker.protocol.messages import ExplainReply
from tests.world import ALICE, BOB, Daemon, Sleeper, as_user

pytestmark = pytest.mark.root


def ask(
    daemon: Daemon, target: str, types: list[str] | None = None, *, uid: int = ALICE, sockets: list[str] | None = None
) -> ExplainReply:
    with daemon.connect() as broker:
        return broker.explain(target, types, who=[f"user:{uid}"], sockets=sockets)


def fits(reply: ExplainReply, name: str) -> tuple[bool, bool, bool]:
    """Return whether a rule fits the user and the target, and whether it has ended."""
    [rule] = [rule for rule in reply.rules or () if rule.rule == name]
    return rule.who, rule.target, rule.ended


def test_each_rule_says_what_fits_and_what_does_not(daemon: Daemon, blue: Path) -> None:
    daemon.allow("other-user", who=[f"user:{BOB}"], targets=["name:blue"], namespaces=["net"])
    daemon.allow("other-target", who=[f"user:{ALICE}"], targets=["name:green"], sockets=["inet:stream"])
    daemon.allow("other-type", who=[f"user:{ALICE}"], targets=["name:blue"], namespaces=["uts"], sockets=["inet:stream"])
    path = daemon.config / "nsbroker.d/over.toml"
    rule = f'name = "over"\nwho = ["user:{ALICE}"]\ntargets = ["name:blue"]\nnamespaces = ["net"]\nuntil = 2001-01-01T00:00:00Z\n'
    path.write_text(f"[[allow]]\n{rule}")
    daemon.reload()
    reply = ask(daemon, "name:blue", ["net"], sockets=["inet:stream"])
    assert (reply.allowed, reply.target_unknown, reply.rules_left_out) == (False, None, None)
    assert [(verdict.allowed, verdict.rule) for verdict in (*reply.verdicts, *(reply.sockets or ()))] == [
        (False, None),
        (True, "other-type"),
    ]
    assert fits(reply, "other-user") == (False, True, False)
    assert fits(reply, "other-target") == (True, False, False)
    assert fits(reply, "other-type") == (True, True, False)
    assert fits(reply, "over") == (True, True, True)
    assert fits(reply, "root") == (False, True, False)
    by_name = {one.rule: one for one in reply.rules or ()}
    assert (by_name["other-type"].allows, by_name["other-type"].lacks) == (["inet:stream"], ["net"])
    assert by_name["over"].file == str(path)
    # The rule that fits best comes first.
    assert (reply.rules or [])[0].rule == "other-type"


def test_own_is_the_other_users_own(daemon: Daemon) -> None:
    with Sleeper("", uid=ALICE) as hers:
        target = f"pid:{hers.pid}"
        assert ask(daemon, target, ["net"]).verdicts[0].rule == "own"
        assert not ask(daemon, target, ["net"], uid=BOB).allowed
    assert ask(daemon, "self", ["net"]).verdicts[0].rule == "own"


def test_a_held_name_of_another_user_takes_the_exact_name(daemon: Daemon) -> None:
    daemon.allow("lab", who=[f"user:{ALICE}"], targets=["name:*"], namespaces=["net"], create=["net"], hold=["net"])
    daemon.allow("bob", who=[f"user:{BOB}"], targets=["name:l*"], namespaces=["net"])

    def create() -> None:
        with connect(daemon.address) as broker:
            for ns in broker.create(["net"], name="lab").namespaces.values():
                ns.close()

    as_user(ALICE, create)
    assert ask(daemon, "name:lab").verdicts[0].rule == "lab"
    assert fits(ask(daemon, "name:lab", uid=BOB), "bob") == (True, False, False)
    daemon.allow("bob", who=[f"user:{BOB}"], targets=["name:lab"], namespaces=["net"])
    assert ask(daemon, "name:lab", uid=BOB).verdicts[0].rule == "bob"


def test_a_target_that_is_not_there_is_compared_by_its_name(daemon: Daemon) -> None:
    daemon.allow("green", who=[f"user:{ALICE}"], targets=["name:green"], namespaces=["net"])
    reply = ask(daemon, "name:green", ["net"])
    assert reply.allowed
    assert "name:green" in (reply.target_unknown or "")


def test_others_than_root_are_refused_and_recorded(daemon: Daemon) -> None:
    def attempt() -> str:
        with connect(daemon.address) as broker:
            try:
                broker.explain("self", ["net"], who=[f"user:{ALICE}"])
            except PermissionDenied:
                return "denied"
        return "allowed"

    assert as_user(ALICE, attempt) == "denied"
    with daemon.connect() as broker:
        broker.restrict(["*"], namespaces=["*"])
        with pytest.raises(PermissionDenied):
            broker.explain("self", ["net"], who=[f"user:{ALICE}"])
    ask(daemon, "self", ["net"])
    records = [one for one in daemon.records() if one["method"] == "Explain"]
    assert [(one["verdict"], one["peer_uid"], one["wanted"]) for one in records] == [
        ("denied", ALICE, f"net as user:{ALICE}"),
        ("denied", 0, f"net as user:{ALICE}"),
        ("allowed", 0, f"net as user:{ALICE}"),
    ]


def test_somebody_who_is_not_there_is_a_wrong_parameter(daemon: Daemon) -> None:
    with daemon.connect() as broker:
        for words in ([], ["user:nosuchuser"], ["user:1", "user:2"], ["unit:a.service"], ["everyone"]):
            with pytest.raises(InvalidParameter) as caught:
                broker.explain("self", ["net"], who=words)
            assert caught.value.parameter == "as"


def test_more_rules_than_a_message_can_carry_are_counted(daemon: Daemon) -> None:
    text = '[[allow]]\nname = "many-{}"\nwho = "user:1"\ntargets = "name:x"\nnamespaces = "net"\n'
    (daemon.config / "nsbroker.d/many.toml").write_text("".join(map(text.format, range(500))))
    daemon.allow("right", who=[f"user:{ALICE}"], targets=["name:green"], namespaces=["net"])
    reply = ask(daemon, "name:green", ["net"])
    assert (reply.rules or [])[0].rule == "right"
    assert len(reply.rules or ()) + (reply.rules_left_out or 0) == 503
    assert reply.rules_left_out
