"""paligemma-jax COMMAND …, the script of an installed package.

Each command is a module, and `python -m paligemma_jax.COMMAND` is the same.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from paligemma_jax.core import errors
from paligemma_jax.core import process

COMMANDS = {
  "train": "fine-tunes, or resumes a run",
  "evaluate": "scores a run, or any weights, with the evaluators of a configuration",
  "predict": "answers about images, one JSON line each",
  "plan": "computes whether a run fits some devices, and the least time of a step",
  "convert": "writes weights in another format: npz, hf, peft, native",
  "prepare": "builds the dataset of a benchmark from its official download",
  "new": "copies the template to a config file of your own",
  "tpu": "creates Cloud TPU slices, and trains on them until the run has ended",
  "version": "prints the versions of all packages that a run depends on",
  "completion": "prints a script for bash, zsh or fish that completes these commands",
}
_HUGE_PAGES = ("train", "evaluate", "predict")  # Commands that are faster with them.


def main() -> NoReturn:
  """Runs the command that the first argument names; without one, lists the commands."""
  name, *rest = sys.argv[1:] or ["--help"]
  if name in ("-h", "--help", "help"):
    errors.run_main(print, listing())
  name = "version" if name == "--version" else name
  if name not in COMMANDS:
    hint = errors.did_you_mean(name, COMMANDS)
    print(f"error: There is no command {name!r}.{hint}\nSee paligemma-jax --help.", file=sys.stderr)
    sys.exit(2)
  if not sys.flags.safe_path:
    sys.path[0] = os.getcwd()  # As `python -m` does, to find modules of the user.
  run(name, rest)


def run(command: str, argv: Sequence[str]) -> NoReturn:
  """Runs a command as this program: ends with its exit code."""
  if command == "train":
    process.hold_signals()  # Until the restart with huge pages.
  if command in _HUGE_PAGES:
    process.use_huge_pages()
  if command == "train":
    process.listen_for_signals()
  errors.run_main(importlib.import_module(f"paligemma_jax.{command}").main, argv)


def listing() -> str:
  """The commands, one line each."""
  lines = "\n".join(f"  {name:<12}{text}" for name, text in COMMANDS.items())
  return f"""usage: paligemma-jax COMMAND …

Fine-tunes PaliGemma and PaliGemma 2 in JAX.

{lines}

paligemma-jax COMMAND --help says more; python -m paligemma_jax.COMMAND is the same."""
