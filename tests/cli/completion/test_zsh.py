"""The completion script for zsh; in a real zsh if there is one."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from nsbroker.cli.completion import zsh
from tests.cli.completion.shells import all_commands, environment, type_into
from tests.world import Daemon

needs_zsh = pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is missing, and tests install no shell")


def test_every_command_and_option_is_in_the_script() -> None:
    text = zsh.script(all_commands())
    assert text.startswith("#compdef nsbroker\n")
    for command in all_commands():
        assert f"\n    {command.name}) _arguments" in text
        assert f"'{command.name}:" in text


@needs_zsh
def test_zsh_can_read_the_script(tmp_path: Path) -> None:
    script = tmp_path / "_nsbroker"
    script.write_text(zsh.script(all_commands()))
    done = subprocess.run(["zsh", "-f", "-n", str(script)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@needs_zsh
def test_a_key_completes_commands_options_and_targets_in_a_terminal(daemon: Daemon, blue: Path, tmp_path: Path) -> None:
    variables = environment(tmp_path, daemon.address)
    (tmp_path / "functions").mkdir()
    (tmp_path / "functions/_nsbroker").write_text(zsh.script(all_commands()))
    setup = f"PS1='> '; fpath=({tmp_path}/functions $fpath); autoload -Uz compinit; compinit -u -D\n"
    wrapper = 'nsbroker() { [[ $1 == completion ]] && { command nsbroker "$@"; return; }; echo "RAN""[$*]"; }\n'
    text = [setup, wrapper, "nsbroker sho\tname:bl\t--type ut\t\n"]
    printed = type_into(["zsh", "-f", "-i"], text, r"RAN\[[^$]*\]", variables)
    assert re.search(r"RAN\[show name:blue --type uts\]", printed), printed
