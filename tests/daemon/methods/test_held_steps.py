"""Create, Hold and Release, with a step of them replaced: what happens in between, and what is recorded."""

import socket
from collections.abc import AsyncGenerator, Coroutine, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from nsbroker.daemon.limits.namespace_closing import close_namespaces
from nsbroker.daemon.limits.users import ANONYMOUS
from nsbroker.daemon.methods.call import Reply
from nsbroker.daemon.methods.open_socket import OpenSocketMethod
from nsbroker.daemon.methods.socket_maker import SocketMaker
from nsbroker.daemon.targets import held_store as held_store_module
from nsbroker.errors import RecordFailed
from nsbroker.linux import descriptors
from nsbroker.linux.closing import Closer
from nsbroker.model.identity import NamespaceType
from nsbroker.namespace import Namespace
from nsbroker.protocol.messages import ExplainReply, HeldDescription, ListHeldReply
from nsbroker.varlink.connection import IncomingCall
from nsbroker.varlink.message import decode_call
from tests.daemon.one_caller import OneCaller
from tests.world import ALICE, BOB

pytestmark = pytest.mark.root

RULES = """
[[allow]]
name = "open"
who = "everyone"
targets = ["self"]
namespaces = ["*"]

[[allow]]
name = "lab"
who = "everyone"
targets = ["name:lab*"]
create = ["*"]
hold = ["net", "uts"]
"""


DENIED, INVALID = "org.varlink.service.PermissionDenied", "org.varlink.service.InvalidParameter"


@pytest.fixture
def one(tmp_path: Path) -> Iterator[OneCaller]:
    one = OneCaller(tmp_path, RULES)
    yield one
    one.context.held_store.close()
    one.close()


async def ask(one: OneCaller, method: str, **parameters: object) -> Reply:
    data = msgspec.json.encode({"method": f"io.nsbroker.Broker.{method}", "parameters": parameters})
    result = one.dispatcher.dispatch(one.caller, IncomingCall(decode_call(data), []))
    reply = await result if isinstance(result, Coroutine) else result
    assert isinstance(reply, Reply)
    descriptors.close_all(reply.fds)
    return reply


async def hold(one: OneCaller, name: str = "lab") -> None:
    assert (await ask(one, "Hold", target={"self": True}, types=["net"], name=name)).error is None


async def list_held(one: OneCaller) -> list[HeldDescription]:
    data = b'{"method":"io.nsbroker.Broker.ListHeld","parameters":{},"more":true}'
    stream = one.dispatcher.dispatch(one.caller, IncomingCall(decode_call(data), []))
    assert isinstance(stream, AsyncGenerator)
    replies = [reply.parameters async for reply in stream]
    return [reply.held for reply in replies if isinstance(reply, ListHeldReply) and reply.held is not None]


async def test_what_is_released_stays_held_when_that_cannot_be_recorded(one: OneCaller, monkeypatch: pytest.MonkeyPatch) -> None:
    await hold(one)

    async def settle(_: object) -> None:
        raise RecordFailed("the journal took no record")

    with monkeypatch.context() as patch:
        patch.setattr(one.context.audit, "settle", settle)
        assert (await ask(one, "Release", name="lab")).error == "io.nsbroker.Broker.RecordFailed"
    assert len(one.context.held_store) == 1
    assert (await ask(one, "Release", name="lab")).error is None
    assert len(one.context.held_store) == 0


async def test_a_release_that_waited_for_its_record_leaves_what_has_the_name_by_then(
    one: OneCaller, monkeypatch: pytest.MonkeyPatch
) -> None:
    await hold(one)
    held_store, closer = one.context.held_store, one.context.users.closer
    before = held_store.find("lab")
    assert before is not None

    async def settle(_: object) -> None:
        monkeypatch.undo()
        held_store.release(before, closer)
        with Namespace.current(NamespaceType.NET) as ns:
            await held_store.hold("lab", 7, [ns], closer, 7)

    monkeypatch.setattr(one.context.audit, "settle", settle)
    assert (await ask(one, "Release", name="lab")).error == "io.nsbroker.Broker.NoSuchTarget"
    assert [held.uid for held in held_store] == [7]
    assert [record.verdict for record in one.records if record.method == "Release"] == ["allowed", "failed"]


@pytest.mark.parametrize("when", ["before it is opened", "after it was opened"])
async def test_a_call_during_which_its_target_is_released_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    one = OneCaller(tmp_path, f'{RULES}\n[[allow]]\nname = "use"\nwho = "everyone"\ntargets = ["name:lab"]\nsockets = ["*"]\n')
    assert (await ask(one, "Create", types=["net"], name="lab")).error is None
    make = SocketMaker.make

    async def make_late(*arguments: Any) -> socket.socket:
        assert (await ask(one, "Release", name="lab")).error is None
        return await make(*arguments)

    async def release() -> None:
        assert (await ask(one, "Release", name="lab")).error is None

    async with trio.open_nursery() as nursery:
        if when == "before it is opened":
            # As if the user were above the limit on sockets.
            monkeypatch.setattr(OpenSocketMethod, "_delay", lambda *_: 0.1)
            nursery.start_soon(release)
        else:
            monkeypatch.setattr(SocketMaker, "make", make_late)
        reply = await ask(one, "OpenSocket", target={"name": "lab"}, family="inet", type="stream")
    assert reply.error == "io.nsbroker.Broker.NoSuchTarget"
    assert [record.verdict for record in one.records if record.method == "OpenSocket"] == ["failed"]
    assert one.records[-1].error.endswith("it was released meanwhile")
    assert len(one.context.held_store) == 0
    one.close()


async def test_calls_that_create_together_keep_to_the_limit_of_their_user(one: OneCaller) -> None:
    """Each waits for the thread that makes its namespace, so all of them are under way before the first one has ended."""
    one.context.created.most = 2
    one.peer.user = ALICE  # Root has no limit.
    errors: list[str] = []

    async def create(name: str) -> None:
        errors.append((await ask(one, "Create", types=["net"], name=name)).error or "created")

    async with trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(create, f"lab{number}")
    assert sorted(errors) == ["created", "created", *["io.nsbroker.Broker.QuotaExceeded"] * 2]


async def test_a_record_of_hold_has_the_name_and_the_rules_for_both(one: OneCaller) -> None:
    await hold(one)
    (record,) = one.records
    assert (record.verdict, record.target, record.wanted, record.rule) == ("allowed", "self", "net as name:lab", "open lab")
    assert record.namespaces.startswith("net:[")
    for types, name in ((["uts", "ipc"], "lab-2"), (None, "lab-2"), (["net"], "other")):
        assert (await ask(one, "Hold", target={"self": True}, types=types, name=name)).error == DENIED
        record = one.records[-1]
        wanted = " ".join(types or ("every type",))
        assert (record.verdict, record.wanted, record.error) == ("denied", f"{wanted} as name:{name}", "")
    assert (await ask(one, "Hold", target={"self": True}, types=["net"], name="lab")).error == "io.nsbroker.Broker.NameTaken"
    assert one.records[-1].verdict == "failed"
    count = len(one.records)
    assert (await ask(one, "Hold", target={"self": True}, types=["net"], name="a b")).error == INVALID
    assert len(one.records) == count, "a name that cannot be in a rule is no call to decide about"


async def test_nothing_is_held_for_a_peer_whose_uid_proves_nothing(one: OneCaller) -> None:
    """It would belong to root, or to the overflow uid, and the peer could neither list nor release it."""
    one.peer.anonymous, one.peer.user = True, ANONYMOUS
    assert (await ask(one, "Hold", target={"self": True}, types=["net"], name="lab")).error == DENIED
    assert (await ask(one, "Create", types=["net"], name="lab")).error == DENIED
    assert [(record.method, record.verdict, record.peer_anonymous) for record in one.records] == [
        ("Hold", "denied", True),
        ("Create", "denied", True),
    ]
    assert len(one.context.held_store) == 0


async def test_of_what_another_user_holds_only_rules_with_exactly_this_name_give_something(tmp_path: Path) -> None:
    rule = '[[allow]]\nname = "{0}"\nwho = "everyone"\ntargets = ["name:{1}"]\nnamespaces = {2}\nhold = {2}\n'
    one = OneCaller(tmp_path, rule.format("lab", "lab", '["net"]') + rule.format("any", "l*", '["*"]'))
    one.peer.uid = one.peer.user = ALICE
    held_store, closer = one.context.held_store, one.context.users.closer
    for name in ("lab", "left"):
        with Namespace.current(NamespaceType.NET) as net, Namespace.current(NamespaceType.UTS) as uts:
            await held_store.hold(name, BOB, [net, uts], closer, BOB)
    lab = {"name": "lab"}
    errors = [(await ask(one, "Open", target=lab, types=types)).error for types in (["net"], ["uts"], ["net", "uts"])]
    assert errors == [None, DENIED, DENIED]
    assert (await ask(one, "Open", target={"name": "left"}, types=["uts"])).error == "io.nsbroker.Broker.NoSuchTarget"
    explained = (await ask(one, "Explain", target=lab, types=["net", "uts"])).parameters
    assert isinstance(explained, ExplainReply)
    assert [(verdict.type, verdict.rule) for verdict in explained.verdicts] == [("net", "lab"), ("uts", None)]
    # The rules for the name under which it is held again are those for any name.
    assert (await ask(one, "Hold", target=lab, types=["net"], name="last")).error is None
    assert one.records[-1].rule == "lab any"
    assert [(found.name, found.type) for found in await list_held(one)] == [("lab", "net"), ("last", "net")]
    held_store.close()
    one.close()


async def test_subordinate_uids_share_what_their_user_may_hold_and_each_owns_what_it_holds(
    one: OneCaller, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed_for: list[int] = []

    def close(namespaces: Iterable[Namespace], closer: Closer, user: int) -> None:
        closed_for.append(user)
        close_namespaces(namespaces, closer, user)

    monkeypatch.setattr(held_store_module, "close_namespaces", close)
    one.peer.user = ALICE
    errors = []
    for number in range(5):
        one.peer.uid = 100_000 + number
        errors.append((await ask(one, "Hold", target={"self": True}, types=["net"], name=f"lab-{number}")).error)
    errors.append((await ask(one, "Create", types=["net"], name="lab-6")).error)
    assert errors == [*[None] * 4, *["io.nsbroker.Broker.QuotaExceeded"] * 2]
    assert (await ask(one, "Release", name="lab-0")).error == DENIED
    one.peer.uid = one.peer.user = 0
    assert (await ask(one, "Release", name="lab-0")).error is None
    assert closed_for == [ALICE], "root does not wait for that user's mounts"


async def test_while_everything_that_is_held_is_looked_at_others_have_their_turn(one: OneCaller) -> None:
    """The caller may see none of it, so no reply is sent in between."""
    with Namespace.current(NamespaceType.NET) as ns:
        for uid in range(5000, 5100):
            await one.context.held_store.hold(f"kept-{uid}", uid, [ns], one.context.users.closer, uid)
    one.peer.uid = one.peer.user = ALICE
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        assert await list_held(one) == []
        nursery.cancel_scope.cancel()
    assert turns >= 10
