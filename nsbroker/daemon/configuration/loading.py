"""All configuration files, merged.  A file that is wrong in several places is reported with all of them, as are several files."""

import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from nsbroker.daemon import pace
from nsbroker.daemon.configuration import files, tables
from nsbroker.daemon.configuration.problems import Problem, error_of, of_rule
from nsbroker.daemon.configuration.settings import AuditSettings, Configuration, Limits, SourcedRule, SourceFile
from nsbroker.errors import ConfigurationError

# How many rules in one file are many.
_MANY = 100


class Reading(NamedTuple):
    """The configuration as far as it could be read, and all problems.

    A problem that has no place in a file is a text, which begins with the path.  `broken` has the file and the number of each rule
    with problems of its own: in `configuration` it has only what is right in it.  `parsed` has what each file without problems
    says, by its path.
    """

    configuration: Configuration
    problems: list[Problem | str]
    broken: set[tuple[Path, int]]
    parsed: dict[Path, "Parsed"]


class Parsed(NamedTuple):
    """A file without problems, and what it says."""

    file: SourceFile
    settings: tables.Settings


def load(place: Path | None = None) -> Configuration:
    """Return the configuration of the system, or only that at `place`.

    `place` is a file, or a directory with `nsbroker.toml` or `nsbroker.d` in it.  Raises ConfigurationError with all problems but
    those that only the policy can find: use `policy.rules.load` to find them all.
    """
    reading = read(place)
    if reading.problems:
        raise error_of(reading.problems)
    return reading.configuration


def read(
    place: Path | None = None, earlier: Mapping[Path, Parsed] = MappingProxyType({}), step: pace.Step = pace.no_pause
) -> Reading:
    """Read the same as `load`, and return the problems with it instead of raising an error.

    A file that has the same text as in an `earlier` reading is not parsed again, and its rules are the same objects.  `step` is
    called again and again meanwhile.
    """
    found = files.find(place)
    problems: list[Problem | str] = [*found.errors]
    unread = [*found.unread]
    paths: list[Path] = []
    rules: list[SourcedRule] = []
    broken: set[tuple[Path, int]] = set()
    limits: dict[str, float] = {}
    engines: dict[str, list[str]] = {}
    audit = AuditSettings()
    parsed: dict[Path, Parsed] = {}
    for group in found.groups:
        path, before = group[-1], len(problems)
        try:
            text = files.read(path)
            unread += files.explain_unread(group, is_disabled=text is None)
            if text is None:
                continue
            known = earlier.get(path)
            if known is None or known.file.text != text:
                known = _parse(SourceFile(path, text), problems, step)
        except ConfigurationError as error:
            problems += error.problems
            continue
        settings = known.settings
        if not settings.broken and len(problems) == before:
            parsed[path] = known
        paths.append(path)
        rules += settings.rules
        broken |= {(path, number) for number in settings.broken}
        limits |= settings.limits
        engines |= settings.engines
        audit = settings.audit or audit
    problems += _find_duplicates(rules)
    merged = Configuration(tuple(rules), Limits(**limits), engines, audit, tuple(paths), tuple(unread))  # type: ignore[arg-type]  # whole numbers were checked
    return Reading(merged, problems, broken, parsed)


def _parse(file: SourceFile, problems: list[Problem | str], step: pace.Step) -> Parsed:
    """Return what a file says without what is wrong in it, which is added to `problems`.  Raises ConfigurationError."""
    written = _parse_rules_apart(file.text, step)
    return Parsed(file, tables.parse(_parse_toml(file) if written is None else written, file, problems.append))


def _find_duplicates(rules: Iterable[SourcedRule]) -> list[Problem]:
    """Return a problem for each rule that has the name of an earlier one."""
    origins: dict[str, Path] = {}
    problems = []
    for rule in rules:
        name = rule.text.name
        if name in origins:
            text = f"another rule, in {origins[name]}, has this name: rename one, because records identify a rule by its name"
            problems.append(of_rule(rule, text, "name"))
        elif name:
            origins[name] = rule.origin
    return problems


def _parse_rules_apart(text: str, step: pace.Step) -> dict[str, Any] | None:
    """Return the tables of a file with many rules, each of which is parsed by itself, with a `step` after it.

    None if there are few, or if that does not work: because something is wrong, or because a line that looks like the beginning
    of a rule is part of a text of several lines.  What is parsed then cannot be complete, so that it is wrong.
    """
    first, *rules = re.split(r"(?m)^(?=\[\[allow\]\]$)", text)
    if len(rules) < _MANY:
        return None
    try:
        tables = tomllib.loads(first)
        if "allow" in tables:
            return None
        allow = tables["allow"] = []
        for rule in rules:
            written = tomllib.loads(rule)
            allow += written.pop("allow")
            if written.keys() & tables.keys():
                return None
            tables |= written
            step()
    except (RecursionError, ValueError):
        return None
    return tables


def _parse_toml(file: SourceFile) -> dict[str, Any]:
    """Return the tables of a file.  Raises ConfigurationError, with the line, when it is not TOML."""
    try:
        return tomllib.loads(file.text)
    except RecursionError as error:
        raise ConfigurationError(f"{file.path}: lists or tables are nested too deeply") from error
    except ValueError as error:
        # This is also the error for a number with more digits than Python reads, which tomllib passes on.
        place = re.search(r" \(at line ([0-9]+), column [0-9]+\)$", str(error))
        path = f"{file.path}:{place[1]}" if place else f"{file.path}"
        raise ConfigurationError(f"{path}: not TOML: {error}") from error
