"""python -m paligemma_jax.train --config transfers/demo.py --workdir runs/demo

The module is callable, so that `paligemma_jax.train(config, workdir)` trains from Python also after
an import of the module of that name.
"""

from __future__ import annotations

import functools
import os
import pathlib
import sys
import threading
import types
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from paligemma_jax import cli
from paligemma_jax.config import command_line
from paligemma_jax.core import bucket
from paligemma_jax.core import errors
from paligemma_jax.core import process

if TYPE_CHECKING:
  import ml_collections

_ALLOW_DATA_CHANGE = (
  "resume although the training rows or the row ops have changed; metrics.jsonl counts the changes"
)
_RESUME_STEP = "go back to the saved step N; later outputs are set aside in the workdir"
# Remedies for a configuration without a command line.
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
  # Heavy modules only in here, so that --help and a misspelled flag are fast.
  from paligemma_jax.config import load as configs

  file = os.fspath(config) if isinstance(config, str | os.PathLike) else ""
  flags: dict[str, Any] = {"allow_data_change": allow_data_change, "resume_step": resume_step}
  try:
    if file:
      found = configs.load(file, overrides, allow_code=allow_code)
    else:
      found = configs.overridden(config, overrides, allow_code=allow_code)

    from paligemma_jax.models import variants

    configs.validate(found, training=True, variants=variants.VARIANTS)

    from paligemma_jax.multihost import agreement
    from paligemma_jax.multihost import hosts
    from paligemma_jax.trainer import devices

    team = devices.start(join_secs=hosts_join_secs, stall_secs=hosts_stall_secs)
    if team is not None and threading.current_thread() is threading.main_thread():
      # A signal before the first step ends all hosts.
      process.listen_for_signals(lambda text: team.fail(errors.Interrupted(text)))

    from paligemma_jax.trainer import loop

    remedies = functools.partial(_remedies, file, overrides, allow_code)
    with hosts.ending_together(team), devices.explained(remedies):
      agreement.check(team, "code", agreement.of_code())
      agreement.check(team, "configuration", agreement.of_config(found) | flags)
      loop.train(found, workdir, team=team, **flags)
  except errors.PaligemmaError:
    raise
  except Exception as e:
    if translated := errors.translated(e):
      raise translated from e
    raise
  return bucket.path(workdir)


def parser() -> command_line.Parser:
  found = command_line.Parser(
    "train",
    "Fine-tunes the model of a configuration. The same command resumes a run from its last saved"
    " state.",
    f"{command_line.called('train')} --config transfers/demo.py --workdir runs/demo"
    " --config.optim.lr=3e-4",
  )
  add = found.add_argument
  add("--allow_data_change", action="store_true", help=_ALLOW_DATA_CHANGE)
  add("--resume_step", type=int, default=0, metavar="N", help=_RESUME_STEP)
  return found


def main(argv: Sequence[str]) -> None:
  """Trains the model of a configuration, or resumes the run in the workdir."""
  flags = parser()
  args = flags.parse(argv)
  flags.require(args, "config", "workdir")
  train(**vars(args))  # The flags are its arguments.


def _remedies(file: str, overrides: Sequence[str | tuple[str, str]], allow_code: bool) -> list[str]:
  """Remedies against too little memory, the cheapest first."""
  if not file:
    return list(_REMEDIES)

  import jax

  from paligemma_jax.planning import answer

  pairs = (item.partition("=")[::2] if isinstance(item, str) else item for item in overrides)
  start = answer.Change(file, tuple(pairs), allow_code=allow_code)
  changes = answer.remedies(start, num_row_shards=jax.device_count())
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
