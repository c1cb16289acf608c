"""The completion script for zsh."""

from collections.abc import Sequence

from nsbroker.cli.completion.command_line import Argument, Command

_SCRIPT = """\
#compdef nsbroker
# Completion of nsbroker for zsh, written by `nsbroker completion zsh`.  Put it into a folder of $fpath as _nsbroker.

_nsbroker_targets() {
    local -a targets
    targets=(${(f)"$(_call_program targets $_nsbroker_program completion targets ${(q)PREFIX} 2>/dev/null)"})
    # A kind of target alone is no target yet, so no space follows it.
    compadd -S '' -- ${(M)targets:#*:}
    compadd -- ${targets:#*:}
}

_nsbroker_commands() {
    local -a commands
    commands=(
@COMMANDS@
    )
    _describe -t commands command commands
}

_nsbroker() {
    local curcontext=$curcontext state line code=1 _nsbroker_program=${(q)words[1]}
    typeset -A opt_args
    _arguments -C \\
        '(-v --verbose --quiet)'{-v,--verbose}'[say what is asked]' \\
        '(-v --verbose)--quiet[print only results and errors]' \\
        '(- *)--version[print the version]' \\
        '(- *)'{-h,--help}'[describe all commands]' \\
        '1:command:_nsbroker_commands' \\
        '*::argument:->argument' && code=0
    [[ $state == argument ]] || return code
    # The command that follows `--` is completed as if it stood alone.
    local end=${words[(i)--]}
    if (( end < CURRENT )); then
        shift $end words
        (( CURRENT -= end ))
        _normal
        return
    fi
    case $words[1] in
    help) _arguments '1:command:_nsbroker_commands' ;;
@CASES@
    esac
}

if [[ $funcstack[1] == _nsbroker ]]; then
    _nsbroker "$@"
else
    compdef _nsbroker nsbroker
fi
"""


def script(commands: Sequence[Command]) -> str:
    """Return the script for these commands."""
    names = [f"        {_quote(f'{command.name}:{command.summary}')}" for command in commands]
    names.append(f"        {_quote('help:Describe one command')}")
    cases = "\n".join(map(_case, commands))
    return _SCRIPT.replace("@COMMANDS@", "\n".join(names)).replace("@CASES@", cases)


def _case(command: Command) -> str:
    specs = [_option(option, flag) for option in command.options for flag in option.flags]
    specs += [
        _quote(f"{'*' if position.repeats else number}:{_escape(position.name)}:{_action(position)}")
        for number, position in enumerate(command.positions, 1)
    ]
    return " \\\n        ".join([f"    {command.name}) _arguments", *specs]) + " ;;"


def _option(option: Argument, flag: str) -> str:
    others = "" if option.repeats else f"({' '.join(option.flags)})"
    spec = f"{'*' if option.repeats else others}{flag}"
    value = f":{_escape(option.name)}:{_action(option)}" if option.takes_value else ""
    # A value can follow a long option after '=', too.
    return _quote(f"{spec}{'=' if option.takes_value and flag.startswith('--') else ''}[{_escape(option.help)}]{value}")


def _action(argument: Argument) -> str:
    return argument.choose(words=f"({' '.join(argument.words)})", files="_files", targets="_nsbroker_targets", nothing=" ")


def _escape(text: str) -> str:
    """Escape what has a meaning in a spec of _arguments."""
    for character in "\\:[]":
        text = text.replace(character, f"\\{character}")
    return text


def _quote(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
