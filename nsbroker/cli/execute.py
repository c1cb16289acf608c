"""Replace this process by another program."""

import os
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

from nsbroker.errors import CommandFailed


def execute(command: Sequence[str], environment: Mapping[str, str]) -> NoReturn:
    """Replace this process by `command`, with `environment` added to ours (execvpe(3)).  Raises CommandFailed; never returns."""
    sys.stdout.flush()
    try:
        os.execvpe(command[0], list(command), {**os.environ, **environment})  # noqa: S606 - no shell, on purpose
    except OSError as error:
        raise CommandFailed(f"cannot run {command[0]!r}: {error.strerror or error}") from error
