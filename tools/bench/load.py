"""Checkpoints: seconds to load one into memory and to save it again.

    python -m tools.bench.load --model mid --against transformers --json
    python -m tools.bench.load --model mid --against keras_hub --json

All sides read the same Hugging Face directory of float32 weights and write their own form of it
(ours too a Hugging Face directory; keras-hub a preset). Seconds are those of both, the parts are
told apart beside them. Loaded means that every number was looked at: their sums must agree. Ours is
on disk when saving ends; the others leave that to the operating system.
"""

from __future__ import annotations

import argparse
import statistics

from paligemma_jax.core import errors
from tools.bench import compare

_ALIKE = 1e-4  # Relative, of the sums of magnitudes.


def parser() -> argparse.ArgumentParser:
  """The options; both sides read them too."""
  made = compare.arguments(__doc__, ("transformers", "keras_hub"))
  made.add_argument("--weights", default="", help=argparse.SUPPRESS)
  made.add_argument("--folder", default="", help=argparse.SUPPRESS)
  return made


def main() -> None:
  """Compares."""
  args = parser().parse_args()
  compare.check_baseline(args)
  with compare.written_weights(args.model) as path:
    passed = [f"--weights={path}", f"--folder={path.parent}", f"--model={args.model}"]
    ours, baseline = compare.compared("load", args, passed)
  more = _parts("ours", ours)
  if baseline is not None:
    more |= _parts("baseline", baseline)
    for part in ("load", "save"):
      ratio = more[f"ours_{part}_seconds"] / more[f"baseline_{part}_seconds"]
      more[f"{part}_ratio"] = round(ratio, 4)
    sums = ours.answers[-1]["sum"], baseline.answers[-1]["sum"]
    if abs(sums[0] - sums[1]) > _ALIKE * sums[1]:
      raise errors.ConfigError(f"The weights differ: sums of {sums[0]} and {sums[1]}.")
  compare.show(compare.result("load", ours, baseline, **more), args.json)


def _parts(prefix: str, side: compare.Side) -> dict[str, float]:
  return {
    f"{prefix}_{part}_seconds": round(
      statistics.median(answer[part] for answer in side.answers[1:]), 4
    )
    for part in ("load", "save")
  }


if __name__ == "__main__":
  errors.run_main(main)
