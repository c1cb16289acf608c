"""Patterns that can fit nothing.  What scopes allow is tested with rules and restrictions."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsbroker.daemon.policy.scope import NamePatterns, why_fits_nothing
from nsbroker.model.target import Target

TARGETS = (
    "pid:4711",
    "tid:4711/4715",
    "name:a.b_c-d",
    "container:web",
    "docker:shop/web-1",
    "cri:default/pod1/c1",
    "podman:x+y",
    "unit:nginx.service",
    "unit:a@b:c\\x2d.scope",
    "net:[4026531840]",
    "mnt:[1]",
    "path:/run/docker/netns/1a2b",
    "path:/x y/ä",
)


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("name:a/*", "no target that begins with name: has '/'"),
        ("name:* ", "has ' '"),
        ("pid:x*", "has 'x'"),
        ("docker:*!", "has '!'"),
        ("docker:*/*/*/*", "at most 2 '/'"),
        ("unit:nginx*.conf", "ends in one of .service"),
        ("unit:*/a.service", "has '/'"),
        ("net:402*", r"written as net:\[4026531840\]"),
        ("net:*]x", "has 'x'"),
        ("path:*", "begins with '/'"),
        ("path:?run/*", "begins with '/'"),
        ("tid:*", "write tid:PROCESS/THREAD"),
    ],
)
def test_a_pattern_that_no_target_can_fit(pattern: str, why: str) -> None:
    assert re.search(why, why_fits_nothing(pattern) or "")


@pytest.mark.parametrize(
    "pattern", ["*", "own", "self", "name:blue", "name:*", "docker:*", "unit:*", "unit:a*", "net:*", "path:/*", "tid:*/*"]
)
def test_a_pattern_that_a_target_can_fit(pattern: str) -> None:
    assert why_fits_nothing(pattern) is None


@given(st.sampled_from(TARGETS), st.lists(st.tuples(st.integers(0, 40), st.integers(0, 8), st.sampled_from("*?")), max_size=3))
def test_what_fits_a_target_is_never_said_to_fit_nothing(target: str, wildcards: list[tuple[int, int, str]]) -> None:
    assert str(Target.parse(target)) == target
    kind, _, value = target.partition(":")
    for at, length, wildcard in wildcards:
        cut = value[at : at + (length if wildcard == "*" else 1)]
        if "/" not in cut and (wildcard == "*" or (cut and cut != "*")):
            value = value[:at] + wildcard + value[at + len(cut) :]
    pattern = f"{kind}:{value}"
    assert NamePatterns.parse([pattern]).fits(target)
    assert why_fits_nothing(pattern) is None
