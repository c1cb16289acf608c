"""Records that wait: users take turns, and each user's records stay in order."""

from typing import cast

from nsbroker.daemon.peer import Peer
from nsbroker.daemon.record_queue import NOBODY, RecordQueue
from nsbroker.daemon.record_sink import Record
from tests.world import ALICE, BOB


class Caller:
    """Only the user of a peer matters here."""

    def __init__(self, user: int) -> None:
        self.user = user


def caller(user: int) -> Peer:
    return cast(Peer, Caller(user))


def record(target: str) -> Record:
    return Record("Open", target, "allowed", "", None, None, None)


def drain(queue: RecordQueue) -> list[str]:
    targets = []
    while queue:
        targets.append(queue.first().target)
        queue.remove_first()
    return targets


def test_users_take_turns() -> None:
    queue = RecordQueue()
    for number in range(3):
        queue.add(ALICE, caller(ALICE), record(f"a{number}"))
    queue.add(BOB, caller(BOB), record("b"))
    queue.add(NOBODY, None, record("n"))
    assert drain(queue) == ["a0", "b", "n", "a1", "a2"]


def test_a_call_waits_for_its_last_record() -> None:
    queue, peer = RecordQueue(), caller(ALICE)
    for target in ("first", "second"):
        queue.add(ALICE, peer, record(target))
    assert queue.has(peer)
    assert queue.remove_first() is None
    assert [one.target for one in queue.records_of(peer)] == ["second"]
    assert queue.remove_first() is peer
    assert not queue.has(peer)
    assert not queue


def test_dropping_leaves_the_records_of_others() -> None:
    queue, peer, other = RecordQueue(), caller(ALICE), caller(ALICE)
    queue.add(ALICE, peer, record("dropped"))
    queue.add(ALICE, other, record("kept"))
    queue.add(ALICE, None, record("a refusal"))
    queue.drop(peer)
    queue.drop(peer)
    assert queue.without_call == 1
    assert drain(queue) == ["kept", "a refusal"]
    assert queue.without_call == 0


def test_a_queue_with_only_dropped_records_is_empty() -> None:
    queue, peer = RecordQueue(), caller(ALICE)
    queue.add(ALICE, peer, record("dropped"))
    queue.drop(peer)
    assert not queue
