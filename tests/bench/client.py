"""A client process: nsbroker's own client library, of whatever version Python finds.

usage: client.py tasks|blocking ADDRESS PID

For each number that it reads, it opens the network namespace of PID as often, and prints a JSON list of seconds: `blocking` those
of each call, one after the other; `tasks` those of a call when 32 tasks share one trio client.
"""

import json
import sys
import time

import trio

import nsbroker.client.blocking
import nsbroker.client.trio

_TASKS = 32


def _blocking(address: str, target: str) -> None:
    with nsbroker.client.blocking.connect(address) as broker:
        for line in sys.stdin:
            times = []
            for _ in range(int(line)):
                start = time.perf_counter()
                broker.open(target, "net").close()
                times.append(time.perf_counter() - start)
            print(json.dumps(times), flush=True)


async def _tasks(address: str, target: str) -> None:
    async with nsbroker.client.trio.connect(address) as broker:

        async def work(count: int) -> None:
            for _ in range(count):
                (await broker.open(target, "net")).close()

        for line in sys.stdin:
            each = max(1, int(line) // _TASKS)
            start = time.perf_counter()
            async with trio.open_nursery() as nursery:
                for _ in range(_TASKS):
                    nursery.start_soon(work, each)
            print(json.dumps([(time.perf_counter() - start) / each / _TASKS]), flush=True)


def main() -> None:
    """Do what the arguments say, until standard input ends."""
    what, address, pid = sys.argv[1:]
    if what == "tasks":
        trio.run(_tasks, address, f"pid:{pid}")
    else:
        _blocking(address, f"pid:{pid}")


if __name__ == "__main__":
    main()
