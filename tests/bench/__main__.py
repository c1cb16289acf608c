"""Print one table: for each work what it took, the ratio to what it is compared with, and whether the goal is met.

With $BEFORE, a commit, that version of nsbroker is measured too, in the same turns.
"""

import os
import sys
import time
from collections.abc import Callable, Mapping

from tests.bench import containers, discovery, footprint, forward, opening, rivals, table, versions, via
from tests.bench.table import Row, left_out
from tests.bench.versions import Version
from tests.world import Sleeper

Subject = Callable[[Mapping[str, Version], int], list[Row]]

_LIMIT = 165.0
# What is measured, the most important first, and the seconds that it takes on an idle machine.  What has no time is left out.
_SUBJECTS: list[tuple[str, float, Subject]] = [
    ("one by one", 9, opening.one_by_one),
    ("32 in flight", 9, opening.pipelined),
    ("eight types", 7, opening.eight_types),
    ("OpenSocket", 5, opening.sockets),
    ("clients", 8, opening.clients),
    ("via", 10, via.via),
    ("memory", 4, footprint.memory),
    ("start", 6, footprint.start),
    ("forward", 14, forward.forwarding),
    ("List among 1000 processes more", 10, discovery.lists_1000),
    ("1 000 rules", 5, opening.many_rules),
    ("start: on demand", 15, footprint.on_demand),
    ("an idle watch", 5, lambda found, pid: discovery.watches(0, found, pid)),
    ("an idle watch among 1000 processes more", 7, lambda found, pid: discovery.watches(1000, found, pid)),
    ("docker:web", 12, containers.of_docker),
    ("crun:c000", 15, containers.of_crun),
    ("List among 5000 processes more", 30, discovery.lists_5000),
]


def measure(work: str, subject: Subject, found: Mapping[str, Version], pid: int) -> list[Row]:
    """Return the rows of `subject`; if it fails, the row that says why."""
    try:
        return subject(found, pid)
    except Exception as error:
        # Whatever fails, the results of all other subjects shall be seen.
        name = "" if isinstance(error, table.LeftOut) else f"{type(error).__name__}: "
        return [left_out(work, f"{name}{error}")]


def main() -> None:
    """Measure everything and print the table."""
    found = versions.find(os.environ.get("BEFORE", ""))
    print("compiling the rivals ...", file=sys.stderr, flush=True)
    rivals.prepare()
    rows = []
    planned = 0.0
    start = time.monotonic()
    with Sleeper() as sleeper:
        for number, (work, seconds, subject) in enumerate(_SUBJECTS):
            spent = time.monotonic() - start
            # A machine that took longer so far will do so again.
            slowness = max(1.0, spent / planned) if planned else 1.0
            if spent + seconds * slowness > _LIMIT:
                rows.append(left_out(work, f"{spent:.0f} seconds had passed, and all must take under three minutes"))
                continue
            planned += seconds
            print(f"{number + 1}/{len(_SUBJECTS)} {work} ...", file=sys.stderr, flush=True)
            rows += measure(work, subject, found, sleeper.pid)
    table.show(rows, compared=len(found) > 1)
    print("CPU is the server's, per call (user + system).  Read the ratios: times differ between machines.")
    print(f"It took {time.monotonic() - start:.0f} seconds.")


if __name__ == "__main__":
    main()
