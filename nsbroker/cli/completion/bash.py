"""The completion script for bash."""

from collections.abc import Iterator, Sequence

from nsbroker.cli.completion.command_line import Argument, Command

# The words come from bash's copy of the line, because bash itself splits them at every ':' of a target.  Nothing that the broker
# says is expanded: names are chosen by others.
_SCRIPT = """\
# Completion of nsbroker for bash, written by `nsbroker completion bash`.

_nsbroker_argument() {
    # What can be the argument $2 of the command $1: the value of an option, or the argument at a position.
    case "$1 $2" in
@ARGUMENTS@
    esac
}

_nsbroker_options() {
    case $1 in
@OPTIONS@
    esac
}

_nsbroker() {
    local line=${COMP_LINE:0:COMP_POINT} words=() current command= option= wanted= word position=0 index count
    read -ra words <<<"$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    count=${#words[@]}
    current=${words[count - 1]}
    COMPREPLY=()
    for ((index = 1; index < count - 1; index++)); do
        word=${words[index]}
        if [[ -n $option ]]; then
            option=
        elif [[ $word == -- ]]; then
            if ((index == count - 2)); then
                while IFS= read -r word; do COMPREPLY+=("$word"); done < <(compgen -c -- "$current")
            else
                compopt -o default 2>/dev/null
            fi
            return
        elif [[ -z $command ]]; then
            [[ $word == -* ]] || command=$word
        elif [[ $word == -* ]]; then
            wanted=
            _nsbroker_argument "$command" "$word"
            [[ -n $wanted ]] && option=$word
        else
            ((position += 1))
        fi
    done
    wanted=
    if [[ -z $command ]]; then
        wanted="@COMMANDS@"
    elif [[ -n $option ]]; then
        _nsbroker_argument "$command" "$option"
    elif [[ $current == --*=* ]]; then
        _nsbroker_argument "$command" "${current%%=*}"
        current=${current#*=}
    elif [[ $current == -* ]]; then
        _nsbroker_options "$command"
    else
        _nsbroker_argument "$command" "$((position + 1))"
    fi
    case $wanted in
    :files) compopt -o default 2>/dev/null ;;
    :targets)
        while IFS= read -r word; do
            [[ $word == "$current"* ]] && COMPREPLY+=("$word")
        done < <("${words[0]/#\\~/$HOME}" completion targets "$current" 2>/dev/null)
        # A kind of target alone is no target yet.
        [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *: ]] && compopt -o nospace 2>/dev/null
        ;;
    :*) ;;
    *)
        for word in $wanted; do
            [[ $word == "$current"* ]] && COMPREPLY+=("$word")
        done
        ;;
    esac
    # bash replaces only what follows the last ':'.
    if [[ $current == *:* && $COMP_WORDBREAKS == *:* ]]; then
        word=${current%"${current##*:}"}
        COMPREPLY=("${COMPREPLY[@]#"$word"}")
    fi
}

complete -F _nsbroker nsbroker
"""


def script(commands: Sequence[Command]) -> str:
    """Return the script for these commands."""
    names = " ".join([*(command.name for command in commands), "help"])
    text = _SCRIPT.replace("@COMMANDS@", f"{names} -v --verbose --quiet --version --help")
    text = text.replace("@ARGUMENTS@", "\n".join([*_argument_cases(commands), f'    "help 1") wanted="{names}" ;;']))
    return text.replace("@OPTIONS@", "\n".join(map(_options_case, commands)))


def _argument_cases(commands: Sequence[Command]) -> Iterator[str]:
    for command in commands:
        for option in command.options:
            if option.takes_value:
                pattern = " | ".join(f'"{command.name} {flag}"' for flag in option.flags)
                yield f"    {pattern}) wanted={_wanted(option)} ;;"
        for number, position in enumerate(command.positions, 1):
            pattern = f'"{command.name} "[!-]*' if position.repeats else f'"{command.name} {number}"'
            yield f"    {pattern}) wanted={_wanted(position)} ;;"


def _options_case(command: Command) -> str:
    flags = " ".join(flag for option in command.options for flag in option.flags)
    return f'    {command.name}) wanted="{flags}" ;;'


def _wanted(argument: Argument) -> str:
    return argument.choose(words=f'"{" ".join(argument.words)}"', files=":files", targets=":targets", nothing=":nothing")
