"""How a control group shows that a process belongs to a container (cgroups(7))."""

import functools
import re

RANDOM_ID = "[0-9a-f]{64}"
"""A regular expression for the ids that most engines make up."""
USER_SLICE = "user.slice"
"""The group of all users' processes.  Users choose the names of groups below it."""
_ANY_CONTAINER = rf"lxc\.payload\..*|((docker|cri-containerd|libpod)-)?{RANDOM_ID}(\.scope)?"
_REMEMBERED_MAX = 128


def is_containers_group(path: str, groups: tuple[str, ...], identifier: str, *, below_user_slice: bool = False) -> bool:
    """Return whether the control group `path` of a process belongs to the container with the id `identifier`.

    A component of the path must be one of `groups`, the names that its engine gives to the container's group.  Groups below a
    user's slice count only with `below_user_slice`, for an engine that this user runs.
    """
    # Only the first component that looks like a container's group counts.  Below it, the container's own processes can make
    # groups with any name; and below a user's slice, that user can.
    other_container = _other_container(groups, identifier)
    # Every path begins with an empty part, which is the root group and no container's.
    for part in filter(None, path.split("/")):
        if part in groups:
            return True
        if other_container.fullmatch(part) or (part == USER_SLICE and not below_user_slice):
            return False
    return False


@functools.lru_cache(_REMEMBERED_MAX)
def _other_container(groups: tuple[str, ...], identifier: str) -> re.Pattern[str]:
    """Return what matches the groups of other containers, of the same engine and of others."""
    return re.compile("|".join((*(re.escape(group).replace(identifier, RANDOM_ID) for group in groups), _ANY_CONTAINER)))
