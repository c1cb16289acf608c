"""Show where server and client spend the time of a call, beside the bare server, which does only what cannot be left out.

usage: python -m tests.bench.profile
"""

import contextlib
import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from nsbroker.cli.output import print_table
from tests.bench import containers, rivals, versions
from tests.bench.pace import Tally, turns
from tests.bench.rivals import BARE, Server
from tests.bench.table import LeftOut
from tests.bench.versions import CHECKOUT, Version
from tests.bench.wire import Line, call, open_call, socket_call
from tests.engines.real import Docker
from tests.world import Sleeper

_SECONDS = 8.0
_CALLS = 1600
_LEAST = 1e-6
"""What takes fewer seconds of a call than this has no row of its own."""
_CLIENT = "tests.bench.client"
_OTHERS = "Python's standard library, others"

Work = Callable[[Line, bytes], list[float]]
Profile = dict[str, float]
"""The seconds of CPU time that a call spends in each function."""


class _Sampled(Version):
    """This version, run so that it is sampled.  The counts go to `output`."""

    output = Path()

    def command(self, *arguments: str) -> list[str]:
        return _sampled(self.output, "nsbroker", *arguments)


def _sampled(output: Path, module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "tests.bench.sampling", str(output), module, *arguments]


@contextlib.contextmanager
def _broker(output: Path, pid: int) -> Iterator[Server]:
    version = _Sampled(CHECKOUT)
    version.output = output
    with versions.serve(version, pid) as broker:
        yield broker.server


@contextlib.contextmanager
def _bare(output: Path, pid: int) -> Iterator[Server]:
    path = output.with_suffix(".socket")
    with tempfile.TemporaryFile() as log, rivals.running(_sampled(output, "tests.bench.bare", str(path)), path, log) as server:
        yield Server(server, path, open_call(pid))


def _measure(
    run: Callable[[Path, int], contextlib.AbstractContextManager[Server]], pid: int, work: Work, data: bytes
) -> tuple[Tally, Profile]:
    """Let the server do the work, and return its times and its profile."""
    tally = Tally()
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "counts")
        with run(output, pid) as server, Line(server.path) as line:
            line.check(data, 1)
            for _ in turns(_SECONDS):
                tally.measure(server.pid, _CALLS, lambda: work(line, data))
        return tally, _read(output, tally.cpu)


def _measure_client(pid: int) -> tuple[Tally, Profile]:
    """Let 32 tasks on one trio client make calls, and return the client's times and its profile."""
    tally = Tally()
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "counts")
        with versions.serve(Version(CHECKOUT), pid) as broker, broker.client(pid, "tasks", _sampled(output, _CLIENT)) as client:
            client.run(_CALLS)
            for _ in turns(_SECONDS):
                tally.measure(client.pid, _CALLS, lambda: client.run(_CALLS))
        return tally, _read(output, tally.cpu)


def _read(output: Path, cpu: float) -> Profile:
    """Read the profile of a program whose calls take `cpu` seconds each."""
    counts: Sequence[tuple[str, str, int]] = json.loads(output.read_text())
    total = sum(times for _, _, times in counts)
    profile: Profile = defaultdict(float)
    for file, function, times in counts:
        profile[f"{_short(file)}: {function}"] += cpu * times / total
    return profile


def _short(file: str) -> str:
    """Return the path of a file from its package on."""
    path = Path(file)
    # The deepest folder first: the packages may be installed below the checkout.
    for folder in sorted((CHECKOUT, *map(Path, sys.path[1:])), key=lambda folder: -len(folder.parts)):
        if path.is_relative_to(folder):
            return str(path.relative_to(folder))
    return file


def part_of(name: str) -> str:
    """Return the part of the program that a function of this name is in: a folder of ours, or a library."""
    folders = name.partition(":")[0].split("/")[:-1]
    if "site-packages" in folders:
        folders = folders[folders.index("site-packages") + 1 :]
    if folders[:1] in (["nsbroker"], ["tests"]):
        return "/".join(folders[:3])
    return folders[0] if folders and folders[0] not in sys.stdlib_module_names else _OTHERS


def _by_part(profile: Profile) -> Profile:
    parts: Profile = defaultdict(float)
    for name, seconds in profile.items():
        parts[part_of(name)] += seconds
    return parts


def _show(work: str, bare: tuple[Tally, Profile] | None, ours: tuple[Tally, Profile]) -> None:
    """Print the tables of one work: by parts of the program, and by functions."""
    columns = [ours[1], bare[1] if bare else defaultdict(float)]
    head = ["microseconds of CPU a call", "nsbroker", BARE if bare else ""]
    print(f"\n{work}")
    _print(head, [_by_part(column) for column in columns])
    print()
    _print(head, columns)


def _print(head: Sequence[str], columns: Sequence[Profile]) -> None:
    """Print a table of the profiles, the longest first."""
    found = sorted({name for column in columns for name in column}, key=lambda name: -max(column[name] for column in columns))
    shown = [name for name in found if max(column[name] for column in columns) >= _LEAST]
    rows = [[name, *(_micro(column[name]) for column in columns)] for name in shown]
    rest = [sum(column.values()) - sum(column[name] for name in shown) for column in columns]
    if len(found) > len(shown):
        rows.append([f"{len(found) - len(shown)} more", *map(_micro, rest)])
    rows.append(["all", *(_micro(sum(column.values())) for column in columns)])
    print_table(head, rows)


def _micro(seconds: float) -> str:
    return f"{seconds * 1e6:5.1f}" if seconds else ""


def main() -> None:
    """Measure and print."""

    def one_by_one(line: Line, data: bytes) -> list[float]:
        return line.one_by_one(data, _CALLS)

    def in_flight(line: Line, data: bytes) -> list[float]:
        return line.in_flight(data, 32, _CALLS)

    with Sleeper() as sleeper:
        pid = sleeper.pid
        for name, work in (("one by one", one_by_one), ("32 in flight", in_flight)):
            print(f"{name} ...", file=sys.stderr, flush=True)
            _show(name, _measure(_bare, pid, work, open_call(pid)), _measure(_broker, pid, work, open_call(pid)))
        print("OpenSocket ...", file=sys.stderr, flush=True)
        _show("OpenSocket, one by one", None, _measure(_broker, pid, one_by_one, socket_call(pid)))
        print("32 tasks ...", file=sys.stderr, flush=True)
        _show("32 tasks on one trio client: the client's own time", None, _measure_client(pid))
        print("docker:web ...", file=sys.stderr, flush=True)
        try:
            with containers.running(Docker) as docker:
                docker.make("web")
                by_name = call("Open", target={"container": "web", "engine": "docker"}, types=("net",))
                _show("docker:web, one by one", None, _measure(_broker, pid, one_by_one, by_name))
        except LeftOut as error:
            print(f"\ndocker:web is left out: {error}")
    print("\nTime in a system call counts for the function that makes it.  Files in nsbroker/linux have little else.")


if __name__ == "__main__":
    main()
