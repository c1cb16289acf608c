"""Flags of OpenDevice: what is honoured, and that everything else is refused by name."""

import fcntl
import os

import pytest

from tests.client.every_client import CLIENTS
from tests.daemon.test_dispatcher import call
from tests.world import Daemon, Sleeper

pytestmark = pytest.mark.root


def flags_of(file: object) -> int:
    return fcntl.fcntl(file, fcntl.F_GETFL)  # type: ignore[call-overload,no-any-return]  # a FileIO, from any client


@pytest.mark.parametrize("client", CLIENTS)
async def test_nonblock_and_noctty_are_honoured(client: str, daemon: Daemon, sleeper: Sleeper) -> None:
    target = f"pid:{sleeper.pid}"
    async with CLIENTS[client](daemon.address) as broker:
        for mode in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
            for more in (0, os.O_NOCTTY, os.O_CLOEXEC, os.O_NONBLOCK, os.O_NONBLOCK | os.O_NOCTTY):
                with await broker.device(target, "null", mode | more) as file:
                    assert flags_of(file) & os.O_ACCMODE == mode
                    assert flags_of(file) & os.O_NONBLOCK == more & os.O_NONBLOCK
                    assert not os.get_inheritable(file.fileno())
    records = [record["wanted"] for record in daemon.records() if record["method"] == "OpenDevice"]
    assert records[:4] == ["device null read (1:3)"] * 3 + ["device null read nonBlocking (1:3)"]


@pytest.mark.parametrize(
    "name",
    [
        "O_APPEND",
        "O_CREAT",
        "O_EXCL",
        "O_TRUNC",
        "O_DIRECT",
        "O_DIRECTORY",
        "O_NOFOLLOW",
        "O_PATH",
        "O_SYNC",
        "O_NOATIME",
        "O_ASYNC",
    ],
)
@pytest.mark.parametrize("client", CLIENTS)
async def test_any_other_flag_is_refused_by_its_name(client: str, name: str, daemon: Daemon) -> None:
    async with CLIENTS[client](daemon.address) as broker:
        with pytest.raises(ValueError, match=rf"cannot open a device with .*\b{name}\b"):
            await broker.device("self", "null", os.O_RDWR | os.O_NONBLOCK | getattr(os, name))
    assert not [record for record in daemon.records() if record["method"] == "OpenDevice"]


def test_several_flags_are_all_named_and_one_without_a_name_is_shown(daemon: Daemon) -> None:
    with daemon.connect() as broker:
        with pytest.raises(ValueError, match=r"O_APPEND \| O_TRUNC"):
            broker.device("self", "null", os.O_APPEND | os.O_TRUNC)
        with pytest.raises(ValueError, match="0x40000000"):
            broker.device("self", "null", 1 << 30)
        with pytest.raises(ValueError, match="cannot open a device with the flags"):
            broker.device("self", "null", 3)


@pytest.mark.parametrize(("field", "value"), [("append", True), ("flags", ["append"]), ("nonBlocking", 1), ("nonBlocking", "yes")])
def test_over_the_wire_another_flag_is_a_bad_parameter_with_its_name(daemon: Daemon, field: str, value: object) -> None:
    parameters = {"target": {"self": True}, "name": "null", "access": "read", field: value}
    reply = call(daemon, "io.nsbroker.Broker.OpenDevice", parameters)
    assert (reply["error"], reply["parameters"]) == ("org.varlink.service.InvalidParameter", {"parameter": field})
