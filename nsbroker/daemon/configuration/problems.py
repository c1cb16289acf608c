"""What is wrong with the configuration, or deserves a warning: each in one line, with the file, the line and the key."""

from collections.abc import Iterable
from typing import NamedTuple

from nsbroker.daemon.configuration.settings import Keys, SourcedRule, SourceFile
from nsbroker.errors import ConfigurationError


class Problem(NamedTuple):
    """One problem of a file.  `keys` is the place that it is about."""

    file: SourceFile
    keys: Keys
    text: str


def of_rule(rule: SourcedRule, text: str, *keys: str | int) -> Problem:
    """Return a problem of a rule; `keys` is the place in the rule."""
    key = f"{keys[0]}: " if keys else ""
    return Problem(rule.file, ("allow", rule.number, *keys), f"{rule_name(rule.text.name, rule.number)}: {key}{text}")


def rule_name(name: object, number: int) -> str:
    """Return how messages call a rule: by its name, or else by its number, counted from 1."""
    return f"rule {name!r}" if isinstance(name, str) and name else f"rule {number + 1}"


def lines(problems: Iterable[Problem]) -> list[str]:
    """Return each problem in one line, `FILE:LINE: ...`: file by file in the order given, and by line within each."""
    from nsbroker.daemon.configuration import locate  # only on this path: the daemon's memory counts

    by_file: dict[SourceFile, list[Problem]] = {}
    for problem in problems:
        by_file.setdefault(problem.file, []).append(problem)
    found: list[str] = []
    for file, some in by_file.items():
        numbers = locate.line_numbers(file.text, {problem.keys for problem in some})
        numbered = sorted(((numbers[problem.keys], problem.text) for problem in some), key=lambda one: one[0])
        found += [f"{file.path}:{number}: {text}" if number else f"{file.path}: {text}" for number, text in numbered]
    return found


def error_of(problems: Iterable[Problem | str]) -> ConfigurationError:
    """Return the error that says all problems.  A text is a problem that has no place in a file, and begins with its path."""
    some = list(problems)
    texts = [problem for problem in some if isinstance(problem, str)]
    placed = [problem for problem in some if isinstance(problem, Problem)]
    return ConfigurationError(*texts, *lines(placed))
