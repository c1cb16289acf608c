"""Run a module as a program, and write at its end, on SIGTERM too, where its main thread spent the CPU time in its event loop.

usage: python -m tests.bench.sampling OUTPUT MODULE [ARGUMENT...]

The kernel interrupts it at each tick of its CPU time (setitimer(2), ITIMER_PROF), and the function that runs then is counted.
Time in a system call counts for the Python function that made it.  OUTPUT gets the counts as JSON, by file and function.
"""

import atexit
import json
import runpy
import signal
import sys
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

import trio

_INTERVAL = 0.001


def main() -> None:
    """Run the module."""
    output, module, *arguments = sys.argv[1:]
    counts: Counter[tuple[str, str]] = Counter()

    def count(_: int, frame: FrameType | None) -> None:
        if frame is not None:
            counts[frame.f_code.co_filename, frame.f_code.co_qualname] += 1

    def write() -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        Path(output).write_text(json.dumps([(*place, times) for place, times in counts.items()]))

    run = trio.run

    def run_sampled(*arguments: Any, **options: Any) -> Any:
        # From here on: what a server does only once, when it starts, is not counted.
        signal.setitimer(signal.ITIMER_PROF, _INTERVAL, _INTERVAL)
        return run(*arguments, **options)

    vars(trio)["run"] = run_sampled
    signal.signal(signal.SIGPROF, count)
    # A program with its own handler of SIGTERM replaces this one, and ends by itself.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    atexit.register(write)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
