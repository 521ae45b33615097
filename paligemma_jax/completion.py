"""python -m paligemma_jax.completion bash: a script that completes `paligemma-jax …`."""

from __future__ import annotations

import argparse
import importlib
import shlex
import sys
from collections.abc import Mapping, Sequence

from paligemma_jax import cli
from paligemma_jax.config import command_line
from paligemma_jax.config import config_file
from paligemma_jax.config import schema

_HOW = """to install it:
  bash  paligemma-jax completion bash >> ~/.bashrc
  zsh   paligemma-jax completion zsh >> ~/.zshrc          (after compinit)
  fish  paligemma-jax completion fish > ~/.config/fish/completions/paligemma-jax.fish
"""
_FLAG = "--config.KEY"  # Stands for the flags of all keys.


def parser() -> argparse.ArgumentParser:
  what = "Prints a script that lets a shell complete commands, flags, keys and pages."
  found = command_line.plain_parser("completion", what, _HOW)
  found.add_argument("shell", choices=tuple(SHELLS))
  return found


def main(argv: Sequence[str]) -> None:
  """Prints the completion script of a shell."""
  print(SHELLS[parser().parse_args(argv).shell](words()))


def words() -> dict[str, list[str]]:
  """{command: its flags, and the values of its first argument}."""
  found = {}
  for name in cli.COMMANDS:
    its = importlib.import_module(f"paligemma_jax.{name}").parser()
    flags = [flag for flag in its._option_string_actions if flag.startswith("--")]
    if _FLAG in flags:
      flags.remove(_FLAG)
      flags += [f"--config.{path}=" for path in schema.flat()]
    found[name] = flags
  prepare = importlib.import_module("paligemma_jax.prepare")
  found["prepare"] += prepare.names()
  found["completion"] += list(SHELLS)
  return found


def _bash(found: Mapping[str, Sequence[str]]) -> str:
  cases = "\n".join(f'    {name}) words="{" ".join(its)}" ;;' for name, its in found.items())
  return f"""_paligemma_jax() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} words=
  case ${{COMP_WORDS[1]}} in
{cases}
  esac
  if [ "$COMP_CWORD" -eq 1 ]; then
    words="{" ".join(found)}"
  elif [ "$before" = --config ] || [ "$before" = --page ]; then
    words="{" ".join(config_file.page_names())}"
  elif [[ "$word" != -* && "$before" == -* ]]; then
    words=
  fi
  COMPREPLY=($(compgen -W "$words" -- "$word"))
  if [[ "${{COMPREPLY[0]}}" == *= ]]; then compopt -o nospace; fi
}}
complete -o default -F _paligemma_jax {command_line.SCRIPT}"""


def _zsh(found: Mapping[str, Sequence[str]]) -> str:
  commands = "\n".join(
    f"    {shlex.quote(f'{name}:{text}')}" for name, text in cli.COMMANDS.items()
  )
  cases = "\n".join(
    f"    {name}) compadd -- {' '.join(w for w in its if w[-1] != '=')}\n"
    f"      compadd -S '' -- {' '.join(w for w in its if w[-1] == '=')} ;;"
    for name, its in found.items()
  )
  return f"""_paligemma_jax() {{
  local -a commands
  commands=(
{commands}
  )
  if (( CURRENT == 2 )); then
    _describe command commands
    return
  fi
  case ${{words[CURRENT-1]}} in
    --config|--page) compadd -- {" ".join(config_file.page_names())}; _files; return ;;
    --*) _files; return ;;
  esac
  case $words[2] in
{cases}
  esac
  _files
}}
compdef _paligemma_jax {command_line.SCRIPT}"""


def _fish(found: Mapping[str, Sequence[str]]) -> str:
  to = f"complete -c {command_line.SCRIPT}"
  pages = shlex.quote(" ".join(config_file.page_names()))
  lines = [
    f"{to} -f -n __fish_use_subcommand -a {name} -d {shlex.quote(text)}"
    for name, text in cli.COMMANDS.items()
  ]
  for name, its in found.items():
    for word in its:
      takes_page = word in ("--config", "--page")
      given = f"-l {word[2:]} -r -a {pages}" if takes_page else f"-a {shlex.quote(word)}"
      lines.append(f"{to} -n '__fish_seen_subcommand_from {name}' {given}")
  return "\n".join(lines)


SHELLS = {"bash": _bash, "zsh": _zsh, "fish": _fish}


if __name__ == "__main__":
  cli.run("completion", sys.argv[1:])
