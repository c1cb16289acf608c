"""Rules as they are written in a file: for grants, and for the rule that `nsbroker explain` proposes."""

import json
import re
from collections.abc import Collection, Mapping, Sequence


def format_rule(name: str, who: Sequence[str], targets: Sequence[str], permissions: Mapping[str, Sequence[str]]) -> str:
    """Return a rule in TOML.  `permissions` are by their keys in a rule; those without entries are left out."""
    # A string of JSON is a string of TOML, too.
    lines = [f"name = {json.dumps(name)}", f"who = {json.dumps([*who])}", f"targets = {json.dumps([*targets])}"]
    lines += [f"{key} = {json.dumps([*words])}" for key, words in permissions.items() if words]
    return "\n".join(["[[allow]]", *lines, ""])


def choose_name(who: str, taken: Collection[str]) -> str:
    """Return a name for a rule for `who` that is not yet taken."""
    words = re.sub(r"[^A-Za-z0-9]+", "-", who.partition(":")[2] or who).strip("-") or "rule"
    names = (words if number == 1 else f"{words}-{number}" for number in range(1, len(taken) + 2))
    return next(name for name in names if name not in taken)
