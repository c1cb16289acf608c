"""Whether the configuration is valid, and whether the broker uses it as it is now."""

import datetime
import os
from pathlib import Path

from nsbroker.cli import arguments
from nsbroker.cli.diagnosis.row import Row, Verdict
from nsbroker.errors import ConfigurationError
from nsbroker.protocol.messages import Status

_SUBJECT = "configuration"
_RELOAD = "run `systemctl reload nsbroker`, or send SIGHUP to `nsbroker serve`"


def check(status: Status | None) -> list[Row]:
    """Return rows about the configuration.  `status` is what the broker said, None if it is away.

    Only root may be able to read all files, so for others the broker's word counts.
    """
    if os.geteuid() == 0:
        return _check_files(status)
    if status is None:
        return []
    text = f"the broker has {status.rules} rules, read {_format(status.loaded)}; root can check the files"
    return [Row(Verdict.OK, _SUBJECT, text)]


def _check_files(status: Status | None) -> list[Row]:
    try:
        with arguments.daemon_installed():
            from nsbroker.daemon.policy import rules
    except ConfigurationError as error:
        return [Row(Verdict.WARN, _SUBJECT, f"it cannot be checked here: {error}")]
    try:
        settings, policy = rules.load()
    except ConfigurationError as error:
        kept = "" if status is None else f"; the broker still has the {status.rules} rules that it read {_format(status.loaded)}"
        return [Row(Verdict.FAIL, _SUBJECT, f"{problem}{kept}", f"mend it, then {_RELOAD}") for problem in error.problems]
    files = ", ".join(map(str, settings.files))
    rows = [Row(Verdict.OK, _SUBJECT, f"{len(policy.rules)} rules in {files}")]
    rows += [Row(Verdict.WARN, _SUBJECT, warning, "`nsbroker check-config` shows the rules") for warning in policy.warnings]
    if status is not None:
        rows += _compare(status, len(policy.rules), settings.files)
    return rows


def _compare(status: Status, rules: int, files: tuple[Path, ...]) -> list[Row]:
    if status.configuration_fault:
        return [
            Row(
                Verdict.FAIL, _SUBJECT, f"the broker refuses every call, since it found this: {status.configuration_fault}", _RELOAD
            )
        ]
    later = [str(path) for path in files if path.stat().st_mtime > status.loaded]
    if later:
        text = f"{', '.join(later)} changed after the broker read its configuration ({_format(status.loaded)})"
        return [Row(Verdict.WARN, _SUBJECT, text, _RELOAD)]
    if rules != status.rules:
        text = f"the broker has {status.rules} rules, but the files have {rules}"
        return [Row(Verdict.WARN, _SUBJECT, text, f"{_RELOAD}; or it was started with --config, which is not checked here")]
    return []


def _format(seconds: float) -> str:
    try:
        return datetime.datetime.fromtimestamp(seconds).astimezone().isoformat(" ", "seconds")
    except (OverflowError, OSError, ValueError):
        return "at no date"
