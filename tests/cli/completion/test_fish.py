"""The completion script for fish; in a real fish if there is one."""

import shutil
import subprocess
from pathlib import Path

import pytest

from nsbroker.cli.completion import fish
from tests.cli.completion.shells import all_commands, environment
from tests.world import Daemon

needs_fish = pytest.mark.skipif(shutil.which("fish") is None, reason="fish is missing, and tests install no shell")


def test_every_command_and_option_is_in_the_script() -> None:
    text = fish.script(all_commands())
    for command in all_commands():
        assert f"-a {command.name} -d " in text
        for option in command.options:
            assert all(f"-l {flag[2:]}" in text for flag in option.flags if flag.startswith("--"))


@needs_fish
def test_fish_completes_commands_options_and_targets(daemon: Daemon, blue: Path, tmp_path: Path) -> None:
    script = tmp_path / "nsbroker.fish"
    script.write_text(fish.script(all_commands()))
    variables = environment(tmp_path, daemon.address)
    for line, expected in (
        ("nsbroker who", ["whoami"]),
        ("nsbroker -v who", ["whoami"]),
        ("nsbroker help list", ["list-held"]),
        ("nsbroker show --ty", ["--type"]),
        ("nsbroker show --type u", ["user", "uts"]),
        ("nsbroker show name:b", ["name:blue"]),
        ("nsbroker show --type net name:b", ["name:blue"]),
        ("nsbroker cat self net/d", ["net/dev"]),
    ):
        command = ["fish", "--no-config", "-c", f"source {script}; complete -C '{line}'"]
        done = subprocess.run(command, capture_output=True, text=True, env=variables, check=False, timeout=60)
        assert (done.returncode, done.stderr) == (0, ""), done
        assert [found.split("\t")[0] for found in done.stdout.splitlines()] == expected, line
