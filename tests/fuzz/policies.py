"""Policies: files with arbitrary content, and patterns, which are compared with a slow and simple matcher."""

import functools
import tempfile
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import strategies as st

from nsbroker.daemon.configuration import Configuration, RuleText, SourcedRule, SourceFile
from nsbroker.daemon.policy.grants import Rule
from nsbroker.daemon.policy.rules import Policy, load
from nsbroker.errors import ConfigurationError
from nsbroker.model.identity import NamespaceType
from nsbroker.model.target import KINDS
from tests.fuzz import mutate
from tests.fuzz.subject import Fault, Seed, Subject, is_linear, seeded

_VARIANTS = 15
_NAMES = 60
_word = st.text("abz09_.-", min_size=1, max_size=8)
_pattern = st.one_of(
    st.sampled_from(
        ("own", "*", "self", "pid:*", "name:blue", "docker:web-*", "path:/run/netns/*", "net:[4026531840]", "nonsense")
    ),
    st.builds("{}:{}".format, st.sampled_from(KINDS), st.text("ab*?-./[]\\", min_size=1, max_size=10)),
)
_who = st.one_of(
    st.sampled_from(("everyone", "user:root", "user:0", "group:daemon", "unit:a.service", "unit:a", "user:", "nobody")),
    st.builds("{}:{}".format, st.sampled_from(("user", "group", "unit")), _word),
)
_rule = st.fixed_dictionaries(
    {"name": _word, "who": st.lists(_who, max_size=3), "targets": st.lists(_pattern, max_size=4)},
    optional={
        "namespaces": st.lists(st.sampled_from((*NamespaceType, "*", "nat")), max_size=3),
        "sockets": st.lists(
            st.sampled_from(("inet:stream", "inet6:dgram:80", "packet:raw", "*", "inet:stream:9999", "x")), max_size=3
        ),
        "marks": st.lists(st.sampled_from(("0x100", "256", "0x200-0x2ff", "*", "0", "2-1", "0x", "0x1ffffffff")), max_size=3),
        "interfaces": st.lists(st.sampled_from(("veth", "tap", "*", "bridge")), max_size=2),
        "files": st.lists(st.sampled_from(("resolv.conf", "net/dev", "*", "passwd", "../hosts")), max_size=3),
        "devices": st.lists(st.sampled_from(("null", "net/tun", "*", "kvm=10:232", "null=1:4", "../mem", "a=1:2:3")), max_size=3),
    },
)
_limits = st.dictionaries(
    st.sampled_from(("connections", "message-deadline", "conections")), st.sampled_from((1, 0, -1, 0.5, 10**9, "a")), max_size=3
)
_places = st.lists(st.sampled_from(("/run/x", "x", "")), max_size=2)
_document = st.fixed_dictionaries(
    {"allow": st.lists(_rule, max_size=4)},
    optional={
        "limits": _limits,
        "engines": st.dictionaries(st.sampled_from(("docker", "crun", "rkt")), _places, max_size=2),
        "audit": st.fixed_dictionaries({"without-journal": st.sampled_from(("refuse", "stderr", "x"))}),
    },
)


def toml(document: dict[str, Any]) -> str:
    """Return the document as TOML, as people write it."""
    lines = []
    for rule in document.get("allow", ()):
        lines += ["[[allow]]", *(f"{key} = {_value(value)}" for key, value in rule.items())]
    for table in ("limits", "engines", "audit"):
        if table in document:
            lines += [f"[{table}]", *(f"{key} = {_value(value)}" for key, value in document[table].items())]
    return "\n".join(lines) + "\n"


def _value(value: object) -> str:
    return msgspec.json.encode(value).decode()


# On a private host, this folder is in memory and ends with the host.
@functools.cache
def _file() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    return folder / "policy.toml"


def _load(text: bytes) -> None:
    path = _file()
    path.write_bytes(text)
    path.chmod(0o600)
    try:
        load(path)
    except ConfigurationError as error:
        wrong = [problem for problem in error.problems if "\n" in problem or not problem.startswith(f"{path}:")]
        if wrong or not error.problems:
            raise Fault(f"not one line each, with the file: {error.problems!r}") from error


def check(example: tuple[dict[str, Any], Seed]) -> int:
    """Load the document as drawn, and variants of it and of its text."""
    document, seed = example
    chance = seed.again()
    text = toml(document)
    _load(text.encode())
    for number in range(_VARIANTS):
        variant = toml(_tree(document, chance)) if number % 3 == 0 else mutate.text(text, chance)
        written = variant.encode(errors="surrogatepass")
        if number == 0 and not is_linear(lambda written=written: _load(written), len(written), each=200e-6):  # type: ignore[misc]  # a loop's value
            raise Fault(f"{len(written)} bytes take too long: {variant[:200]!r}")
        if number:
            _load(written)
    return 1 + _VARIANTS


def _tree(document: dict[str, Any], chance: Seed) -> dict[str, Any]:
    rules = [mutate.tree(rule, chance) for rule in document.get("allow", ())]
    return {**document, "allow": [rule for rule in rules if isinstance(rule, dict)]}


def check_long(example: tuple[tuple[str, str, str], Seed]) -> int:
    """Repeat the same piece many times, and check that the time grows only linearly with the length."""
    (head, piece, tail), _ = example
    sizes = (2000, 8000, 32000)
    for size in sizes:
        text = (head + piece * (size // max(1, len(piece))) + tail).encode(errors="surrogatepass")
        if not is_linear(lambda text=text: _load(text), len(text)):  # type: ignore[misc]  # a loop's value
            raise Fault(f"{len(text)} bytes take more than {0.02 + 20e-6 * len(text):.2f} s: {head!r} + {piece!r} * n + {tail!r}")
    return len(sizes)


def matches(pattern: str, name: str) -> bool:
    """Return whether a name matches: a simple reference implementation.

    `*` stands for any characters but '/', and `?` for one.  All possible positions are tracked, so each step is done once.
    """
    places = {0}
    for letter in pattern:
        if letter == "*":
            reached = set(places)
            for place in places:
                while place < len(name) and name[place] != "/":
                    place += 1
                    reached.add(place)
            places = reached
        else:
            places = {at + 1 for at in places if at < len(name) and (name[at] == letter or (letter == "?" and name[at] != "/"))}
    return len(name) in places


def compile_rule(*patterns: str) -> Rule:
    """Return a compiled rule with these patterns."""
    rule = RuleText("a", ("everyone",), tuple(patterns), ("net",))
    return Policy(Configuration((SourcedRule(rule, SourceFile(Path("x"), ""), 0),))).rules[0]


def check_patterns(example: tuple[list[str], Seed]) -> int:
    """Compare the policy with the reference, for names that nearly match."""
    patterns, seed = example
    chance = seed.again()
    globs = [pattern for pattern in patterns if "*" in pattern or "?" in pattern]
    if not globs:
        return 0
    rule = compile_rule(*globs)
    for _ in range(_NAMES):
        pattern = chance.choice(globs)
        name = "".join(
            {"*": "".join(chance.choices("ab-./", k=chance.randrange(6))), "?": chance.choice("ab/-")}.get(one, one)
            for one in pattern
        )
        if chance.random() < 0.4:
            name = mutate.text(name, chance)
        fits = any(matches(one, name) for one in globs)
        if rule.fits_target(name) is not fits:
            raise Fault(f"{globs} and {name!r}: the policy says {not fits}, which is wrong")
    return _NAMES


def check_steps(example: tuple[str, str, int]) -> int:
    """Match patterns with many stars against the longest names: no name that a user chooses may take the daemon long."""
    pattern, letter, length = example
    rule = compile_rule(pattern)
    kind = pattern.partition(":")[0]
    head = pattern.partition("*")[0] or f"{kind}:"
    names = [head + letter * length, head + letter * length + "x", head + (letter + "b") * (length // 2)]
    for name in names:
        if not is_linear(lambda name=name: rule.fits_target(name), len(name)):  # type: ignore[misc]  # a loop's value
            raise Fault(f"{pattern!r} takes more than {0.02 + 20e-6 * len(name):.2f} s for {head!r} + {letter!r} * {length}")
    return len(names)


_glob = st.builds("{}:{}".format, st.sampled_from(("name", "docker", "path", "pid")), st.text("ab*?-./", min_size=1, max_size=10))
# A matcher that backtracks takes far too long with more stars than these.
_stars = st.builds(
    lambda kind, parts, tail: f"{kind}:" + "*".join(("", *parts, tail)),
    st.sampled_from(("name", "container")),
    st.lists(st.sampled_from(("-", "a", "a-")), min_size=1, max_size=2),
    st.sampled_from(("-prod", "z", "")),
)
_steps = st.tuples(_stars, st.sampled_from("a-"), st.sampled_from((50, 150, 245)))
_PIECES = (
    "[",
    "{a=",
    "a.",
    "#",
    "#\n",
    "\n",
    " ",
    "a",
    "1",
    "[[allow]]\n",
    '"',
    "'",
    '""',
    '"a",',
    "1,",
    "\\u0041",
    "[a]\n",
    "0_",
    "\\",
    "a=1\n",
)
_piece = st.tuples(
    st.sampled_from(("", "a = ", "a = [", 'a = "', "a.", "[", "[[allow]]\n", "limits = {")),
    st.sampled_from(_PIECES),
    st.sampled_from(("", "]", '"', "= 1", "\n", "}")),
)  # fmt: skip

SUBJECTS = (
    Subject("policies", 0.1, seeded(_document), check),
    Subject("long policies", 0.003, seeded(_piece), check_long),
    Subject("patterns", 0.16, seeded(st.lists(_glob, min_size=1, max_size=4)), check_patterns),
    Subject("steps", 0.003, _steps, check_steps, [("container:web-*-*-*-*-prod", "-", 240), ("path:/run/*-*-prod", "-", 4000)]),
)
