"""The flags that commands share: --config, --config.key=value, --workdir, help.

The syntax is that of ml_collections flags, parsed without heavy imports, so that help and usage
errors come at once.
"""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
from collections.abc import Sequence
from typing import NoReturn

from paligemma_jax.config import schema
from paligemma_jax.core import errors

SCRIPT = "paligemma-jax"  # The console script of an installed package.
_PREFIX = "--config."
JOIN_SECS, STALL_SECS = 300.0, 1800.0  # Defaults of --hosts_join_secs and --hosts_stall_secs.

_CONFIG = (
  "a file with get_config, and its arguments: transfers/forkme.py:res=448. Pages of this package"
  " are also found by name, from any folder: okvqa:res=448"
)
_KEY = "set one key of the configuration: --config.optim.lr=3e-5 (any number of times)"
_JOIN = "how long to wait for the other hosts at the start (default 300)"
_STALL = "end all hosts when none makes progress for so long (default 1800)"
_ALLOW_CODE = (
  "import modules of your own that a saved configuration (a config.json) names: row ops, sources,"
  " evaluators. Without it a run's folder runs no code"
)
_HELP_CONFIG = "list every key of the configuration with its default and meaning, and exit"
_SEVERAL_HOSTS = """\
Start the same command on every host, with a --workdir that all of them share. The hosts
are found on Cloud TPU VMs, GKE, Slurm, Open MPI and Kubernetes, or named by
JAX_COORDINATOR_ADDRESS (name:port of host 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID.
JAX_NUM_PROCESSES=1 runs on this host alone. docs/several_hosts.md says more."""
_EXIT_CODES = """exit codes:
  0 done · 2 usage · 65 data worse than its budget · 66 input stopped coming · 69 another host is
  missing or died · 70 numbers broken · 71 out of memory · 73 workdir locked or not writable · 74
  state cannot be written or none intact · 75 interrupted and saved, run the same command again ·
  78 configuration · 130, 143 a second Ctrl-C or SIGTERM
"""


def called(command: str) -> str:
  """How this process was called: 'paligemma-jax train' or 'python -m paligemma_jax.train'."""
  if os.path.basename(sys.argv[0]) == SCRIPT:
    return f"{SCRIPT} {command}"
  return f"python -m paligemma_jax.{command}"


def note(text: str) -> None:
  """Prints a line on stderr; stdout is for results."""
  print(text, file=sys.stderr, flush=True)


def plain_parser(command: str, description: str, epilog: str = "") -> argparse.ArgumentParser:
  """A parser for a command without a configuration."""
  return argparse.ArgumentParser(
    prog=called(command),
    description=description,
    epilog=epilog,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )


class Parser(argparse.ArgumentParser):
  """An argument parser that reads overrides and suggests the near match of an unknown flag."""

  def __init__(self, module: str, description: str, example: str):
    super().__init__(
      prog=called(module),
      description=description,
      epilog=f"example:\n  {example}\n\n{_EXIT_CODES}",
      formatter_class=argparse.RawDescriptionHelpFormatter,
      allow_abbrev=False,
    )
    add = self.add_argument
    add("--config", metavar="FILE[:NAME=VALUE,…]", help=_CONFIG)
    add("--config.KEY", dest="overrides", metavar="VALUE", help=_KEY)
    add("--workdir", metavar="DIR", help="the folder of all outputs of the run")
    several = self.add_argument_group("several hosts", _SEVERAL_HOSTS).add_argument
    several("--hosts_join_secs", type=float, default=JOIN_SECS, metavar="SECS", help=_JOIN)
    several("--hosts_stall_secs", type=float, default=STALL_SECS, metavar="SECS", help=_STALL)
    add("--allow_code", action="store_true", help=_ALLOW_CODE)
    add("--help-config", action=_HelpConfig, nargs="?", metavar="SECTION", help=_HELP_CONFIG,
        default=argparse.SUPPRESS)  # fmt: skip

  def parse(self, args: Sequence[str]) -> argparse.Namespace:
    """The flags, with `config` and `workdir` (str or None) and `overrides`: ((key, value), …).

    Exits with 2 and one sentence on stderr when a flag is unknown or lacks its value.
    """
    plain, overrides = self._split(args)
    found, unknown = self.parse_known_args(plain)
    if unknown:
      self._unknown(unknown[0])
    found.overrides = tuple(overrides)
    return found

  def require(self, found: argparse.Namespace, *names: str) -> None:
    """Exits with 2 when one of the flags was not given."""
    for name in names:
      if not getattr(found, name):
        self.error(f"--{name} is required.")

  def error(self, message: str) -> NoReturn:
    """Prints the message and how to get help, and exits with 2."""
    self.exit(2, f"error: {message}\nSee {self.prog} --help.\n")

  def _split(self, args: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """(other arguments, overrides); these are '--config.a.b=v' or '--config.a.b v'."""
    plain: list[str] = []
    overrides: list[tuple[str, str]] = []
    rest = list(args)
    while rest:
      arg = rest.pop(0)
      if not arg.startswith(_PREFIX):
        plain.append(arg)
        continue
      key, equals, value = arg.removeprefix(_PREFIX).partition("=")
      known = schema.flat().get(key)
      if not equals and rest and not rest[0].startswith("--"):
        value = rest.pop(0)
      elif not equals and known is not None and isinstance(known.default, bool):
        value = "true"
      elif not equals:
        self.error(f"{arg} needs a value, as in '{arg}=…'.")
      overrides.append((key, value))
    return plain, overrides

  def _unknown(self, arg: str) -> NoReturn:
    if not arg.startswith("-"):
      self.error(f"{arg!r} belongs to no flag; a configuration is given as --config {arg}.")
    flag = arg.partition("=")[0]
    key = flag.lstrip("-")
    paths = [path for path in schema.flat() if key in (path, path.rpartition(".")[2])]
    if paths:
      hint = " or ".join(repr(f"{_PREFIX}{path}") for path in paths[:3])
      self.error(f"There is no flag {flag!r}. Did you mean {hint}?")
    if flag.partition(".")[2]:  # '--cofnig.optim.lr'
      self.error(f"There is no flag {flag!r}. Did you mean '{_PREFIX}{flag.partition('.')[2]}'?")
    flags = [option for option in self._option_string_actions if option.startswith("--")]
    self.error(f"There is no flag {flag!r}.{errors.did_you_mean(flag, flags)}")


class _HelpConfig(argparse.Action):
  """Prints the schema, or one section of it, and exits."""

  def __call__(self, parser, namespace, values, option_string=None):
    del namespace, option_string
    section = (values or "").removeprefix("config.")
    names = [name for name in schema.SCHEMA if not section or name == section.partition(".")[0]]
    if not names:
      parser.error(f"There is no section {section!r}.{errors.did_you_mean(section, schema.SCHEMA)}")
    for path, key in schema.flat().items():
      if path.partition(".")[0] in names:
        choices = f" One of {', '.join(map(repr, key.choices))}." if key.choices else ""
        lines = textwrap.wrap(key.text + choices, 92)
        print(f"{_PREFIX}{path}={key.default!r}", *lines, sep="\n      ")
    parser.exit(0)
