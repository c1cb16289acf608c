"""Descriptors are closed together, and a lack of room for more is recognized."""

import errno
import os

import pytest

from nsbroker.linux.descriptors import close_all, close_and_clear, is_open, is_out_of_files


def test_all_are_closed_and_the_list_is_empty_afterwards() -> None:
    first, second = [list(os.pipe()) for _ in range(2)]
    close_all(first)
    closed = [*second]
    close_and_clear(second)
    assert second == []
    assert not any(map(is_open, (*first, *closed)))


def test_a_number_that_is_not_ours_is_reported_and_the_others_stay_in_the_list() -> None:
    fds = list(os.pipe())
    os.close(fds[1])
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        close_and_clear(fds)
    assert len(fds) == 1
    close_and_clear(fds)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.EMFILE, ""), True),
        (OSError(errno.ENFILE, ""), True),
        (OSError(errno.EACCES, ""), False),
        (ProcessLookupError(), False),
        (ValueError(), False),
    ],
)
def test_no_room_for_another_descriptor_is_recognized(error: Exception, expected: bool) -> None:
    assert is_out_of_files(error) is expected
