"""Files of /proc and /etc/subuid: they are read correctly, whatever names users give to groups, processes and mounts."""

import bisect
import functools
import os
import random
import tempfile
from pathlib import Path

from hypothesis import strategies as st

from nsbroker.daemon.limits.users import SubordinateUids
from nsbroker.daemon.peer import unit_of
from nsbroker.linux import cgroup, process_table, procfs
from nsbroker.model.target import UNIT_SUFFIXES
from tests.fuzz import mutate
from tests.fuzz.subject import Fault, Seed, Subject, seeded

_VARIANTS = 12
_LETTERS = "ab0:;,. -_=@\\\t\x1c\x85\u2028é\udcff()"
_PARTS = (
    "system.slice",
    "user.slice",
    "user-1.slice",
    "user@1.service",
    "nginx.service",
    "_a.service",
    "a.scope",
    "..",
    ".service",
)
_name = st.one_of(
    st.text(_LETTERS, min_size=1, max_size=8),
    st.sampled_from(_PARTS),
)
_path = st.lists(_name, max_size=5).map(lambda parts: "/" + "/".join(parts))
_controllers = st.sampled_from(("", "name=systemd", "freezer", "cpu,cpuacct", "pids", "name=a"))
_groups = st.lists(st.tuples(_controllers, _path), max_size=6)


# On a private host, this folder is in memory and ends with the host.
@functools.cache
def _folder() -> tuple[Path, int]:
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    return folder, os.open(folder, os.O_PATH | os.O_DIRECTORY)


def _write(name: str, text: str) -> None:
    (_folder()[0] / name).write_bytes(os.fsencode(text))


def _random_text(chance: random.Random, length: int) -> str:
    return "".join(chance.choices(_LETTERS, k=chance.randrange(length)))


def check_groups(example: tuple[list[tuple[str, str]], Seed]) -> int:
    """Check how files of control groups are read."""
    drawn, seed = example
    chance = seed.again()
    for _ in range(_VARIANTS):
        _check_groups(drawn)
        drawn = [(name, path if chance.random() < 0.6 else _rename(path, chance)) for name, path in drawn]
    return _VARIANTS


def _rename(path: str, chance: random.Random) -> str:
    """Return another path that the kernel could show.  The name of a group contains no newline and no NUL."""
    variant = mutate.text(path[1:], chance).replace("\n", "").replace("\0", "")
    return "/" + os.fsdecode(variant.encode(errors="replace"))


def _check_groups(drawn: list[tuple[str, str]]) -> None:
    expected: dict[str, str] = {}
    lines = []
    for number, (name, path) in enumerate(drawn):
        lines.append(f"{number}:{name}:{path}\n")
        expected.setdefault(name, path)
    _write("cgroup", "".join(lines))
    found = procfs.cgroups(_folder()[1])
    if found != expected:
        raise Fault(f"{lines}: read as {found}")
    path = cgroup.systemd_path(found)
    if path != next((expected[name] for name in ("name=systemd", "") if expected.get(name, "/") != "/"), "/"):
        raise Fault(f"{found}: systemd's path is not {path!r}")
    unit = unit_of(found)
    if unit != _unit(path):
        raise Fault(f"{path!r}: the unit is not {unit!r}")


def _unit(path: str) -> str | None:
    """Return the unit of a path: a simple reference implementation."""
    parts = path.split("/")[1:]
    while parts and parts[0].endswith(".slice"):
        parts.pop(0)
    if ".." in path.split("/") or not parts or not parts[0].endswith(UNIT_SUFFIXES):
        return None
    return parts[0][1:] if parts[0].startswith("_") else parts[0]


def check_process(example: tuple[tuple[str, list[int]], Seed]) -> int:
    """Check how `stat` and `status` of processes with arbitrary names are read."""
    (name, numbers), seed = example
    chance = seed.again()
    for _ in range(_VARIANTS):
        comm = os.fsdecode(os.fsencode(name.replace("\0", ""))[:15])
        fields = ["S", *(str(number) for number in numbers), "0"]
        _write("stat", f"7 ({comm}) {' '.join(fields)}\n")
        if procfs.start_time(_folder()[1]) != numbers[18]:
            raise Fault(f"{comm!r}: its start time is not {procfs.start_time(_folder()[1])}")
        # In this file the kernel escapes newlines and backslashes of the name.
        shown = comm.replace("\\", "\\\\").replace("\n", "\\n")
        _write("status", f"Name:\t{shown}\nUmask:\t0022\nUid:\t{numbers[0]}\t1\t2\t3\nCapEff:\t00000000000000ff\n")
        status = procfs.status(_folder()[1])
        if status["Uid"] != f"{numbers[0]}\t1\t2\t3" or status["CapEff"] != "00000000000000ff" or len(status) != 4:
            raise Fault(f"{comm!r}: its status is read as {status}")
        name = _random_text(chance, 16) + chance.choice(("", ") S 1 1 (", "\nUid:\t0\t0\t0\t0", ")"))
    return 2 * _VARIANTS


def check_mounts(example: tuple[list[tuple[str, bool]], Seed]) -> int:
    """Check how mount tables with bound namespaces are read."""
    drawn, seed = example
    chance = seed.again()
    for _ in range(_VARIANTS):
        lines, expected = [], []
        for number, (point, is_namespace) in enumerate(drawn):
            point = point.replace("\0", "")
            shown = "".join(f"\\{ord(one):03o}" if one in " \t\n\\" else one for one in point)
            shared = chance.choice(("", "shared:7 ", "shared:7 master:8 "))
            root, kind = (
                (f"net:[{number + 1}]", "nsfs nsfs") if is_namespace else ("/", f"tmpfs {chance.choice(('tmpfs', 'nsfs', '-'))}")
            )
            lines.append(f"{number} 1 0:{number} {root} {shown} rw,relatime {shared}- {kind} rw\n")
            if is_namespace:
                expected.append((root, point))
        _write("mountinfo", "".join(lines))
        found = list(process_table.bound_namespaces(str(_folder()[0])))
        if found != expected:
            raise Fault(f"{lines}: read as {found}")
        drawn = [
            (point + chance.choice(("\\040", " - nsfs ", "\n", "\\", "x" * 4000)), is_namespace) for point, is_namespace in drawn
        ]
        drawn = [("/a", one) if len(point) > 9000 else (point, one) for point, one in drawn]
    return _VARIANTS


def check_subordinates(example: tuple[list[tuple[int, int, int]], Seed]) -> int:
    """Check how /etc/subuid is read."""
    drawn, seed = example
    chance = seed.again()
    path = _folder()[0] / "subuid"
    # Overlapping ranges of several users have no right result, so there are none here.
    ranges: list[tuple[int, int, int]] = []
    for start, count, user in sorted(drawn):
        if not ranges or start >= ranges[-1][0] + ranges[-1][1]:
            ranges.append((start, count, user))
    text = "".join(f"{user}:{start}:{count}\n" for start, count, user in ranges)
    path.write_text(text)
    subordinates = SubordinateUids(path)
    starts = [start for start, _, _ in ranges]
    for _ in range(_VARIANTS):
        uid = chance.choice([*starts, 0, 2**32 - 2]) + chance.randrange(-2, 70000)
        place = bisect.bisect_right(starts, uid) - 1
        inside = place >= 0 and uid < ranges[place][0] + ranges[place][1]
        expected = (ranges[place][2] or ranges[place][0]) if inside else uid
        if subordinates.user_of(uid) != expected:
            raise Fault(f"{text!r}: {uid} is not {subordinates.user_of(uid)}'s but {expected}'s")
    for _ in range(_VARIANTS):
        path.write_bytes(mutate.text(text, chance).encode(errors="surrogatepass"))
        if not isinstance(SubordinateUids(path).user_of(chance.randrange(2**32)), int):
            raise Fault("no user")
    return 2 * _VARIANTS


_range = st.tuples(st.integers(1, 2**32), st.integers(0, 70000), st.integers(0, 5000))
_numbers = st.tuples(st.text(_LETTERS + "\n", max_size=15), st.lists(st.integers(0, 2**40), min_size=40, max_size=40))
_mount = st.tuples(st.text("ab/ \t\n\\0134-", min_size=1, max_size=12).map("/{}".format), st.booleans())

SUBJECTS: tuple[Subject, ...] = (
    Subject("control groups", 0.04, seeded(_groups), check_groups),
    Subject("processes", 0.03, seeded(_numbers), check_process),
    Subject("mounts", 0.03, seeded(st.lists(_mount, max_size=8)), check_mounts),
    Subject("subordinate uids", 0.03, seeded(st.lists(_range, max_size=8)), check_subordinates),
)
