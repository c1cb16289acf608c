"""Names that other users, the kernel or a broker choose never control the terminal on which they are shown."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.cli.made_up import run_on_terminal
from tests.cli.test_environments import nonsense
from tests.client.every_client import impostor

# C0 and DEL, C1, controls of bidirectional text, line and paragraph separators.
BAD = (
    *range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C, 0x2028, 0x2029,
)  # fmt: skip
EVERY = "".join(map(chr, BAD)) + "→容"
NAMESPACE = {
    "type": "user", "inode": 5, "device": 4, "processes": 0, "containers": [EVERY], "units": [EVERY],
    "process": {"pid": 1, "command": EVERY, "uid": 0},
}  # fmt: skip
ALL: dict[str, Any] = {
    "namespace": NAMESPACE,
    "container": {"engine": EVERY, "id": EVERY, "names": [EVERY], "state": EVERY, "pid": 1, "types": [], "labels": {EVERY: EVERY}},
    "held": {"name": EVERY, "uid": 0, "type": "net", "inode": 5, "durable": True},
    "devices": [{"name": EVERY, "major": 1, "minor": 3}],
    "peer": {"uid": 0, "gid": 0, "groups": [], "pid": 1, "anonymous": False, "unit": EVERY},
    "version": EVERY, "features": {EVERY: True}, "rules": 1, "loaded": 0, "connections": 0, "calls": 0, "fileDescriptors": 0,
    "heldDurable": True,
}  # fmt: skip


def without_own_sequences(text: str) -> str:
    """Remove from `text` what the terminal is meant to get: line ends, and our own bold and yellow."""
    for ours in ("\x1b[1m", "\x1b[33m", "\x1b[0m", "\n"):
        text = text.replace(ours, "")
    return text


def reply(command: str) -> Callable[[Any], None]:
    parameters = {**ALL, "held": 1} if command == "status" else ALL
    return nonsense(json.dumps(parameters).encode())


@pytest.mark.parametrize("command", ["ls", "tree", "containers", "list-held", "whoami", "status", "devices self"])
@pytest.mark.parametrize("form", ["", "--json"])
def test_no_command_prints_control_characters_on_a_terminal(command: str, form: str) -> None:
    with impostor(reply(command)) as address:
        shown = run_on_terminal(*command.split(), *form.split(), address=address, columns=4000)
    assert without_own_sequences(shown).isprintable(), shown
    if form:
        assert EVERY in list(walk(json.loads(shown)))


def walk(value: Any) -> Any:
    """Yield all strings in `value`."""
    if isinstance(value, dict):
        for key, one in value.items():
            yield from walk(key)
            yield from walk(one)
    elif isinstance(value, list):
        for one in value:
            yield from walk(one)
    elif isinstance(value, str):
        yield value


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_without_the_characters_gets_escapes_that_are_still_json(encoding: str) -> None:
    with impostor(reply("whoami")) as address:
        shown = run_on_terminal("whoami", "--json", address=address, columns=80, PYTHONIOENCODING=encoding)
    assert shown.isascii()
    assert json.loads(shown)["unit"] == EVERY
