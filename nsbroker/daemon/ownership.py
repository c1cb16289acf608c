"""Find out whether anybody but trusted users could change a file or folder that the broker relies on."""

import os
import stat
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple


class Fault(NamedTuple):
    """Why a file or folder is not trusted, and the command that mends it."""

    reason: str
    command: str


def find_fault(path: Path, facts: os.stat_result, owners: Collection[int], *, is_guarded: bool = False) -> Fault | None:
    """Return why others than the uids `owners` could change what `facts` are of; None when nobody else could.

    The first of `owners` is the one to whom it should belong.  `is_guarded`: something else than its mode keeps others from
    replacing what is in a folder.
    """
    owner, *_ = owners
    is_link = stat.S_ISLNK(facts.st_mode)
    if facts.st_uid not in owners:
        command = f"chown {'-h ' if is_link else ''}{owner or 'root'}"
        return Fault(f"belongs to uid {facts.st_uid}, not to uid {owner}", f"{command} {_quote(path)}")
    # The mode of a link means nothing: nobody can change where it points to.
    is_shared = facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not is_link
    if is_shared and not (is_guarded and stat.S_ISDIR(facts.st_mode)):
        return Fault(
            f"can be written by others than its owner (mode {stat.S_IMODE(facts.st_mode):o})", f"chmod go-w {_quote(path)}"
        )
    return None


def _quote(path: Path) -> str:
    import shlex  # only on this path: the daemon's memory counts

    return shlex.quote(str(path))
