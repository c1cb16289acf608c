"""The completion script for fish."""

from collections.abc import Iterator, Sequence

from nsbroker.cli.completion.command_line import Argument, Command, Source

_HEAD = """\
# Completion of nsbroker for fish, written by `nsbroker completion fish`.

function __nsbroker_targets
    set -l words (commandline -opc)
    $words[1] completion targets (commandline -ct) 2>/dev/null
end

# The words after the command, without options and their values; $argv are the options that take a value.
function __nsbroker_positions
    set -l words (commandline -opc)
    set -e words[1]
    set -l skip no
    for word in $words
        if test $skip = yes
            set skip no
        else if string match -q -- '-*' $word
            contains -- $word $argv; and set skip yes
        else
            echo $word
        end
    end
end

# Whether the command is $argv[1], and the next word is at the position $argv[2] (0: any); the others are as above.
function __nsbroker_at
    contains -- -- (commandline -opc); and return 1
    set -l found (__nsbroker_positions $argv[3..-1])
    test "$found[1]" = $argv[1]; or return 1
    test $argv[2] = 0; or test (count $found) -eq $argv[2]
end

function __nsbroker_needs_command
    test (count (__nsbroker_positions)) -eq 0
end

complete -c nsbroker -f
# What follows `--` is a command of its own.
complete -c nsbroker -n 'contains -- -- (commandline -opc)' -F
complete -c nsbroker -n __nsbroker_needs_command -s v -l verbose -d 'Say what is asked'
complete -c nsbroker -n __nsbroker_needs_command -l quiet -d 'Print only results and errors'
complete -c nsbroker -n __nsbroker_needs_command -l version -d 'Print the version'
complete -c nsbroker -n __nsbroker_needs_command -s h -l help -d 'Describe all commands'
complete -c nsbroker -n __nsbroker_needs_command -a help -d 'Describe one command'
"""


def script(commands: Sequence[Command]) -> str:
    """Return the script for these commands."""
    names = " ".join(command.name for command in commands)
    lines = [f"complete -c nsbroker -n '__nsbroker_at help 1' -a '{names}'"]
    for command in commands:
        lines.append(f"complete -c nsbroker -n __nsbroker_needs_command -a {command.name} -d {_quote(command.summary)}")
        lines.extend(_lines(command))
    return _HEAD + "\n".join(lines) + "\n"


def _lines(command: Command) -> Iterator[str]:
    values = [flag for option in command.options if option.takes_value for flag in option.flags]
    for option in command.options:
        flags = " ".join(f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}" for flag in option.flags)
        # -x means that there are no files.
        value = f" {'-r' if option.source is Source.FILES else '-x'}{_words(option)}" if option.takes_value else ""
        yield f"{_begin(command, 0, values)} {flags}{value} -d {_quote(option.help)}"
    for number, position in enumerate(command.positions, 1):
        if words := _words(position):
            yield f"{_begin(command, 0 if position.repeats else number, values)}{words}"


def _begin(command: Command, position: int, values: Sequence[str]) -> str:
    condition = " ".join(["__nsbroker_at", command.name, str(position), *values])
    return f"complete -c nsbroker -n '{condition}'"


def _words(argument: Argument) -> str:
    return argument.choose(words=f" -a '{' '.join(argument.words)}'", files=" -F", targets=" -a '(__nsbroker_targets)'", nothing="")


def _quote(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
