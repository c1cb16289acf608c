"""The command, as people and programs run it."""

import os
import pkgutil
import re
import shlex
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest

from nsbroker.cli import commands
from nsbroker.cli import main as command
from tests.cli.conftest import one_line
from tests.world import SLOWNESS, Daemon, run_command


def test_a_second_double_dash_is_passed_to_the_command(daemon: Daemon) -> None:
    for name in ("open", "exec", "via"):
        assert run_command(name, "self", "--", "echo", "a", "--", "b", address=daemon.address).stdout == "a -- b\n"
    assert run_command("whoami", "--", "x", address=daemon.address).returncode == 2


@pytest.mark.parametrize(
    "arguments",
    [
        [], ["nonsense"], ["show"], ["show", "blue"], ["show", "nmae:blue"], ["show", "self", "--type", "network"],
        ["open", "self"],
        ["show", "pid:0"], ["serve", "--nonsense"], ["serve", "--address", "relative"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_wrong_usage_is_exit_code_2(arguments: list[str]) -> None:
    done = run_command(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", command.COMMANDS)
def test_every_command_says_in_one_line_what_is_wrong_with_its_arguments(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in (["--nonsense"], list("abcdef"), ["self", "--json=x"]):
        assert command.main([name, *wrong]) == 2, wrong
        output, errors = capsys.readouterr()
        assert output == ""
        assert len(errors.splitlines()) == 1, errors
        assert errors.startswith(f"nsbroker: {name}: ")
        assert f"(see `nsbroker {name} --help`)" in errors


@pytest.mark.parametrize("name", [*command.COMMANDS, "ps"])
def test_help_of_a_command_is_what_its_option_help_prints(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["help", name]) == 0
    helped = capsys.readouterr()
    assert command.main([name, "--help"]) == 0
    assert helped == capsys.readouterr()
    assert helped.err == ""
    assert "--quiet" in helped.out


def test_help_alone_is_the_help_of_all_and_of_two_commands_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["help"]) == 0
    helped = capsys.readouterr()
    assert command.main(["--help"]) == 0
    assert helped == capsys.readouterr()
    assert command.main(["help", "show", "open"]) == 2
    assert "write one command" in capsys.readouterr().err
    assert command.main(["help", "shwo"]) == 2
    assert "did you mean show?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["whomai"], "did you mean whoami?"),
        (["pss"], "did you mean ps?"),
        (["hlep"], "did you mean help?"),
        (["check-confg"], "did you mean check-config?"),
        (["show", "4711"], "such as pid:4711"),
        (["show", "web"], "such as name:web or container:web"),
        (["show", "contaner:web"], "did you mean container:?"),
        (["show", "self", "--type", "nett"], "did you mean net?"),
        (["show", "self", "--type", "mount"], "use one of cgroup, ipc, mnt"),
    ],
    ids=lambda one: " ".join(one) if isinstance(one, list) else "",
)
def test_what_is_misspelled_is_answered_with_the_right_word(words: list[str], says: str) -> None:
    assert says in one_line(run_command(*words, address="unix:/run/nowhere/socket"), 2)


@pytest.mark.parametrize("command_line", [["open", "self"], ["exec", "self"]], ids=" ".join)
def test_a_program_that_cannot_be_run_has_the_exit_codes_of_shells(daemon: Daemon, command_line: list[str], tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("")
    for program, code in (("no-such-command", 127), ("/nowhere/program", 127), (str(plain), 126), ("/etc", 126)):
        assert f"cannot run '{program}'" in one_line(run_command(*command_line, "--", program, address=daemon.address), code)


def test_no_daemon_is_one_line_that_says_what_to_do() -> None:
    line = one_line(run_command("whoami", address="unix:/run/nowhere/socket"), 1)
    assert "is the daemon running? (as root: `systemctl start nsbroker.socket`" in line


def test_a_reader_that_closes_the_pipe_is_no_error(daemon: Daemon) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "nsbroker", "status"],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "NSBROKER_ADDRESS": daemon.address},
        check=False,
    )
    os.close(write)
    assert done.stderr == ""


def test_version_and_help() -> None:
    assert re.fullmatch(r"nsbroker \d+\.\d+\.\d+\n", run_command("--version").stdout)
    text = run_command("--help").stdout
    for word in ("pid:4711", "name:blue", "examples:", "NSBROKER_ADDRESS", "Exit codes"):
        assert word in text


def test_without_arguments_the_help_is_printed_and_the_exit_code_is_2() -> None:
    done = run_command()
    assert (done.returncode, done.stderr) == (2, "")
    assert done.stdout == run_command("--help").stdout


def test_the_groups_of_the_help_list_every_command_once() -> None:
    groups, _, _ = run_command("--help").stdout.partition("\ntargets:\n")
    modules = [module.name.replace("_", "-") for module in pkgutil.iter_modules(commands.__path__)]
    assert sorted(re.findall(r"^  (\S+)  +\S", groups, re.MULTILINE)) == sorted(command.COMMANDS) == sorted(modules)
    assert [title for title in command.GROUPS if f"\n{title}:\n" not in groups] == []


@pytest.mark.parametrize("name", command.COMMANDS)
def test_every_command_has_an_example_that_it_accepts_and_its_help_shows(name: str) -> None:
    example = import_module(f"nsbroker.cli.commands.{name.replace('-', '_')}").EXAMPLE
    program, *words = shlex.split(example)
    assert (program, words[0]) == ("nsbroker", name)
    cut = words.index("--") if "--" in words else len(words)
    options = command.parser().parse_args(words[:cut])
    assert options.runs_command == bool(words[cut + 1 :])
    done = run_command(name, "--help")
    assert done.returncode == 0
    assert f"\nexample:\n  {example}\n" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "new"),
    [(["run", "self", "--", "true"], "exec"), (["held"], "list-held"), (["check"], "check-config")],
)
def test_a_command_that_was_renamed_names_the_new_one(arguments: list[str], new: str) -> None:
    assert f"unknown command {arguments[0]}; it is called {new} now" in one_line(run_command(*arguments), 2)


def test_ps_is_a_short_word_for_containers() -> None:
    assert run_command("ps", "--help").stdout == run_command("containers", "--help").stdout


def test_control_characters_do_not_reach_the_terminal() -> None:
    line = one_line(run_command("show", "name:a\x1b[31m"), 2)
    assert "\x1b" not in line


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        (["create", "a/b"], "a name has letters"),
        (["create", ".."], "a name has letters"),
        (["create", ""], "a name has letters"),
        (["create", "x", "--type", "user"], "run `unshare --user`"),
        (["create", "x", "--type", "pid"], "run `unshare --pid --fork`"),
        (["hold", "self", "a/b"], "a name has letters"),
        (["release", "a/b"], "a name has letters"),
        (["explain", "self", "--device", "../x"], "write its name below /dev"),
        (["explain", "self", "--device", "/dev/null"], "write its name below /dev"),
        (["explain", "self", "--device", "net/" * 8 + "x"], "write its name below /dev"),
        (["explain", "self", "--socket", "inet"], "write FAMILY:TYPE"),
        (["serve", "--idle-timeout", "-1"], "is not a number of seconds greater than 0"),
        (["serve", "--idle-timeout", "inf"], "is not a number of seconds greater than 0"),
        (["whoami", "--timeout", "soon"], "is not a number of seconds greater than 0"),
        (["show", "net:[" + "9" * 5000 + "]"], "is no namespace id"),
        (["open", "self", "--", ""], "COMMAND is empty"),
        (["forward", "self", "a" * 100_000], "is not what to forward"),
        (["forward", "self", "1" * 100_000], "a port is a number"),
        (["connect", "self", "127.0.0.1", "1" * 100_000], "is not a port"),
        (["show", "pid:" + "1" * 100_000], "is no process or thread number"),
        (["show", "docker:" + "a/" * 50_000], "a container's name or id has"),
        (["show", "unit:" + "a" * 100_000], "a unit is written with its suffix"),
        (["show", "path:" + "/a" * 50_000], "a path is absolute"),
        (["show", "x" * 100_000 + ":1"], "there is no kind of target"),
        (["ls", "--type", "x" * 100_000], "is no namespace type"),
        (["explain", "self", "--socket", ":" * 100_000], "write FAMILY:TYPE"),
    ],
    ids=lambda one: " ".join(one)[:40] if isinstance(one, list) else "",
)
def test_wrong_usage_says_the_rule_before_the_broker_is_asked(arguments: list[str], rule: str) -> None:
    begun = time.monotonic()
    line = one_line(run_command(*arguments, address="unix:/run/nowhere/socket"), 2)
    assert rule in line
    assert "_seconds" not in line
    assert len(line) < 1000
    # Even very long arguments are rejected quickly.
    assert time.monotonic() - begun < 3 * SLOWNESS
