"""Standard output as a terminal: its width, colours and encoding, and escapes for text that could control it.

Output to a pipe or a file is neither cut nor coloured.
"""

import enum
import io
import os
import shutil
import sys
import unicodedata
from typing import TextIO

from nsbroker.model.text import escaped

BOLD = "1"
RED = "31"
GREEN = "32"
YELLOW = "33"
ERASE_LINE = "\r\x1b[K"
"""Goes back to the beginning of the line, and erases it."""


class Verbosity(enum.IntEnum):
    """How much is printed on standard error beside errors."""

    QUIET = 0
    """Nothing else."""
    USUAL = 1
    """Hints."""
    VERBOSE = 2
    """Hints and details."""


class _Settings:
    """What the command line of this process chose."""

    verbosity = Verbosity.USUAL


def set_verbosity(verbosity: Verbosity) -> None:
    """Choose what `print_hint` and `print_detail` print from now on."""
    _Settings.verbosity = verbosity


def is_verbose() -> bool:
    """Return whether details are printed, so that it makes sense to find them out."""
    return _Settings.verbosity is Verbosity.VERBOSE


def printable(text: str) -> str:
    """Return `text` in one line, with escapes for what could control a terminal or what its encoding lacks."""
    encoding = sys.stdout.encoding
    return escaped(text).encode(encoding, "backslashreplace").decode(encoding)


def print_message(text: str) -> None:
    """Print one line on standard error.  It is lost when standard error is closed or full."""
    try:
        print(f"nsbroker: {escaped(' '.join(text.split()))}", file=sys.stderr, flush=True)
    except OSError:
        silence(sys.stderr)


def print_hint(text: str) -> None:
    """Print one line on standard error that is neither a result nor an error; --quiet leaves it out."""
    if _Settings.verbosity is not Verbosity.QUIET:
        print_message(text)


def print_detail(text: str) -> None:
    """Print one line on standard error that only --verbose shows."""
    if is_verbose():
        print_message(text)


def silence(stream: TextIO) -> None:
    """Redirect `stream`, to which writing has failed, to /dev/null.

    Python flushes what is left in its buffer when the process exits, and would report the same failure again.
    """
    null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(null, stream.fileno())
    os.close(null)


def provide_standard_files() -> None:
    """Open /dev/null for each closed standard file, so that none of our sockets gets the descriptor 0, 1 or 2.

    Each is opened for the wrong direction, so that using it still fails with EBADF, as on a closed file.
    """
    for number, flags in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_RDONLY)):
        try:
            os.fstat(number)
        except OSError:
            # open(2) returns the lowest free descriptor, which is `number`.
            os.open(os.devnull, flags | os.O_CLOEXEC)
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - it stays open
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False, errors="backslashreplace")  # noqa: SIM115 - it stays open
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def width() -> int | None:
    """Return the columns of the terminal, or None when standard output is not a terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def truncate(text: str, room: int | None) -> str:
    """Shorten `text` to `room` columns (None: no limit).  Text that was shortened ends in an ellipsis."""
    if room is None or sum(map(_columns, text)) <= room:
        return text
    mark = if_encodable("…", "...")[:room]
    left = room - len(mark)
    for index, character in enumerate(text):
        left -= _columns(character)
        if left < 0:
            return text[:index] + mark
    return text


def paint(text: str, colour: str) -> str:
    """Return `text` in `colour`; unchanged when standard output is no terminal or $NO_COLOR is set (no-color.org)."""
    if not text or not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\x1b[{colour}m{text}\x1b[0m"


def if_encodable(text: str, plain: str) -> str:
    """Return `text`, or `plain` when the encoding of standard output lacks characters of `text`."""
    try:
        text.encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        return plain
    return text


def _columns(character: str) -> int:
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
