"""From the tables of one file to settings.  Every mistake is found, and described by what is written and what would be right."""

import datetime
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

from msgspec import Struct

from nsbroker.daemon.configuration.problems import Problem, rule_name
from nsbroker.daemon.configuration.settings import (
    AuditSettings,
    Keys,
    Limits,
    RuleText,
    SourcedRule,
    SourceFile,
    WithoutJournal,
)
from nsbroker.model.target import ENGINES

_LARGEST = 10**6
_TABLES = ("allow", "limits", "engines", "audit")
# For each list in a rule, one entry as an example.
_EXAMPLES = {
    "who": "user:alice",
    "targets": "docker:web-*",
    "namespaces": "net",
    "sockets": "inet:stream",
    "marks": "0x100",
    "devices": "null",
    "interfaces": "veth",
    "files": "net/dev",
    "create": "net",
    "hold": "net",
}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_UNTIL = "2026-12-01T18:00:00Z"
# The fields of the limits by their names in files, and the default of each.
_FIELDS = dict(zip(Limits.__struct_encode_fields__, Limits.__struct_fields__, strict=True))
_DEFAULTS = {name: getattr(Limits(), field) for name, field in _FIELDS.items()}


class Settings(Struct):
    """What one file says.  `limits` are by the names of the fields; `broken` are the numbers of the rules with mistakes."""

    rules: list[SourcedRule] = []
    limits: dict[str, float] = {}
    engines: dict[str, list[str]] = {}
    audit: AuditSettings | None = None
    broken: set[int] = set()


def parse(tables: Mapping[str, Any], file: SourceFile, report: Callable[[Problem], None]) -> Settings:
    """Return what the tables of a file say, without what is wrong in them, which is reported."""
    parser = _Parser(file, report)
    settings = Settings()
    parser.check_keys(tables, _TABLES, (), "")
    parser.parse_rules(tables.get("allow", []), settings)
    settings.limits = parser.parse_limits(tables.get("limits", {}))
    settings.engines = parser.parse_engines(tables.get("engines", {}))
    settings.audit = parser.parse_audit(tables.get("audit"))
    return settings


class _Parser:
    def __init__(self, file: SourceFile, report: Callable[[Problem], None]) -> None:
        self._file = file
        self._report = report
        self._count = 0
        # Thousands of rules can have the same lists.  Each is kept once.
        self._lists: dict[tuple[str, ...], tuple[str, ...]] = {}

    def _say(self, keys: Keys, text: str) -> None:
        self._count += 1
        self._report(Problem(self._file, keys, text))

    def check_keys(self, table: Mapping[str, Any], known: Collection[str], keys: Keys, where: str) -> None:
        """Report the keys of a table that are not known; `where` says in messages which table it is."""
        for key in table:
            if key not in known:
                import difflib  # only on this path: the daemon's memory counts

                near = difflib.get_close_matches(key, known, 1)
                hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
                self._say((*keys, key), f"{where}unknown key {key!r}: {hint}")

    def parse_rules(self, written: object, settings: Settings) -> None:
        """Add the rules to `settings`.  A rule with mistakes is added with what is right in it."""
        if not isinstance(written, list):
            self._say(("allow",), f"allow is {_kind(written)}: write [[allow]], with two brackets, above each rule")
            return
        for number, table in enumerate(written):
            before = self._count
            text = self._parse_rule(table, number)
            settings.rules.append(SourcedRule(text, self._file, number))
            if self._count != before:
                settings.broken.add(number)

    def _parse_rule(self, table: object, number: int) -> RuleText:
        keys: Keys = ("allow", number)
        text = RuleText("", (), ())
        if not isinstance(table, dict):
            self._say(keys, f"rule {number + 1} is {_kind(table)}: write [[allow]], and the keys of the rule below it")
            return text
        where = f"{rule_name(table.get('name'), number)}: "
        self.check_keys(table, RuleText.__struct_fields__, keys, where)
        if "name" in table:
            text.name = self._parse_name(table["name"], (*keys, "name"), where)
        else:
            self._say(keys, f"{where}the key 'name' is missing: write for example name = \"metrics\"")
        for key, example in _EXAMPLES.items():
            if key in table:
                words = tuple(self._parse_list(table[key], (*keys, key), f"{where}{key}", example))
                setattr(text, key, self._lists.setdefault(words, words))
            elif key in ("who", "targets"):
                self._say(keys, f'{where}the key {key!r} is missing: write for example {key} = ["{example}"]')
        if "until" in table:
            text.until = self._parse_until(table["until"], (*keys, "until"), where)
        return text

    def _parse_name(self, value: object, keys: Keys, where: str) -> str:
        """Return the name of a rule; nothing if it cannot be one."""
        if not isinstance(value, str):
            self._say(keys, f'{where}name is {_kind(value)}: write text in quotes, such as name = "metrics"')
            return ""
        if not _NAME.fullmatch(value):
            what = "a name has only letters, digits, '_', '.' and '-', and begins with a letter or a digit"
            self._say(keys, f"{where}name: {what}")
            return ""
        return value

    def _parse_until(self, value: object, keys: Keys, where: str) -> datetime.datetime | None:
        """Return a time; None if it is none that is the same everywhere."""
        if isinstance(value, datetime.datetime) and value.tzinfo is not None:
            return value
        what = "a time without a zone" if isinstance(value, datetime.datetime) else _kind(value)
        self._say(keys, f"{where}until is {what}: write the time with its zone, such as {_UNTIL}, and without quotes")
        return None

    def _parse_list(self, value: object, keys: Keys, where: str, example: str) -> list[str]:
        """Return a list of texts.  A text alone stands for a list with one entry.  A list with other entries is left out."""
        if isinstance(value, str):
            return [value]
        if not isinstance(value, list):
            key = keys[-1]
            self._say(keys, f'{where} is {_kind(value)}: write text in quotes, or a list of them, such as {key} = ["{example}"]')
            return []
        wrong = [number for number, entry in enumerate(value) if not isinstance(entry, str)]
        for number in wrong:
            what = f"{where}: entry {number + 1} is {_kind(value[number])}"
            self._say((*keys, number), f'{what}: write text in quotes, such as "{example}"')
        return [] if wrong else value

    def parse_limits(self, written: object) -> dict[str, float]:
        """Return the limits by the names of their fields."""
        if not isinstance(written, dict):
            self._say(("limits",), f"limits is {_kind(written)}: write [limits], and lines such as connections = 1024 below it")
            return {}
        self.check_keys(written, tuple(_DEFAULTS), ("limits",), "limits: ")
        limits: dict[str, float] = {}
        for key in (key for key in written if key in _DEFAULTS):
            value, whole = written[key], isinstance(_DEFAULTS[key], int)
            number = "a whole number" if whole else "a number"
            if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
                self._say(("limits", key), f"limits: {key} is {_kind(value)}: write {number}, such as {key} = {_DEFAULTS[key]:g}")
            elif not 0 < value <= _LARGEST:
                self._say(("limits", key), f"limits: {key} is out of range: write {number} above 0, and at most {_LARGEST}")
            else:
                limits[_FIELDS[key]] = value if whole else float(value)
        return limits

    def parse_engines(self, written: object) -> dict[str, list[str]]:
        """Return the places of each engine."""
        if not isinstance(written, dict):
            what = f"engines is {_kind(written)}"
            self._say(("engines",), f'{what}: write [engines], and lines such as docker = ["/run/docker.sock"] below it')
            return {}
        self.check_keys(written, ENGINES, ("engines",), "engines: ")
        found: dict[str, list[str]] = {}
        for name in (name for name in written if name in ENGINES):
            keys: Keys = ("engines", name)
            found[name] = self._parse_list(written[name], keys, f"engines: {name}", "/run/engine.sock")
            for place in found[name]:
                if not Path(place).is_absolute():
                    hint = "write a path that begins with '/', or an empty list to turn the engine off"
                    self._say(keys, f"engines: {name}: {place!r} is not an absolute path: {hint}")
        return found

    def parse_audit(self, written: object) -> AuditSettings | None:
        """Return the settings of the record; None without any."""
        if written is None:
            return None
        choice = " or ".join(f'"{one}"' for one in get_args(WithoutJournal))
        if not isinstance(written, dict):
            self._say(("audit",), f"audit is {_kind(written)}: write [audit], and without-journal = {choice} below it")
            return None
        self.check_keys(written, AuditSettings.__struct_encode_fields__, ("audit",), "audit: ")
        value = written.get("without-journal", AuditSettings().without_journal)
        if value not in get_args(WithoutJournal):
            shown = repr(value) if isinstance(value, str) else _kind(value)
            self._say(("audit", "without-journal"), f"audit: without-journal is {shown}: write {choice}")
            return None
        return AuditSettings(value)


def _kind(value: object) -> str:
    """Return what a value of TOML is, in words."""
    kinds: Iterable[tuple[type, str]] = (
        (bool, "true or false"),
        (str, "text"),
        (int, "a whole number"),
        (float, "a number with a decimal point"),
        (list, "a list"),
        (dict, "a table"),
        (datetime.datetime, "a date with a time"),
        (datetime.date, "a date"),
        (datetime.time, "a time"),
    )
    return next(word for kind, word in kinds if isinstance(value, kind))
