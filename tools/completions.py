"""Writes the completions of bash, zsh and fish, from the tables of commands and flags."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from sriov_textfile import cli, flags

# The commands that have flags. Without a command, the flags are those of the first.
COMMANDS = [command for command in cli.COMMANDS if command not in ("help", "version")]
# A command may follow these.
_BEFORE_COMMANDS = ("demo", "help")

_BASH = """\
# bash completion for sriov-textfile

_sriov_textfile() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD - 1]}}
  local flag='' command='' i
  COMPREPLY=()
  # Bash takes the = of --flag=value for a word.
  if [[ $word == = ]]; then
    flag=$previous= word=''
  elif [[ $previous == = ]]; then
    flag=${{COMP_WORDS[COMP_CWORD - 2]}}=
  elif [[ $previous == -* ]]; then
    flag=$previous
  fi
  case $flag in
{values}
  esac
  for ((i = 1; i < COMP_CWORD; i++)); do
    case ${{COMP_WORDS[i]}} in
      {commands}) command=${{COMP_WORDS[i]}} ;;
    esac
  done
  if [[ $word != -* ]]; then
    case $command in
      ''|{before}) COMPREPLY=($(compgen -W '{words}' -- "$word")) ;;
    esac
    return
  fi
  case $command in
{flags}
  esac
  [[ ${{COMPREPLY[0]}} != *= ]] || compopt -o nospace
}}
complete -F _sriov_textfile sriov-textfile
"""

_ZSH = """\
#compdef sriov-textfile

local -a flags commands
local state command=${{words[(R)({commands})]}}
case $command in
{flags}
esac
case $command in
  ''|{before}) commands=(
{words}
  ) ;;
esac
_arguments -S $flags '*: :->command'
[[ $state != command ]] || _describe command commands
"""


def bash() -> str:
    """Return the completions of bash. They need no package for completions."""
    actions: dict[str, list[str]] = {}
    for flag in flags.FLAGS:
        action = "return"
        if flag.values:
            action = _compgen(flag.values) + "; return"
        elif _is_path(flag):
            action = 'compopt -o filenames; COMPREPLY=($(compgen -f -- "$word")); return'
        patterns = actions.setdefault(action, [])
        patterns.append(f"--{flag.name}=")
        if not _is_boolean(flag):  # The value of a boolean follows only after =.
            patterns.append(f"--{flag.name}")
    return _BASH.format(
        values="\n".join(f"    {'|'.join(own)}) {action} ;;" for action, own in actions.items()),
        commands="|".join(cli.COMMANDS),
        before="|".join(_BEFORE_COMMANDS),
        words=" ".join(cli.COMMANDS),
        flags="\n".join(
            f"    {pattern}) {_compgen([_bash(name, flag) for name, flag in own])} ;;"
            for pattern, own in _flags_by_command()
        ),
    )


def zsh() -> str:
    """Return the completions of zsh."""

    def spec(name: str, flag: flags.Flag[object]) -> str:
        help = flag.help.replace("[", r"\[").replace("]", r"\]")
        values = "_files" if _is_path(flag) else f"({' '.join(flag.values)})"
        equals, value = "=", f":value:{values}"
        if _is_boolean(flag):  # The value is optional; --no-flag takes none.
            equals, value = ("=-", f":{value}") if name == flag.name else ("", "")
        return f"    {shlex.quote(f'--{name}{equals}[{help}]{value}')}"

    return _ZSH.format(
        commands="|".join(cli.COMMANDS),
        before="|".join(_BEFORE_COMMANDS),
        words="\n".join(f"    {shlex.quote(f'{name}:{help}')}" for name, help in _described()),
        flags="\n".join(
            "\n".join(
                [f"  {pattern}) flags=(", *[spec(name, flag) for name, flag in own], "  ) ;;"]
            )
            for pattern, own in _flags_by_command()
        ),
    )


def fish() -> str:
    """Return the completions of fish."""
    seen = "__fish_seen_subcommand_from"
    none = f"not {seen} {' '.join([name for name in cli.COMMANDS if name not in _BEFORE_COMMANDS])}"
    lines = ["# fish completion for sriov-textfile", "complete -c sriov-textfile -f"]
    for name, help in _described():
        lines.append(f"complete -c sriov-textfile -n '{none}' -a {name} -d {_fish(help)}")
    for flag in flags.FLAGS:
        condition = ""
        if COMMANDS[0] in flag.commands:  # That of no command, too.
            others = [name for name in COMMANDS if name not in (*flag.commands, "demo")]
            condition = f" -n 'not {seen} {' '.join(others)}'"
        elif flag.commands:
            condition = f" -n '{seen} {' '.join(dict.fromkeys([*flag.commands, 'demo']))}'"
        value = " -r -F" if _is_path(flag) else f" -x -a '{' '.join(flag.values)}'"
        for name in _names(flag):
            lines.append(
                f"complete -c sriov-textfile{condition} -l {name} -d {_fish(flag.help)}"
                + ("" if _is_boolean(flag) else value)
            )
    return "\n".join(lines) + "\n"


def _is_boolean(flag: flags.Flag[object]) -> bool:
    return flag.parse is flags.boolean


def _is_path(flag: flags.Flag[object]) -> bool:
    return flag.parse in (str, flags.prom_path)


def _names(flag: flags.Flag[object]) -> list[str]:
    """Return the names of a flag: a default that is true can be turned off."""
    return [flag.name, f"no-{flag.name}"] if flag.default == "true" else [flag.name]


def _flags_by_command() -> Iterator[tuple[str, list[tuple[str, flags.Flag[object]]]]]:
    """Yield each command's pattern and the names of its flags; the last matches no command, too.

    demo runs any command, so it has the flags of all.
    """
    for command in [*COMMANDS[1:], COMMANDS[0]]:
        accepted = flags.accepted(*[command] * (command != "demo"))
        own = [(name, flag) for flag in accepted for name in _names(flag)]
        yield "*" if command == COMMANDS[0] else command, own


def _bash(name: str, flag: flags.Flag[object]) -> str:
    return f"--{name}" if _is_boolean(flag) else f"--{name}="


def _described() -> list[tuple[str, str]]:
    return [(name, help.partition(";")[0].partition(":")[0]) for name, help in cli.COMMANDS.items()]


def _compgen(words: Sequence[str]) -> str:
    return f"COMPREPLY=($(compgen -W '{' '.join(words)}' -- \"$word\"))"


def _fish(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
