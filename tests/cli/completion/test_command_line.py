"""What completion knows of the command line is what the parsers know."""

import argparse

from nsbroker.cli import main
from nsbroker.cli.completion.command_line import KNOWN, Source, commands
from nsbroker.model.identity import NamespaceType
from tests.cli.completion.shells import all_commands


def test_every_command_and_every_option_is_known() -> None:
    found = {command.name: command for command in all_commands()}
    assert tuple(found) == main.COMMANDS
    assert found["ls"].summary == "List the namespaces that you may open, of the whole host or of one target"
    for command in found.values():
        flags = {flag for option in command.options for flag in option.flags}
        assert flags >= {"-h", "--help", "-v", "--verbose", "--quiet"}


def test_every_argument_with_a_value_has_choices_or_a_metavar_that_completion_knows() -> None:
    unknown = [
        (command.name, argument.name)
        for command in all_commands()
        for argument in (*command.options, *command.positions)
        if argument.takes_value and not argument.words and argument.name not in KNOWN
    ]
    assert unknown == [], "add the metavar to nsbroker/cli/completion/command_line.py"


def test_targets_types_files_and_choices_are_told_apart() -> None:
    found = {command.name: command for command in all_commands()}
    options = {option.flags[-1]: option for option in found["create"].options}
    assert (options["--type"].source, tuple(options["--type"].words)) == (Source.WORDS, tuple(NamespaceType))
    assert not options["--up"].takes_value
    assert [position.source for position in found["show"].positions] == [Source.TARGETS]
    assert [position.source for position in found["map"].positions] == [Source.FILES]
    assert found["forward"].positions[-1].repeats
    assert "net/dev" in found["cat"].positions[1].words


def test_a_parser_without_commands_has_none() -> None:
    assert commands(argparse.ArgumentParser()) == []
