"""The order of the columns: what shares the most stands side by side, and however many there are, finding it takes few steps."""

import random
import time
from collections.abc import Sequence

import pytest

from nsbroker.cli.drawing import column_order
from nsbroker.cli.drawing.chart import ROWS
from nsbroker.cli.drawing.column_order import order_columns
from nsbroker.cli.drawing.grouping import Column, columns_of
from nsbroker.model.description import Reference, ReferenceKind
from tests.cli.imagined import OWN, POD, Imagined, T, busy_host
from tests.world import check_below


def order_step_by_step(columns: Sequence[Column]) -> list[Column]:
    """Return the order by its plain definition, which compares all columns in each step."""
    hosts = frozenset(one for column in columns if column.is_host for one in column.keys)
    rest = sorted(columns, key=lambda column: (not column.is_host, column_order._natural_key(column.label)))
    users: dict[object, int] = {}
    for column in columns:
        for one in column.keys - hosts:
            users[one] = users.get(one, 0) + 1

    def shared(left: Column, right: Column) -> float:
        common = sum(1 / users[one] for one in left.keys & right.keys if one not in hosts)
        return round(common + (10 if left.label == right.label else 0), 9)

    placed: list[Column] = []
    while rest:

        def likeness(one: Column) -> float:
            if not placed:
                return 0
            before = max(shared(one, other) for other in placed)
            return round(shared(one, placed[-1]) + 0.1 * before + 0.001 * len(one.keys & placed[-1].keys & hosts), 9)

        placed.append(max(rest, key=likeness))
        rest.remove(placed[-1])
    return placed


def random_host(seed: int) -> Imagined:
    """Make a host with containers that share namespaces with others at random, and with some that have the same name."""
    chance = random.Random(seed)
    host = Imagined()
    cells = [host.container("docker:first", (*POD, *OWN))]
    for number in range(chance.randrange(5, 40)):
        own = tuple(ns_type for ns_type in (*POD, *OWN) if chance.random() < 0.4)
        others = {ns_type: chance.choice(cells)[ns_type] for ns_type in POD if ns_type not in own and chance.random() < 0.6}
        cells.append(host.container(f"docker:c{number}", own, others))
    for _ in range(chance.randrange(4)):
        host.make(T.NET, references=[Reference(ReferenceKind.DESCRIPTOR, pid=900, number=5)], processes=0)
    return host


@pytest.mark.parametrize("seed", range(30))
def test_the_order_is_that_of_the_plain_definition(seed: int) -> None:
    columns = columns_of(random_host(seed).namespaces, ROWS)
    assert [id(column) for column in order_columns(columns)] == [id(column) for column in order_step_by_step(columns)]


def test_the_order_of_a_busy_host_is_that_of_the_plain_definition() -> None:
    columns = columns_of(busy_host(60).namespaces, ROWS)
    assert [column.label for column in order_columns(columns)] == [column.label for column in order_step_by_step(columns)]


def networks(count: int) -> list[Column]:
    """Return the columns of as many networks: some have a name, some are open files of one process, some are containers of pods."""
    host = Imagined()
    shared = host.container("docker:all", (T.IPC,))
    for number in range(count // 3):
        host.bound(f"/run/netns/n{number}")
        host.make(T.NET, references=[Reference(ReferenceKind.DESCRIPTOR, pid=900, number=number)], processes=0)
        host.container(f"docker:c{number}", (T.NET,), {T.IPC: shared[T.IPC]})
    return columns_of(host.namespaces, ROWS)


def test_eight_times_as_many_networks_do_not_take_sixty_four_times_as_long() -> None:
    few, many = networks(450), networks(3600)

    def seconds(columns: Sequence[Column]) -> float:
        before = time.process_time()
        assert len(order_columns(columns)) == len(columns)
        return time.process_time() - before

    check_below(25, lambda: seconds(many) / seconds(few), "the time for eight times as many columns")
