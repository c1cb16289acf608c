"""Subjects: whom `as` of Explain means."""

import grp
import os
import pwd

import pytest

from nsbroker.daemon.policy.subject import Subject
from nsbroker.errors import ConfigurationError, InvalidTarget
from tests.world import ALICE


def test_a_user_has_the_groups_of_the_user_database_and_those_that_are_given() -> None:
    user, group = pwd.getpwall()[1], grp.getgrall()[3]
    subject = Subject.parse([f"group:{group.gr_name}", f"user:{user.pw_name}", "unit:web.service", "docker:web"])
    assert (subject.uid, subject.gid, subject.unit) == (user.pw_uid, user.pw_gid, "web.service")
    assert subject.groups == {group.gr_gid, *os.getgrouplist(user.pw_name, user.pw_gid)}
    assert set(subject.container) == {"docker:web", "container:web"}
    assert subject.owns(user.pw_uid)
    assert not subject.owns(user.pw_uid + 1)


def test_a_number_that_the_database_does_not_know_has_the_group_that_is_given_first_or_its_own() -> None:
    assert Subject.parse([f"user:{ALICE}"])[:3] == (ALICE, ALICE, frozenset((ALICE,)))
    assert Subject.parse([f"user:{ALICE}", "group:77", "group:78"])[:3] == (ALICE, 77, frozenset((77, 78)))


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["group:77"],
        ["user:"],
        ["user:nosuchuser"],
        ["user:1", "group:nosuchgroup"],
        ["user:1", "user:2"],
        ["user:1", "unit:a.service", "unit:b.service"],
        ["user:1", "docker:a", "podman:b"],
        ["user:1", "unit:a"],
        ["user:1", "docker:a*"],
        ["user:1", "everyone"],
        ["user:1", "pid:7"],
    ],
)
def test_what_names_nobody_is_refused(words: list[str]) -> None:
    with pytest.raises((ConfigurationError, InvalidTarget)):
        Subject.parse(words)
