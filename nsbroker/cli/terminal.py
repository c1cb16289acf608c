"""Standard output as a terminal: its width, its colours, what it can draw.  Into a pipe or file everything goes whole and plain."""

import os
import shutil
import sys
import unicodedata

BOLD = "1"
YELLOW = "33"


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
