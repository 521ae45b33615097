"""python -m paligemma_jax.train --config transfers/demo.py --workdir runs/demo

The module is callable, so that `paligemma_jax.train(config, workdir)` trains from Python also after
an import of the module of that name.
"""

from __future__ import annotations

import os
import pathlib
import sys
import threading
import types
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from paligemma_jax import cli
from paligemma_jax.config import command_line
from paligemma_jax.core import errors
from paligemma_jax.core import process

if TYPE_CHECKING:
  import ml_collections

  from paligemma_jax.multihost import hosts

# Remedies against too little memory for a configuration without a command line.
_REMEDIES = (
  "model.remat='full'",
  "a larger train.grad_accum_steps",
  "a preset that trains less (docs/tuning.md)",
  "a smaller train.batch_size",
)


def train(
  config: ml_collections.ConfigDict | str | os.PathLike[str],
  workdir: str | os.PathLike[str],
  *,
  overrides: Sequence[str | tuple[str, str]] = (),
  allow_code: bool = False,
  allow_data_change: bool = False,
  resume_step: int = 0,
  hosts_join_secs: float = command_line.JOIN_SECS,
  hosts_stall_secs: float = command_line.STALL_SECS,
) -> pathlib.Path:
  """Trains as the command does, or resumes the run in the workdir.

  With several hosts a failure ends the processes of all of them; a process alone raises it.

  Args:
    config: the result of a `get_config`, or a file as for --config: 'mine.py:res=448'.
    workdir: the folder of all outputs of the run.
    overrides: 'optim.lr=3e-5' or ('optim.lr', '3e-5'), as after `--config.`; they do not change
      `config` itself.
    allow_code, allow_data_change, resume_step, hosts_join_secs, hosts_stall_secs: as the flags.

  Returns:
    The workdir, for `paligemma_jax.load`.

  Raises:
    PaligemmaError: the error with the exit code that the command would have; Interrupted when a
      signal stopped the run and its state is saved.
  """
  from paligemma_jax.config import load as configs

  file = os.fspath(config) if isinstance(config, str | os.PathLike) else ""
  try:
    if file:
      found = configs.load(file, overrides, allow_code=allow_code)
    else:
      found = configs.overridden(config, overrides, allow_code=allow_code)
    _train(
      found,
      workdir,
      lambda: _remedies(file, overrides, allow_code) if file else list(_REMEDIES),
      hosts_join_secs=hosts_join_secs,
      hosts_stall_secs=hosts_stall_secs,
      allow_data_change=allow_data_change,
      resume_step=resume_step,
    )
  except errors.PaligemmaError:
    raise
  except Exception as e:
    if translated := errors.translated(e):
      raise translated from e
    raise
  return pathlib.Path(workdir)


def parser() -> command_line.Parser:
  found = command_line.Parser(
    "train",
    "Fine-tunes the model of a configuration. The same command resumes a run from its last saved"
    " state.",
    f"{command_line.called('train')} --config transfers/demo.py --workdir runs/demo"
    " --config.optim.lr=3e-4",
  )
  found.add_argument(
    "--allow_data_change",
    action="store_true",
    help="resume although the training rows or the row ops have changed; metrics.jsonl counts the"
    " changes",
  )
  found.add_argument(
    "--resume_step",
    type=int,
    default=0,
    metavar="N",
    help="go back to the saved step N; later outputs are set aside in the workdir",
  )
  return found


def main(argv: Sequence[str]) -> None:
  """Trains the model of a configuration, or resumes the run in the workdir."""
  flags = parser()
  args = flags.parse(argv)
  flags.require(args, "config", "workdir")

  # Heavy modules only now, so that --help and a misspelled flag are fast.
  from paligemma_jax.config import load as configs

  _train(
    configs.load(args.config, args.overrides, allow_code=args.allow_code),
    args.workdir,
    lambda: _remedies(args.config, args.overrides, args.allow_code),
    hosts_join_secs=args.hosts_join_secs,
    hosts_stall_secs=args.hosts_stall_secs,
    allow_data_change=args.allow_data_change,
    resume_step=args.resume_step,
  )


def _train(
  config: ml_collections.ConfigDict,
  workdir: str | os.PathLike[str],
  remedies: Callable[[], list[str]],
  *,
  hosts_join_secs: float,
  hosts_stall_secs: float,
  **flags: Any,
) -> None:
  """Checks the configuration, starts the devices and trains.

  Args:
    remedies: against too little memory, the cheapest first.
    flags: `allow_data_change` and `resume_step` of `loop.train`.
  """
  from paligemma_jax.config import load as configs
  from paligemma_jax.models import variants

  configs.validate(config, training=True, variants=variants.VARIANTS)

  from paligemma_jax.multihost import agreement
  from paligemma_jax.multihost import hosts
  from paligemma_jax.trainer import devices

  team = devices.start(join_secs=hosts_join_secs, stall_secs=hosts_stall_secs)
  _listen(team)

  from paligemma_jax.trainer import devices
  from paligemma_jax.trainer import loop

  with hosts.ending_together(team), devices.explained(remedies):
    agreement.check(team, "code", agreement.of_code())
    agreement.check(team, "configuration", agreement.of_config(config) | flags)
    loop.train(config, workdir, team=team, **flags)


def _listen(team: hosts.Team | None) -> None:
  """Lets a signal before the first step end all hosts, in a main thread."""
  if team is not None and threading.current_thread() is threading.main_thread():
    process.listen_for_signals(lambda text: team.fail(errors.Interrupted(text)))


def _remedies(file: str, overrides: Sequence[str | tuple[str, str]], allow_code: bool) -> list[str]:
  import jax

  from paligemma_jax.planning import search

  pairs = (item.partition("=")[::2] if isinstance(item, str) else item for item in overrides)
  start = search.Change(file, tuple(pairs), allow_code=allow_code)
  changes = search.remedies(start, num_row_shards=jax.device_count())
  plan = f"{command_line.called('plan')} --config {file}"
  return [*changes, f"`{plan}` looks for the first that fits"]


class _Callable(types.ModuleType):
  """This module, callable: `paligemma_jax.train` is the module and the function."""

  def __call__(self, config, workdir, **flags) -> pathlib.Path:
    """See `train`."""
    return train(config, workdir, **flags)


if __name__ == "__main__":
  cli.run("train", sys.argv[1:])
else:
  sys.modules[__name__].__class__ = _Callable
