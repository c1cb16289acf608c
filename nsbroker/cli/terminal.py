"""Standard output as a terminal: its width, its colours, what it can draw, what it must not be told.

Into a pipe or file everything goes whole and plain.
"""

import io
import os
import shutil
import sys
import unicodedata
from typing import TextIO

# Bytes that were no text (PEP 383).
_BYTES = range(0xDC80, 0xDD00)

BOLD = "1"
YELLOW = "33"


def escaped(text: str) -> str:
    """`text` in one line, in which nothing is left that a terminal obeys or that turns the order of letters around.

    That is all that is not printable (str.isprintable): control characters, those of C1 and of bidirectional text too,
    separators of lines, halves of surrogate pairs.  Names, commands and paths are whatever somebody made them.
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else _escape(c) for c in text)


def _escape(c: str) -> str:
    # What a program may have put into a name that was not UTF-8 (PEP 383).
    return f"\\x{ord(c) - 0xDC00:02x}" if ord(c) in _BYTES else c.encode("unicode_escape").decode("ascii")


def printable(text: str) -> str:
    """`text` escaped, and what standard output has no such characters for as well."""
    encoding = sys.stdout.encoding
    return escaped(text).encode(encoding, "backslashreplace").decode(encoding)


def say(text: str) -> None:
    """One line on standard error.  Nobody hears it where that is closed or full."""
    try:
        print(f"nsbroker: {escaped(' '.join(text.split()))}", file=sys.stderr, flush=True)
    except OSError:
        silence(sys.stderr)


def silence(stream: TextIO) -> None:
    """Let what is left in the buffer of `stream`, which takes nothing more, go nowhere: it would fail once more at the end."""
    nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def provide_standard_files() -> None:
    """Put something in the place of standard files that are closed, so that no socket of ours gets their numbers.

    Using them still fails as it should (EBADF).
    """
    for number, flags in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_RDONLY)):
        try:
            os.fstat(number)
        except OSError:
            # The lowest number that is free is this one.
            os.open(os.devnull, flags | os.O_CLOEXEC)
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - it stays
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False, errors="backslashreplace")  # noqa: SIM115 - it stays
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def width() -> int | None:
    """Its columns; None when it is no terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def cut(text: str, room: int | None) -> str:
    """`text`, cut to so many columns (None: whole); what was cut ends in an ellipsis."""
    if room is None or sum(map(_columns, text)) <= room:
        return text
    mark = drawn("…", "...")[:room]
    left = room - len(mark)
    for index, character in enumerate(text):
        left -= _columns(character)
        if left < 0:
            return text[:index] + mark
    return text


def painted(text: str, colour: str) -> str:
    """`text` in a colour, on a terminal whose user has not said otherwise (no-color.org)."""
    if not text or not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\x1b[{colour}m{text}\x1b[0m"


def drawn(lines: str, plain: str) -> str:
    """`lines`, or `plain` where standard output has no such characters."""
    try:
        lines.encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        return plain
    return lines


def _columns(character: str) -> int:
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
