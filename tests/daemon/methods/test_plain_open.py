"""Plain calls to Open: they reply as others do, and whatever goes wrong on their way is left to the general way."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from nsbroker.daemon import configuration
from nsbroker.daemon.methods import plain_open
from nsbroker.daemon.methods.authorization import Authorization
from nsbroker.daemon.methods.call import Reply
from nsbroker.daemon.policy.rules import Policy
from nsbroker.linux import descriptors, pidfd
from nsbroker.linux.features import Features, features
from nsbroker.varlink.connection import IncomingCall
from nsbroker.varlink.message import decode_call
from tests.daemon.one_caller import ERRORS, OneCaller
from tests.world import Sleeper

pytestmark = pytest.mark.skipif(not features().pidfd_namespaces, reason="no call is plain before Linux 6.11")

RULE = '[[allow]]\nname = "all"\nwho = "everyone"\ntargets = ["pid:*"]\nnamespaces = ["net", "uts"]\n'


@pytest.fixture
def one(tmp_path: Path) -> Iterator[OneCaller]:
    one = OneCaller(tmp_path, RULE)
    yield one
    one.close()


@pytest.fixture
def sleeper() -> Iterator[Sleeper]:
    with Sleeper("--net --uts") as process:
        yield process


@pytest.fixture
def general(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The methods of the calls that went the general way."""
    methods: list[str] = []
    real = Authorization.__init__

    def note(self: Authorization, context: Any, method: str, *rest: Any, **more: Any) -> None:
        methods.append(method)
        real(self, context, method, *rest, **more)

    monkeypatch.setattr(Authorization, "__init__", note)
    return methods


def wants(pid: int, *types: str) -> str:
    return msgspec.json.encode({"target": {"pid": pid}, "types": types}).decode()


def call(one: OneCaller, parameters: str, fds: list[int] | None = None) -> Reply:
    data = f'{{"method":"io.nsbroker.Broker.Open","parameters":{parameters}}}'.encode()
    reply = one.dispatcher.dispatch(one.caller, IncomingCall(decode_call(data), fds or []))
    assert isinstance(reply, Reply)
    return reply


def test_a_plain_call_has_the_reply_and_the_record_of_any_other(
    one: OneCaller, sleeper: Sleeper, general: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for expected in ([], ["Open"]):
        reply = call(one, wants(sleeper.pid, "uts", "net"))
        inodes = [os.fstat(fd).st_ino for fd in reply.fds]
        descriptors.close_all(reply.fds)
        record = msgspec.structs.replace(one.records.pop(), time=0.0)
        found.append((msgspec.json.encode(reply.parameters), inodes, record))
        assert general == expected
        monkeypatch.setattr(plain_open, "features", Features)
    assert found[0] == found[1]
    assert found[0][1] == [os.stat(f"/proc/{sleeper.pid}/ns/{ns_type}").st_ino for ns_type in ("uts", "net")]


@pytest.mark.parametrize(
    "parameters",
    [
        '{"target":{"pid":PID}}',
        '{"target":{"pid":PID},"types":["net"],"expect":{"type":"net"}}',
        '{"target":{"pid":PID},"types":[]}',
        '{"target":{"pid":PID},"types":["net","net"]}',
        '{"target":{"pid":PID},"types":["net","net"' + ',"net"' * 9 + "]}",
        '{"target":{"pid":PID},"types":["net","mnt"]}',
        '{"target":{"pid":PID,"tid":PID},"types":["net"]}',
        '{"target":{"self":true},"types":["net"]}',
        '{"target":{"pid":4194304},"types":["net"]}',
    ],
)
def test_any_other_call_goes_the_general_way(one: OneCaller, sleeper: Sleeper, general: list[str], parameters: str) -> None:
    reply = call(one, parameters.replace("PID", str(sleeper.pid)))
    descriptors.close_all(reply.fds)
    # A list that is empty or has a type twice is refused before anything else.
    assert general == (["Open"] if "[]" not in parameters and '"net","net"' not in parameters else [])
    assert (reply.error is None) == ("expect" in parameters), reply


def test_a_call_with_descriptors_goes_the_general_way(one: OneCaller, sleeper: Sleeper) -> None:
    reply = call(one, wants(sleeper.pid, "net"), [os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)])
    assert reply.error == "org.varlink.service.InvalidParameter"


STEPS = [
    "os.pidfd_open",
    "os.fstat",
    "nsbroker.linux.pidfd.open_namespace",
    "nsbroker.linux.pidfd.has_ended",
    "nsbroker.linux.nsfs.device",
    "nsbroker.daemon.limits.connections.UserRegistry.check",
    "nsbroker.daemon.policy.rules.Policy.grants",
    "nsbroker.daemon.audit.Audit.record",
]


@pytest.mark.parametrize("error", ERRORS, ids=str)
@pytest.mark.parametrize("step", STEPS)
def test_an_error_at_any_step_refuses_the_call_and_leaks_nothing(
    one: OneCaller, sleeper: Sleeper, monkeypatch: pytest.MonkeyPatch, step: str, error: Exception
) -> None:
    parameters = wants(sleeper.pid, "net", "uts")

    def fail(*_: Any, **__: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(step, fail)
        reply = call(one, parameters)
    assert reply.error is not None
    assert list(reply.fds) == []
    reply = call(one, parameters)
    assert reply.error is None
    descriptors.close_all(reply.fds)


def test_a_process_that_ends_between_look_and_open_is_refused(
    one: OneCaller, sleeper: Sleeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = pidfd.open_namespace

    def too_late(process: int, ns_type: str) -> int:
        fd = real(process, ns_type)
        sleeper.end()
        return fd

    monkeypatch.setattr(pidfd, "open_namespace", too_late)
    reply = call(one, wants(sleeper.pid, "net"))
    assert reply.error == "io.nsbroker.Broker.NoSuchTarget"
    assert list(reply.fds) == []
    assert [record.verdict for record in one.records] == ["failed"]


def test_a_reload_counts_from_the_next_call_on(one: OneCaller, sleeper: Sleeper, tmp_path: Path) -> None:
    parameters = wants(sleeper.pid, "net")
    descriptors.close_all(call(one, parameters).fds)
    (tmp_path / "nsbroker.toml").write_text(RULE.replace('"net", ', ""))
    one.context.policy = Policy(configuration.load(tmp_path / "nsbroker.toml"))
    reply = call(one, parameters)
    assert reply.error == "org.varlink.service.PermissionDenied"
    assert [record.verdict for record in one.records] == ["allowed", "denied"]
