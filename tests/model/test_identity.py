import os
import subprocess
from pathlib import Path

import pytest
from msgspec.structs import replace

from nsbroker.errors import InvalidTarget, InvalidType, NoSuchTarget, TargetChanged
from nsbroker.model.identity import Expectation, NamespaceId, NamespaceType
from nsbroker.namespace import Namespace
from tests.world import Sleeper


def expectation_of(sleeper: Sleeper) -> Expectation:
    """What a caller would note about the process and its network namespace."""
    with Namespace.from_pid(sleeper.pid, "net") as ns:
        ticks = int(Path(f"/proc/{sleeper.pid}/stat").read_text().rpartition(")")[2].split()[19])
        return Expectation(ns.type, ns.device, ns.inode, ticks)


def test_a_target_that_is_as_expected_is_opened(sleeper: Sleeper) -> None:
    expect = expectation_of(sleeper)
    Namespace.from_pid(sleeper.pid, "net", expect=expect).close()
    Namespace.from_thread(sleeper.pid, sleeper.pid, "net", expect=expect).close()
    Namespace.from_path(f"/proc/{sleeper.pid}/ns/net", expect=replace(expect, start_time=None)).close()
    Namespace.from_pid(sleeper.pid, "uts", expect=Expectation(start_time=expect.start_time)).close()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"type": NamespaceType.UTS}, "its type is net, but uts was expected"),
        ({"device": 1}, "its device is"),
        ({"inode": 5}, "its inode is .* 5 was expected"),
        ({"start_time": 7}, "it started at .*, but a process that started at 7 was expected"),
    ],
)
def test_each_mismatch_is_named_in_the_error(sleeper: Sleeper, change: dict[str, object], says: str) -> None:
    expect = replace(expectation_of(sleeper), **change)
    with pytest.raises(TargetChanged, match=says):
        Namespace.from_pid(sleeper.pid, "net", expect=expect)


def test_a_file_is_no_process(sleeper: Sleeper) -> None:
    with pytest.raises(TargetChanged, match="is no process"):
        Namespace.from_path(f"/proc/{sleeper.pid}/ns/net", expect=expectation_of(sleeper))


def test_a_number_that_is_used_again_is_not_the_same_process() -> None:
    """In a PID namespace of its own, a script can choose the next process number, and so use one twice."""
    script = """
import os, sys
from pathlib import Path
from nsbroker.errors import TargetChanged
from nsbroker.model.identity import Expectation
from nsbroker.namespace import Namespace
Path("/proc/sys/kernel/ns_last_pid").write_text("400")
def child():
    pid = os.fork()
    if pid == 0:
        os.pause() if hasattr(os, "pause") else __import__("signal").pause()
    return pid
first = child()
ticks = int(Path(f"/proc/{first}/stat").read_text().rpartition(")")[2].split()[19])
expect = Expectation(start_time=ticks)
Namespace.from_pid(first, "net", expect=expect).close()
os.kill(first, 9); os.waitpid(first, 0)
__import__("time").sleep(0.05)
Path("/proc/sys/kernel/ns_last_pid").write_text(str(first - 1))
second = child()
assert second == first, (first, second)
try:
    Namespace.from_pid(second, "net", expect=expect).close()
    print("opened")
except TargetChanged:
    print("refused")
os.kill(second, 9); os.waitpid(second, 0)
"""
    import sys

    command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "refused\n", done.stderr


def test_a_process_that_has_ended_is_not_found(sleeper: Sleeper) -> None:
    expect = expectation_of(sleeper)
    sleeper.end()
    with pytest.raises(NoSuchTarget):
        Namespace.from_pid(sleeper.pid, "net", expect=expect)


def test_types_are_named_as_the_kernel_does() -> None:
    names = {name.removesuffix("_for_children") for name in os.listdir("/proc/self/ns")}
    assert names == set(NamespaceType)
    for ns_type in NamespaceType:
        assert NamespaceType.of_flag(ns_type.flag) is ns_type
    for flag in (0, 1, 0x40000001):
        with pytest.raises(InvalidType, match="unknown"):
            NamespaceType.of_flag(flag)


def test_an_id_parses_what_it_prints() -> None:
    with Namespace.current("net") as ns:
        assert NamespaceId.parse(str(ns.id)).matches(ns.id)
        assert not NamespaceId("uts", ns.inode).matches(ns.id)  # type: ignore[arg-type]  # a str works as well


@pytest.mark.parametrize(
    "text",
    [
        "",
        "net",
        "net[1]",
        "net:",
        "net:[1",
        "net:1]",
        "foo:[1]",
        "net:[-1]",
        "net:[12a]",
        "net:[]",
        "net:[0]",
        "net:[01]",
        "net:[4294967296]",
        " net:[1]",
        "net:[1] ",
        "net:[١]",
    ],
)
def test_an_id_is_parsed_strictly(text: str) -> None:
    with pytest.raises(InvalidTarget, match="no namespace id"):
        NamespaceId.parse(text)
