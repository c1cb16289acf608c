"""Put the columns of a chart in order, so that columns that share namespaces stand side by side."""

import heapq
import re
from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from nsbroker.cli.drawing.grouping import Column, Key

# The host's namespaces say little about which columns belong together, so they only decide between columns that are otherwise
# equal.
_HOSTS_WEIGHT = 0.001
_EARLIER_WEIGHT = 0.1
_SAME_NAME_WEIGHT = 10.0
# Sums of the same weights in another order differ in the last digits, which must not change the picture.
_DIGITS = 9
# In each step, only this many columns of a group are compared: those that come first by name.  Without this limit, a namespace that
# thousands of columns share would take millions of steps.
_COMPARED = 64
_NAME_PARTS = re.compile(r"([^0-9]*)([0-9]*)", re.DOTALL)


class _Group(NamedTuple):
    """Columns that share a namespace or a name, without those that have their place.  OrderedDict is a set that keeps its order."""

    members: OrderedDict[int, None]
    weight: float


def order_columns(columns: Sequence[Column]) -> list[Column]:
    """Put the host first, and then after each column the one that shares the most with it; by name where this is the same.

    For n columns this takes n log n steps.
    """
    ranked = sorted(columns, key=lambda column: (not column.is_host, _natural_key(column.label)))
    queue = _Queue(ranked)
    return [ranked[one] for one in queue.take_all()]


class _Queue:
    """The columns that have no place yet, by their numbers in the order of names."""

    def __init__(self, ranked: Sequence[Column]) -> None:
        hosts = frozenset(one for column in ranked if column.is_host for one in column.keys)
        self._groups = _find_groups(ranked, hosts)
        self._with_host = [column.keys & hosts for column in ranked]
        self._has_place = [False] * len(ranked)
        # The most that each column shares with any one column that already has its place.
        self._shared_before = [0.0] * len(ranked)
        # For the columns with the same namespaces of the host: a heap that has first the one that shared the most before, and of
        # equals the first by name.  An entry that is out of date comes after a newer one of the same column.
        self._heaps: dict[frozenset[Key], list[tuple[float, int]]] = {}
        for one, with_host in enumerate(self._with_host):
            self._heaps.setdefault(with_host, []).append((0.0, one))

    def take_all(self) -> Iterator[int]:
        """Yield the columns, each after the one that it shares the most with."""
        last: int | None = None
        for _ in self._has_place:
            last = 0 if last is None else self._find_next(last)
            self._has_place[last] = True
            for group in self._groups[last]:
                del group.members[last]
            yield last

    def _find_next(self, last: int) -> int:
        shared_with_last = self._update_shared(last)

        def likeness(one: int) -> float:
            with_host = len(self._with_host[last] & self._with_host[one])
            return shared_with_last.get(one, 0.0) + _EARLIER_WEIGHT * self._shared_before[one] + _HOSTS_WEIGHT * with_host

        # A column that shares nothing with the last one can only be next if it is the first of its heap.
        return min({*shared_with_last, *self._first_of_heaps()}, key=lambda one: (-round(likeness(one), _DIGITS), one))

    def _update_shared(self, last: int) -> dict[int, float]:
        """Return how much each column shares with the last one, and note it for later steps."""
        found: dict[int, float] = defaultdict(float)
        for group in self._groups[last]:
            for one in islice(group.members, _COMPARED):
                found[one] += group.weight
        for one, shared in found.items():
            if round(shared, _DIGITS) > self._shared_before[one]:
                self._shared_before[one] = round(shared, _DIGITS)
                heapq.heappush(self._heaps[self._with_host[one]], (-self._shared_before[one], one))
        return found

    def _first_of_heaps(self) -> Iterator[int]:
        for heap in self._heaps.values():
            while heap and self._has_place[heap[0][1]]:
                heapq.heappop(heap)
            if heap:
                yield heap[0][1]


def _natural_key(name: str) -> list[tuple[str, int, str]]:
    """Return a key that sorts numbers in names by value: pod-2 comes before pod-10, with any number of digits."""
    plain = ((word, number.lstrip("0")) for word, number in _NAME_PARTS.findall(name))
    return [(word, len(digits), digits) for word, digits in plain]


def _find_groups(columns: Sequence[Column], hosts: frozenset[Key]) -> list[list[_Group]]:
    """Return for each column the groups of columns that share a namespace or the name with it.

    A namespace that few columns share weighs more than one that many share.
    """
    sharers: dict[Key, list[int]] = {}
    names: dict[str, list[int]] = {}
    for number, column in enumerate(columns):
        names.setdefault(column.label, []).append(number)
        for one in column.keys - hosts:
            sharers.setdefault(one, []).append(number)
    found = [(members, 1 / len(members)) for members in sharers.values()]
    found += [(members, _SAME_NAME_WEIGHT) for members in names.values()]
    groups: list[list[_Group]] = [[] for _ in columns]
    for members, weight in found:
        if len(members) > 1:
            group = _Group(OrderedDict.fromkeys(members), weight)
            for number in members:
                groups[number].append(group)
    return groups
