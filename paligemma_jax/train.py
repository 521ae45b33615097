"""python -m paligemma_jax.train --config transfers/demo.py --workdir runs/demo"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from paligemma_jax.config import command_line
from paligemma_jax.core import early_stop
from paligemma_jax.core import errors
from paligemma_jax.core import huge_pages

_PLAN = "python -m paligemma_jax.plan"


def main(argv: Sequence[str]) -> None:
  """Trains what a configuration says, or goes on with the run that the workdir holds."""
  parser = command_line.Parser(
    "train",
    "Fine-tunes, or trains, the model that a configuration describes. Started again with the same"
    " command it goes on from the last saved state.",
    "python -m paligemma_jax.train --config transfers/demo.py --workdir runs/demo"
    " --config.optim.lr=3e-4",
  )
  parser.add_argument(
    "--allow_data_change",
    action="store_true",
    help="go on although the training rows, or the row ops, are not those that the run was"
    " started with; the change is counted in metrics.jsonl",
  )
  parser.add_argument(
    "--resume_step",
    type=int,
    default=0,
    metavar="N",
    help="go back to the saved step N; what was written after it is set aside in the workdir",
  )
  args = parser.parse_args(argv)
  parser.require(args, "config", "workdir")

  # Heavy modules only now: --help and a misspelt flag must be answered at once.
  from paligemma_jax.config import load as configs
  from paligemma_jax.models import variants

  config = configs.load(args.config, args.overrides, allow_code=args.allow_code)
  configs.validate(config, training=True, variants=variants.VARIANTS)

  from paligemma_jax.multihost import agreement
  from paligemma_jax.multihost import hosts
  from paligemma_jax.trainer import devices

  team = devices.start(join_secs=args.hosts_join_secs, stall_secs=args.hosts_stall_secs)
  if team is not None:
    early_stop.listen(lambda text: team.fail(errors.Interrupted(text)))

  import jax

  from paligemma_jax.planning import search
  from paligemma_jax.trainer import loop
  from paligemma_jax.trainer import memory

  def remedies() -> list[str]:
    start = search.Change(args.config, args.overrides, allow_code=args.allow_code)
    changes = search.remedies(start, num_row_shards=jax.device_count())
    return [*changes, f"`{_PLAN} --config {args.config}` looks for the first that fits"]

  with hosts.ending_together(team), memory.explained(remedies):
    agreement.check(team, "code", agreement.of_code())
    flags = {name: getattr(args, name) for name in ("allow_data_change", "resume_step")}
    agreement.check(team, "configuration", agreement.of_config(config) | flags)
    loop.train(config, args.workdir, team=team, **flags)


if __name__ == "__main__":
  early_stop.hold()  # Until a program with huge pages has taken this one's place.
  huge_pages.use()
  early_stop.listen()
  errors.run_main(lambda: main(sys.argv[1:]))
