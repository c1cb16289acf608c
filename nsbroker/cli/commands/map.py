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
Draw who shares which namespaces: containers and units beside each other, a bar for each namespace.

FILE.svg is a picture, FILE.html a page with it that can be searched; it opens anywhere, and loads nothing."""

_FORMATS = {".svg": picture, ".html": page}


def configure(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("file", metavar="FILE", type=_file, help="what to write: FILE.svg or FILE.html")
    arguments.add_types(parser, default="all")
    connection.add_timeout(parser)


def run(options: argparse.Namespace) -> int:
    """Ask, draw, write."""
    types = arguments.types(options)
    with connection.connect(options) as broker:
        # All: by what else is there columns are told apart, and keep their names whichever types are drawn.
        spaces = broker.list()
    chart = chart_of(spaces, types)
    size = f"{len(chart.bars)} namespaces, {len(chart.columns)} columns"
    text = _FORMATS[options.file.suffix](chart, f"{size}, {datetime.now().astimezone():%Y-%m-%d %H:%M %Z}")
    _write(options.file, text)
    print(f"{printable(str(options.file))}: {size}")
    return 0


def _file(text: str) -> Path:
    path = Path(text)
    if path.suffix not in _FORMATS:
        raise argparse.ArgumentTypeError(f"{text!r} ends neither in .svg nor in .html")
    return path


def _write(path: Path, text: str) -> None:
    """Replace the file as a whole.  Where `path` is a link, it is the link that is replaced."""
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
