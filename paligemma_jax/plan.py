"""python -m paligemma_jax.plan --config transfers/okvqa.py --on v5e-8"""

from __future__ import annotations

import json
import math
import sys
import threading
from collections.abc import Sequence
from typing import Any

from paligemma_jax import cli
from paligemma_jax.config import command_line
from paligemma_jax.core import errors

_ON = (
  "local (default), TPU chips as v5e-1, v5e-8, v5p-8, v6e-8 (v5e-16x2: 2 slices), or GPUs as h100,"
  " h100x8, l4, t4"
)
_HOSTS = "that the chips are spread over (default: VMs as on Google Cloud, nodes of 8 cards)"
_PRICE = "of one chip for an hour (default: a list price where `plan` knows one)"
_MFU = "share of the peak that steps reached, for the cost (default: 0.3, which is an assumption)"
_FRAMES = "images per row (default: those of the first row where the data is there, else one)"
_SUPERVISED = "the most answer tokens of a row (default: train.text_len)"
_EFFORT = "of the compiler, -1 (default) to 1; 0 is its own default, several times slower"
_TIMEOUT = "seconds that one program may take to compile (default 1800)"


def parser() -> command_line.Parser:
  found = command_line.Parser(
    "plan",
    "Compiles the training step of a configuration ahead of time, without the hardware, and prints"
    " its memory per chip, its FLOPs and the least time of a step. When it does not fit, searches"
    " for the cheapest change that makes it fit. No weights and no data are needed.",
    f"{command_line.called('plan')} --config transfers/okvqa.py:res=448 --on v5e-8",
  )
  add = found.add_argument
  add("--on", default="local", metavar="DEVICES", help=_ON)
  add("--hosts", type=int, default=0, metavar="N", help=_HOSTS)
  add("--price", type=float, default=0.0, metavar="USD", help=_PRICE)
  add("--mfu", type=float, default=0.0, metavar="SHARE", help=_MFU)
  add("--json", action="store_true", help="one line of JSON on stdout")
  add("--frames", type=int, default=0, metavar="N", help=_FRAMES)
  add("--supervised", type=int, default=0, metavar="N", help=_SUPERVISED)
  add("--suggest", type=int, default=2, metavar="N", help="changes to find (default 2; 0: none)")
  add("--tries", type=int, default=6, metavar="N", help="most changes to compile (default 6)")
  add("--effort", type=float, default=-1.0, metavar="E", help=_EFFORT)
  add("--timeout", type=float, default=1800.0, metavar="SECS", help=_TIMEOUT)
  return found


def main(argv: Sequence[str]) -> None:
  """Compiles the training step of a configuration for some devices and prints what it needs."""
  flags = parser()
  args = flags.parse(argv)
  flags.require(args, "config")
  if min(args.frames, args.supervised, args.suggest, args.tries, args.hosts) < 0:
    flags.error("--frames, --supervised, --suggest, --tries and --hosts are at least 0.")
  if not 0 <= args.price < math.inf:
    flags.error(f"--price is a number of US dollars, at least 0; got {args.price}.")
  if not 0 <= args.mfu <= 1:
    flags.error(f"--mfu is from 0 to 1; got {args.mfu}.")
  if not -1 <= args.effort <= 1:
    flags.error(f"--effort is from -1 to 1; got {args.effort}.")
  if not 0 < args.timeout < threading.TIMEOUT_MAX:
    flags.error(f"--timeout is a number of seconds above 0; got {args.timeout}.")

  from paligemma_jax.config import load as configs
  from paligemma_jax.models import variants
  from paligemma_jax.planning import answer as answers
  from paligemma_jax.planning import runs
  from paligemma_jax.planning import targets

  target = targets.get(args.on, args.hosts)
  start = answers.Change(args.config, args.overrides, allow_code=args.allow_code)
  config = start.load()
  configs.validate(config, training=True, variants=variants.VARIANTS)
  num_rows, frames = _look_at_data(config)
  size = dict(frames=args.frames or frames, num_supervised=args.supervised)

  def ask(changes: Sequence[answers.Change], compiled: bool) -> list[dict[str, Any]]:
    loaded = [change.load() for change in changes]
    jobs = [runs.job(c, args.on, hosts=args.hosts, compiled=compiled, **size) for c in loaded]
    return runs.ask(jobs, args.on, effort=args.effort, timeout_secs=args.timeout)

  found = ask([start], True)[0]
  if "refused" in found:
    raise errors.ConfigError(found["refused"])
  suggestions = []
  if not found["fits"] and args.suggest and not found["fits_with"]:
    command_line.note(
      f"{args.config} does not fit {args.on}; searching for the cheapest change that does"
    )
    suggestions = answers.search(
      start, found, ask, want=args.suggest, tries=args.tries, note=command_line.note
    )
  answer = answers.answer(
    found,
    target,
    suggestions,
    batch_size=config.train.batch_size,
    num_rows=num_rows,
    num_steps=_num_steps(config, num_rows),
    mfu=args.mfu,
    price=args.price,
  )
  if args.json:
    print(json.dumps(answer))
  else:
    what = f"{config.model.variant} at {config.model.res} px, batch {config.train.batch_size},"
    what += f" text {config.train.text_len}"
    command = f"{command_line.called('plan')} --on {args.on}"
    command += f" --hosts {args.hosts}" if args.hosts else ""
    print("\n".join(answers.lines(answer, what, command)))


def _num_steps(config: Any, num_rows: int) -> int:
  """The run's length; 0 where it depends on rows that are not there."""
  from paligemma_jax.config import schema

  batch_size = config.train.batch_size
  try:
    return schema.to_steps(
      config.train.total, "train.total", batch_size=batch_size, num_examples=num_rows
    )
  except errors.ConfigError:
    return 0


def _look_at_data(config: Any) -> tuple[int, int]:
  """(rows of an epoch, images per row) where the data is there, else (0, 0)."""
  from paligemma_jax.data import order

  try:
    rows = config.train.source.open()
    columns = {**rows[0], "_seed": config.seed, "_epoch": 0, "_row": 0}
    for op in config.train.pp:
      columns = op(columns, order.row_rng(config.seed, 0, 0))
    shape = columns["image"].shape
  except Exception:  # A plan needs no data; training reports its errors.
    return 0, 0
  return len(rows), shape[0] if len(shape) == 4 else 0


if __name__ == "__main__":
  cli.run("plan", sys.argv[1:])
