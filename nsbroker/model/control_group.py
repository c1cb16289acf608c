"""How a control group shows that a process belongs to a container (cgroups(7))."""

import re
from collections.abc import Collection

RANDOM_ID = "[0-9a-f]{64}"
"""A regular expression for the ids that most engines make up."""
USER_SLICE = "user.slice"
"""The group of all users' processes.  Users choose the names of groups below it."""
_ANY_CONTAINER = re.compile(rf"lxc\.payload\..*|((docker|cri-containerd|libpod)-)?{RANDOM_ID}(\.scope)?")


def is_containers_group(path: str, groups: Collection[str], identifier: str, *, below_user_slice: bool = False) -> bool:
    """Return whether the control group `path` of a process belongs to the container with the id `identifier`.

    A component of the path must be one of `groups`, the names that its engine gives to the container's group.  Groups below a
    user's slice count only with `below_user_slice`, for an engine that this user runs.
    """
    # Only the first component that looks like a container's group counts.  Below it, the container's own processes can make
    # groups with any name; and below a user's slice, that user can.
    pattern = "|".join(re.escape(group).replace(identifier, RANDOM_ID) for group in groups)
    # Every path begins with an empty part, which is the root group and no container's.
    for part in filter(None, path.split("/")):
        if part in groups:
            return True
        if re.fullmatch(pattern, part) or _ANY_CONTAINER.fullmatch(part) or (part == USER_SLICE and not below_user_slice):
            return False
    return False
