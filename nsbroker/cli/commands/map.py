"""`nsbroker map`."""

import argparse
import contextlib
import os
import secrets
from datetime import datetime
from pathlib import Path

from nsbroker.cli import arguments, connection
from nsbroker.cli.drawing.chart import chart_of
from nsbroker.cli.drawing.page import page
from nsbroker.cli.drawing.svg import picture
from nsbroker.cli.terminal import printable
from nsbroker.errors import CommandFailed

HELP = """\
Draw which containers and units share which namespaces.

FILE.svg is written as a picture.  FILE.html is written as a page that shows the same picture and can be searched.  The page
loads nothing from anywhere else."""
EXAMPLE = "nsbroker map containers.html"

_FORMATS = {".svg": picture, ".html": page}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add its arguments."""
    parser.add_argument("file", metavar="FILE", type=_parse_file, help="write this file: FILE.svg or FILE.html")
    arguments.add_types(parser, "all")
    connection.add_timeout(parser)


def run(options: argparse.Namespace) -> int:
    """Ask the broker for all namespaces, draw the chart, and write the file."""
    types = arguments.types(options)
    with connection.connect(options) as broker:
        # Ask for all types, also when only some are drawn: the columns and their names are worked out from all of them.
        namespaces = broker.list()
    chart = chart_of(namespaces, types)
    size = f"{len(chart.bars)} namespaces, {len(chart.columns)} columns"
    text = _FORMATS[options.file.suffix](chart, f"{size}, {datetime.now().astimezone():%Y-%m-%d %H:%M %Z}")
    _write(options.file, text)
    print(f"{printable(str(options.file))}: {size}")
    return 0


def _parse_file(text: str) -> Path:
    path = Path(text)
    if path.suffix not in _FORMATS:
        raise argparse.ArgumentTypeError(f"{text!r} ends neither in .svg nor in .html")
    return path


def _write(path: Path, text: str) -> None:
    """Replace the file in one step.  A symbolic link at `path` is replaced, not followed."""
    temporary = path.with_name(f".nsbroker-{secrets.token_hex(8)}")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            with open(fd, "w", encoding="utf-8") as file:
                file.write(text)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
    except OSError as error:
        raise CommandFailed(f"cannot write {path}: {error.strerror}") from error
