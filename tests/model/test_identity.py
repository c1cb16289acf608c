import os
from dataclasses import replace
from pathlib import Path

import pytest

from nsbroker.errors import InvalidType, NoSuchTarget, TargetChanged
from nsbroker.model.identity import Expectation, NamespaceType
from nsbroker.namespace import Namespace
from tests.world import Sleeper


def seen(sleeper: Sleeper) -> Expectation:
    """What somebody would note of the process's network."""
    with Namespace.from_pid(sleeper.pid, "net") as space:
        ticks = int(Path(f"/proc/{sleeper.pid}/stat").read_text().rpartition(")")[2].split()[19])
        return Expectation(space.type, space.device, space.inode, ticks)


def test_what_still_fits_is_opened(sleeper: Sleeper) -> None:
    expect = seen(sleeper)
    Namespace.from_pid(sleeper.pid, "net", expect=expect).close()
    Namespace.from_thread(sleeper.pid, sleeper.pid, "net", expect=expect).close()
    Namespace.from_path(f"/proc/{sleeper.pid}/ns/net", expect=replace(expect, start_time=None)).close()
    Namespace.from_pid(sleeper.pid, "uts", expect=Expectation(start_time=expect.start_time)).close()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"type": NamespaceType.UTS}, "its type is net, uts was expected"),
        ({"device": 1}, "its device is"),
        ({"inode": 5}, "its inode is .* 5 was expected"),
        ({"start_time": 7}, "it started at .* one that started at 7 was expected"),
    ],
)
def test_each_mismatch_is_told(sleeper: Sleeper, change: dict[str, object], says: str) -> None:
    expect = replace(seen(sleeper), **change)  # type: ignore[arg-type]  # one field each
    with pytest.raises(TargetChanged, match=says):
        Namespace.from_pid(sleeper.pid, "net", expect=expect)


def test_a_file_is_no_process(sleeper: Sleeper) -> None:
    with pytest.raises(TargetChanged, match="is no process"):
        Namespace.from_path(f"/proc/{sleeper.pid}/ns/net", expect=seen(sleeper))


def test_a_number_that_is_used_again_is_not_the_same_process() -> None:
    """A PID namespace with few numbers hands the same one out again."""
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
    import subprocess
    import sys

    command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "refused\n", done.stderr


def test_one_that_ends_is_not_there(sleeper: Sleeper) -> None:
    expect = seen(sleeper)
    sleeper.end()
    with pytest.raises(NoSuchTarget):
        Namespace.from_pid(sleeper.pid, "net", expect=expect)


def test_types_are_named_as_the_kernel_does() -> None:
    names = {name.removesuffix("_for_children") for name in os.listdir("/proc/self/ns")}
    assert names == set(NamespaceType)
    for kind in NamespaceType:
        assert NamespaceType.of_flag(kind.flag) is kind
    for flag in (0, 1, 0x40000001):
        with pytest.raises(InvalidType, match="unknown"):
            NamespaceType.of_flag(flag)
