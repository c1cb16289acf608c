"""The completion script, in a real bash."""

import re
import subprocess
from pathlib import Path

import pytest

from nsbroker.cli import main
from nsbroker.cli.completion import bash
from tests.cli.completion.shells import all_commands, environment, type_into
from tests.world import Daemon

# A function is called as bash calls it for a key, but its replies are printed.
COMPLETE = """
source "$1"
COMP_LINE=$2 COMP_POINT=${#2} COMP_WORDBREAKS=$' \\t\\n"\\'><=;|&(:'
_nsbroker
((${#COMPREPLY[@]})) && printf '%s\\n' "${COMPREPLY[@]}"
exit 0
"""


class Bash:
    """A bash with the script."""

    def __init__(self, folder: Path, address: str) -> None:
        self.variables = environment(folder, address)
        self.script = folder / "script"
        self.script.write_text(bash.script(all_commands()))

    def complete(self, line: str) -> list[str]:
        """Return what completes the line."""
        command = ["bash", "--norc", "--noprofile", "-c", COMPLETE, "bash", str(self.script), line]
        done = subprocess.run(command, capture_output=True, text=True, env=self.variables, check=False, timeout=60)
        assert (done.returncode, done.stderr) == (0, ""), done
        return done.stdout.splitlines()


@pytest.fixture
def shell(tmp_path: Path) -> Bash:
    """A bash without a broker."""
    return Bash(tmp_path, "unix:/run/nowhere/socket")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("nsbroker who", ["whoami"]),
        ("nsbroker -v who", ["whoami"]),
        ("nsbroker --ver", ["--verbose", "--version"]),
        ("nsbroker help li", ["list-held"]),
        ("nsbroker show --ty", ["--type"]),
        ("nsbroker show --type u", ["user", "uts"]),
        ("nsbroker show self --type=u", ["user", "uts"]),
        ("nsbroker show --type net se", ["self"]),
        ("nsbroker ls --sort p", ["processes", "pid"]),
        ("nsbroker cat self net/ro", ["net/route"]),
        ("nsbroker show --timeout ", []),
        ("nsbroker show self x", []),
        ("nsbroker show cri", ["cri:"]),
        ("nsbroker grant user:bob se", ["self"]),
        ("nsbroker grant user:bob name:x se", ["self"]),
        ("nsbroker add-interface self eth0 --veth se", ["self"]),
        ("nsbroker completion f", ["fish"]),
        ("nsbroker nonsense ", []),
        ("nsbroker via self -- bas", None),
    ],
)
def test_words_are_completed_where_they_stand(shell: Bash, line: str, words: list[str] | None) -> None:
    found = shell.complete(line)
    assert "bash" in found if words is None else found == words


def test_every_command_is_completed_with_its_options(shell: Bash) -> None:
    assert set(main.COMMANDS) <= set(shell.complete("nsbroker "))
    for command in all_commands()[:5]:
        flags = {flag for option in command.options for flag in option.flags}
        assert set(shell.complete(f"nsbroker {command.name} -")) == flags


def test_every_command_is_in_the_script(shell: Bash) -> None:
    text = shell.script.read_text()
    for command in all_commands():
        assert f"\n    {command.name}) wanted=" in text
        assert all(flag in text for option in command.options for flag in option.flags)


def test_targets_are_those_that_the_user_may_open(daemon: Daemon, blue: Path, tmp_path: Path) -> None:
    shell = Bash(tmp_path, daemon.address)
    # bash replaces only what follows the last ':'.
    assert shell.complete("nsbroker show name:b") == ["blue"]
    assert shell.complete("nsbroker show name:x") == []


def test_a_key_completes_a_target_in_a_terminal(daemon: Daemon, blue: Path, tmp_path: Path) -> None:
    variables = Bash(tmp_path, daemon.address).variables
    # The function prints what the line would have run.
    wrapper = 'nsbroker() { [[ $1 == completion ]] && { command nsbroker "$@"; return; }; echo "RAN[$*]"; }\n'
    text = [f"source {tmp_path}/script\n", wrapper, "nsbroker sho\tname:bl\t --type ut\t\n"]
    printed = type_into(["bash", "--norc", "--noprofile", "-i"], text, r"RAN\[[^$]*\]", variables)
    assert re.search(r"RAN\[show name:blue +--type uts *\]", printed), printed
