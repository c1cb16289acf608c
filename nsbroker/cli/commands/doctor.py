"""`nsbroker doctor`."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from nsbroker.cli import connection, terminal
from nsbroker.cli.diagnosis import broker, configuration, engines, kernel, rights, units
from nsbroker.cli.diagnosis.row import Row, Verdict
from nsbroker.cli.output import print_json
from nsbroker.errors import NsbrokerError
from nsbroker.linux.features import features

HELP = """\
Check the broker, its units, its configuration, the kernel, the engines and your rights, and say what to do.

Nothing is changed.  It works without a broker, too, and says more as root.  The exit code is 1 if something failed; warnings
alone are no failure."""
EXAMPLE = "nsbroker doctor"

configure = connection.add_options

_COLOURS: Mapping[Verdict, str] = {Verdict.OK: terminal.GREEN, Verdict.WARN: terminal.YELLOW, Verdict.FAIL: terminal.RED}


def run(options: argparse.Namespace) -> int:
    """Print a line for each finding, or the JSON."""
    connection.describe(options)
    rows = _check_all(options.timeout)
    if options.json:
        print_json(rows)
    else:
        _print(rows)
    return 1 if any(row.verdict is Verdict.FAIL for row in rows) else 0


def _check_all(timeout: float) -> list[Row]:
    with broker.connected(timeout) as (client, status, rows):
        found = [*rows, *_guard("units", units.check)]
        found += _guard("configuration", partial(configuration.check, status))
        found += _guard("kernel", partial(kernel.check, features()))
        if client is not None:
            found += _guard("engines", partial(engines.check, client))
            found += _guard("rights", partial(rights.check, client))
    return found


def _guard(subject: str, check: Callable[[], Sequence[Row]]) -> Sequence[Row]:
    """Run a check; what stops it must not stop the others."""
    try:
        return check()
    except (NsbrokerError, OSError) as error:
        return [Row(Verdict.FAIL, subject, str(error))]


def _print(rows: Sequence[Row]) -> None:
    width = max(len(row.subject) for row in rows)
    for row in rows:
        text = f"{row.text}: {row.advice}" if row.advice else row.text
        verdict = terminal.paint(f"{row.verdict:<4}", _COLOURS[row.verdict])
        print(f"{verdict}  {row.subject:<{width}}  {terminal.printable(text)}")
