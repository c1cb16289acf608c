"""Schedule the attackers: root's own work goes on all the time, and users take turns, a few at a time."""

import contextlib
import itertools
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Self

from tests.soak import attacks, crew
from tests.soak.attacks import Attack
from tests.soak.crew import Worker
from tests.soak.scene import Scene

SECONDS = 10.0
"""How long a user attacks before the next one takes over."""


class Shifts:
    """The attackers, as a context manager.  Call `change` again and again while they run."""

    def __init__(self, chosen: Sequence[Attack], made: Scene, at_once: int) -> None:
        self._made = made
        self._lasting = [one for one in chosen if one.root]
        users = [one for one in chosen if not one.root]
        # The slots have different numbers of users, so that other users meet in each round.
        self._turns = [itertools.cycle(users[slot::at_once]) for slot in range(min(at_once, len(users)))]
        self._root: list[Worker] = []
        self._users: list[Worker] = []
        self._due = 0.0
        self._counts: Counter[tuple[str, int]] = Counter()
        self._ended: set[str] = set()

    def __enter__(self) -> Self:
        self._root = [self._start(one) for one in self._lasting]
        self.change()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop(self._users)
        self._stop(self._root)

    def change(self) -> None:
        """Replace the users who attack when their time is over."""
        if time.monotonic() >= self._due:
            self._stop(self._users)
            self._users = [self._start(next(turn)) for turn in self._turns]
            self._due = time.monotonic() + SECONDS

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stop everybody while the block runs, and start all of them anew afterwards."""
        lasting = [worker.name for worker in self._root]
        self._stop(self._users)
        self._stop(self._root)
        self._users = self._root = []
        yield
        self._root = [self._start(one) for one in self._lasting if one.name in lasting]
        self._due = 0.0
        self.change()

    def end(self, name: str) -> None:
        """Stop one of root's attacks for good."""
        ending = [worker for worker in self._root if worker.name == name]
        self._root = [worker for worker in self._root if worker.name != name]
        self._stop(ending)

    def names(self) -> list[str]:
        """Return the names of the attacks that run now."""
        return [worker.name for worker in (*self._users, *self._root)]

    def totals(self) -> list[tuple[str, int, int, bool]]:
        """Return the totals of each attack; call it at the end.

        Each entry is the name, how often it was done, how often it was broken off by an error, and whether the process ended by
        itself, which none should.
        """
        names = dict.fromkeys(name for name, _ in self._counts)
        return [(name, self._counts[name, 0], self._counts[name, 1], name in self._ended) for name in names]

    def _start(self, attack: Attack) -> Worker:
        return crew.attack(attack.name, attacks.uid_of(attack), attacks.turns_of(attack, self._made))

    def _stop(self, workers: Iterable[Worker]) -> None:
        for worker in workers:
            if worker.has_ended():
                self._ended.add(worker.name)
            done, failed = worker.counts
            self._counts[worker.name, 0] += done
            self._counts[worker.name, 1] += failed
            worker.stop()
