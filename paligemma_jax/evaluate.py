"""python -m paligemma_jax.evaluate --workdir runs/demo"""

from __future__ import annotations

import json
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from paligemma_jax import cli
from paligemma_jax.config import command_line
from paligemma_jax.core import bucket
from paligemma_jax.core import errors
from paligemma_jax.core import protocols

_CKPT = (
  "weights to evaluate: a run, one of its checkpoints/<step>, an npz, a Hugging Face directory or a"
  " published name (default: those of --workdir, else the configuration's init)"
)
_OUT = "the folder of evaluators' files (default: WORKDIR/predictions, if it is writable)"


def parser() -> command_line.Parser:
  found = command_line.Parser(
    "evaluate",
    "Runs the evaluators of a configuration. Prints a table, then all numbers as one line of JSON"
    " on stdout. Evaluators write files to WORKDIR/predictions/, or to --out.",
    f"{command_line.called('evaluate')} --workdir runs/demo --config.evals.0.limit=100",
  )
  found.add_argument("--ckpt", metavar="PATH", default="", help=_CKPT)
  found.add_argument("--out", metavar="DIR", default="", help=_OUT)
  return found


def main(argv: Sequence[str]) -> None:
  """Runs the evaluators of a configuration on a run's newest state, or on any weights."""
  args = parser().parse(argv)
  if not args.config and not args.workdir:
    parser().error("Give --config, or --workdir of a run whose configuration is then used.")

  from paligemma_jax.config import load as configs
  from paligemma_jax.models import variants

  file = args.config or os.path.join(args.workdir, "config.json")
  unused = ("log.trackers",)
  config = configs.load(file, args.overrides, allow_code=args.allow_code, unused=unused)
  configs.validate(config, training=False, variants=variants.VARIANTS)
  if not config.evals:
    raise errors.ConfigError("The configuration has no evaluators: `evals` is empty.")

  folder = _folder_of_files(config.evals, args.workdir, args.out)

  from paligemma_jax.multihost import agreement
  from paligemma_jax.multihost import hosts
  from paligemma_jax.trainer import devices

  team = devices.start(join_secs=args.hosts_join_secs, stall_secs=args.hosts_stall_secs)
  with hosts.ending_together(team):
    agreement.check(team, "code", agreement.of_code())
    agreement.check(team, "configuration", agreement.of_config(config))
    _evaluate(config, args.workdir, args.ckpt, folder, team)


def _folder_of_files(evaluators: Sequence[Any], workdir: str, out: str) -> pathlib.Path | None:
  """The folder of evaluators' files; None, with a note, where none is writable."""
  from paligemma_jax.core import atomic_io
  from paligemma_jax.trainer import workdir as workdirs

  if out:
    workdirs.make_writable(bucket.place(out), "folder", "--out")
    return bucket.place(out)
  if not workdir or not any(isinstance(e, protocols.CanWriteFiles) for e in evaluators):
    return None
  folder = workdirs.Workdir(bucket.place(workdir)).predictions
  try:
    workdirs.make_writable(folder.parent, "workdir", "--out")
    atomic_io.make_folder(folder, below=folder.parent)
    workdirs.make_writable(folder, "folder", "--out")
  except errors.WorkdirError as e:
    command_line.note(f"evaluators write no files: {e}")
    return None
  return folder


def _evaluate(config, run: str, ckpt: str, folder: pathlib.Path | None, team: Any) -> None:
  import jax

  from paligemma_jax.checkpoint import load
  from paligemma_jax.checkpoint import opening
  from paligemma_jax.checkpoint import shared_reading
  from paligemma_jax.models import paligemma
  from paligemma_jax.multihost import agreement
  from paligemma_jax.report import report
  from paligemma_jax.trainer import devices
  from paligemma_jax.trainer import evaluation
  from paligemma_jax.trainer import setup as setups
  from paligemma_jax.training import sharding

  ckpt = ckpt or (run if run and opening.is_run(run) else config.init)
  if not ckpt:
    raise errors.ConfigError(
      f"There are no weights to evaluate: {run or 'the configuration'} has no saved state and"
      " `init` is ''. Give --ckpt PATH."
    )
  own_tokenizer = config.tokenizer

  def read():
    weights = opening.open_weights(ckpt)
    agreement.check_weights(team, weights)
    config.tokenizer = own_tokenizer or str(weights.tokenizer or "")
    setup = setups.prepare(config, plain=True)
    params = load.load_params(
      weights,
      setup.shapes,
      dtype=paligemma.compute_dtype(setup.model_config),
      shardings=sharding.param_shardings(setup.shapes, setup.mesh),
      fill=shared_reading.of_hosts(setup.mesh),
      log=command_line.note,
    )
    return weights, setup, params

  with devices.explained(lambda: ["more devices, over which the parameters are sharded"]):
    weights, setup, params = opening.read_steadily(ckpt, read)
  step = int(weights.path.name) if weights.kind == "run" else 0
  command_line.note(f"evaluating {weights.path}")
  results = evaluation.Runner(setup, folder, alone=False).run(params, step)
  metrics = evaluation.merged(results)
  if jax.process_index() == 0:
    command_line.note(report.text(report.scores_table("Scores", {"value": metrics})))
    print(json.dumps({"ckpt": str(weights.path), "step": step, **metrics}))


if __name__ == "__main__":
  cli.run("evaluate", sys.argv[1:])
