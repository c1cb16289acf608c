"""The hosts file, also one that a hostile target wrote."""

import pytest

from nsbroker.names import hosts

TEXT = b"""\
# 10.0.0.9 web
127.0.0.1\tlocalhost loop
10.0.0.1 web web.test # the main one
10.0.0.1 web
fe80::1%eth0 web
nonsense web
10.0.0.2   WEB.
2001:db8::1 six
10.0.0.3
\xff\xfe \x00 web
"""


@pytest.mark.parametrize(
    ("name", "addresses"),
    [
        ("web", ["10.0.0.1", "10.0.0.2"]),
        ("Web.Test.", ["10.0.0.1"]),
        ("six", ["2001:db8::1"]),
        ("loop", ["127.0.0.1"]),
        ("main", []),
        ("10.0.0.3", []),
        ("", []),
    ],
)
def test_the_addresses_of_a_name_in_the_order_of_the_file(name: str, addresses: list[str]) -> None:
    assert hosts.find(TEXT, name) == addresses


@pytest.mark.parametrize(
    ("name", "addresses"),
    [
        ("10.0.0.1", ["10.0.0.1"]),
        ("::1", ["::1"]),
        ("localhost", ["127.0.0.1", "::1"]),
        ("LocalHost.", ["127.0.0.1", "::1"]),
        ("fe80::1%eth0", []),
        ("web", []),
        ("10.1", []),
        ("", []),
    ],
)
def test_numbers_and_localhost_need_no_file(name: str, addresses: list[str]) -> None:
    assert hosts.fixed(name) == addresses


def test_a_name_that_looks_like_an_empty_line_matches_nothing() -> None:
    assert hosts.find(b"\n\n \n#\n10.0.0.1\n", "") == []
