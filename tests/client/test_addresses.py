"""Which of several addresses of a host name is tried next, and which error is raised when none works."""

import pytest

from nsbroker.client.addresses import concerns_one_address, most_informative
from nsbroker.errors import ConnectionLost, InvalidParameter, PermissionDenied, SocketFailed, Timeout

REFUSED = ConnectionRefusedError(111, "Connection refused")
DENIED = PermissionDenied("a socket of name:blue")
FAILED = SocketFailed("name:blue", "inet6:stream", "no IPv6 here")
LOST = ConnectionLost("the broker hung up")
# This is a TimeoutError as well, and so an OSError, but it is the broker that did not answer.
UNANSWERED = Timeout("connect", 1.0)


@pytest.mark.parametrize(
    ("error", "goes_on"),
    [
        (REFUSED, True),
        (DENIED, True),
        (FAILED, True),
        (LOST, False),
        (UNANSWERED, False),
        (InvalidParameter("target"), False),
        (KeyError(), False),
    ],
)
def test_the_next_address_is_tried_unless_the_broker_is_gone_or_the_call_is_wrong(error: Exception, goes_on: bool) -> None:
    assert concerns_one_address(error) is goes_on


def test_the_last_error_of_connecting_is_raised_before_one_of_making_the_socket() -> None:
    last = TimeoutError(110, "Connection timed out")
    assert most_informative([REFUSED, last, FAILED]) is last
    assert most_informative([FAILED, DENIED]) is DENIED
