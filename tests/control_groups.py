"""Control groups that tests make."""

import errno
from pathlib import Path

from tests.world import eventually


def remove_empty(group: Path) -> None:
    """Remove a control group, once the processes in it have ended; this may take a moment longer than waiting for them."""
    eventually(lambda: _try_to_remove(group), f"{group} is empty")


def _try_to_remove(group: Path) -> bool:
    try:
        group.rmdir()
    except OSError as error:
        return error.errno != errno.EBUSY
    return True
