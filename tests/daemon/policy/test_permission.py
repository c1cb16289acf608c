"""What one rule allows.  How a rule that cannot be understood is reported is tested in test_rules."""

import pytest

from nsbroker.daemon.policy.permission import (
    EVERY_DEVICE,
    SOME_DEVICE,
    Allowance,
    Creation,
    Device,
    DeviceNumber,
    File,
    Holding,
    Mark,
    Permission,
    is_device_name,
)
from nsbroker.errors import ConfigurationError
from nsbroker.model.identity import NamespaceType
from nsbroker.model.interface import InterfaceKind
from nsbroker.model.socket_kind import SocketKind
from nsbroker.model.target_file import NAMES

pytestmark = pytest.mark.once

NET, UTS = NamespaceType.NET, NamespaceType.UTS
NULL, DISK = DeviceNumber(1, 3), DeviceNumber(8, 0)


def test_opening_creating_and_holding_are_allowed_separately() -> None:
    wanted: list[Permission] = [NET, Creation(NET), Holding(NET)]
    for own in range(3):
        lists = [["net"] if number == own else [] for number in range(3)]
        allowance = Allowance.parse(namespaces=lists[0], create=lists[1], hold=lists[2])
        assert [allowance.allows(one) for one in wanted] == [number == own for number in range(3)]
    assert not Allowance.parse(namespaces=["net"]).allows(UTS)


def test_a_kind_of_socket_without_a_port_does_not_allow_a_privileged_port() -> None:
    plain, http = SocketKind.parse("inet:stream"), SocketKind.parse("inet:stream:80")
    assert [Allowance.parse(sockets=["inet:stream"]).allows(one) for one in (plain, http)] == [True, False]
    assert [Allowance.parse(sockets=["inet:stream:80"]).allows(one) for one in (plain, http)] == [False, True]
    assert [Allowance.parse(sockets=["*"]).allows(one) for one in (plain, http)] == [True, True]


@pytest.mark.parametrize("devices", [["null"], ["*"], ["null", "*"]])
def test_no_rule_allows_another_device_under_a_well_known_name(devices: list[str]) -> None:
    allowance = Allowance.parse(devices=devices)
    assert allowance.allows(Device("null"))
    assert allowance.allows(Device("null", NULL))
    assert not allowance.allows(Device("null", DISK))
    assert allowance.allows(Device("disk", DISK)) is ("*" in devices)


def test_a_device_with_a_number_in_the_rule_is_that_device_alone() -> None:
    allowance = Allowance.parse(devices=["disk=8:0"])
    assert [allowance.allows(Device("disk", number)) for number in (None, DISK, NULL)] == [True, True, False]
    with pytest.raises(ConfigurationError, match="cannot be both"):
        Allowance.parse(devices=["disk=8:0", "disk=8:1"])


def test_listing_devices_needs_a_rule_for_any_device() -> None:
    assert [Allowance.parse(namespaces=["net"], devices=devices).allows(SOME_DEVICE) for devices in ([], ["null"], ["*"])] == [
        False,
        True,
        True,
    ]


def test_seeing_every_name_below_dev_needs_a_rule_for_every_device() -> None:
    for devices, allowed in (([], False), (["null"], False), (["*"], True), (["null", "*"], True)):
        assert Allowance.parse(devices=devices).allows(EVERY_DEVICE) is allowed
    with pytest.raises(ConfigurationError):
        Allowance.parse(devices=["*=1:3"])
    assert not is_device_name(EVERY_DEVICE.name)


@pytest.mark.parametrize(
    ("words", "kinds"),
    [([], set()), (["veth"], {"veth"}), (["tap", "tap"], {"tap"}), (["*"], {"veth", "tap"}), (["tap", "*"], {"veth", "tap"})],
)
def test_each_kind_of_interface_is_a_permission_of_its_own(words: list[str], kinds: set[str]) -> None:
    allowance = Allowance.parse(interfaces=words)
    assert {str(kind) for kind in InterfaceKind if allowance.allows(kind)} == kinds


def test_no_other_permission_includes_interfaces() -> None:
    everything = Allowance.parse(**{key: ["*"] for key in ("namespaces", "sockets", "devices", "create", "hold", "marks")})
    assert not any(map(everything.allows, InterfaceKind))
    for word in ("bridge", "", "VETH", "veth*"):
        with pytest.raises(ConfigurationError, match="veth, tap, or"):
            Allowance.parse(interfaces=[word])


@pytest.mark.parametrize(
    "name", ["", "/null", "null/", "a//b", "../null", "a/./b", "a b", "grün", "x" * 256, "/".join("abcdefghi")]
)
def test_a_name_that_leads_elsewhere_than_below_dev_is_no_device(name: str) -> None:
    assert is_device_name("/".join("abcdefgh"))
    assert not is_device_name(name)


def test_a_file_is_allowed_by_its_name_or_with_all_and_by_nothing_else() -> None:
    some = Allowance.parse(files=["resolv.conf", "net/dev"])
    assert [some.allows(File(name)) for name in ("resolv.conf", "net/dev", "hosts", "net/tcp")] == [True, True, False, False]
    assert all(Allowance.parse(files=["*"]).allows(File(name)) for name in NAMES)
    everything_else = Allowance.parse(**{key: ["*"] for key in ("namespaces", "sockets", "devices", "create", "hold", "marks")})
    assert not any(everything_else.allows(File(name)) for name in NAMES)
    assert not some.allows(NET)
    assert not some.allows(Device("net/dev", NULL))


@pytest.mark.parametrize("name", ["", "passwd", "/etc/hosts", "../hosts", "net", "net/*", "dev", "net/dev "])
def test_a_file_of_another_name_is_an_error_that_lists_the_names(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"is none of resolv.conf, hosts, net/dev"):
        Allowance.parse(files=[name])


def marks(*texts: str) -> Allowance:
    return Allowance.parse(marks=texts)


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("0x100", (0x100,), (0xFF, 0x101)),
        ("256", (0x100,), (0xFF, 0x101)),
        ("0x200-0x2ff", (0x200, 0x280, 0x2FF), (0x1FF, 0x300)),
        ("5-0xA", (5, 10), (4, 11)),
        ("7-7", (7,), (6, 8)),
        ("0xffffffff", (2**32 - 1,), (2**32 - 2,)),
        ("*", (1, 2**32 - 1), ()),
    ],
)
def test_a_mark_is_one_number_or_all_from_one_to_another(text: str, inside: tuple[int, ...], outside: tuple[int, ...]) -> None:
    allowance = marks(text)
    assert all(allowance.allows(Mark(value)) for value in inside)
    assert not any(allowance.allows(Mark(value)) for value in outside)
    assert not allowance.allows(SocketKind.parse("inet:stream"))
    assert not allowance.allows(NamespaceType.NET)


def test_several_marks_add_up() -> None:
    allowance = marks("1", "0x10-0x1f", "3")
    assert [value for value in range(40) if allowance.allows(Mark(value))] == [1, 3, *range(16, 32)]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "0x0",
        "0-5",
        "-1",
        "1-",
        "5-4",
        "0x",
        "0x1ffffffff",
        "4294967296",
        "1 - 2",
        "010",
        "1-2-3",
        "0x100/0xff",
        "٣",
        "web",
    ],
)
def test_what_is_no_mark_is_an_error_that_shows_how_to_write_it(text: str) -> None:
    with pytest.raises(ConfigurationError, match="write a number from 1 to 0xffffffff, or two of them, such as 0x200-0x2ff"):
        marks(text)


def test_no_other_permission_includes_marks() -> None:
    everything = Allowance.parse(**{key: ["*"] for key in ("namespaces", "sockets", "devices", "create", "hold")})
    assert not everything.allows(Mark(1))
