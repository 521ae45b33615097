"""The training step: seconds, peak memory and how much of the machine's matrix speed it uses.

    python -m tools.bench.step --model mid --against transformers --json
    python -m tools.bench.step --model mid --against keras_hub --json
    python -m tools.bench.step --model mid --tune lora --against transformers --json
    python -m tools.bench.step --model 3b --device gpu --dtype bfloat16 --against transformers

Both sides get the same weights and batch and train everything with Adam behind a clip by global
norm, or adapters of one rank on the decoder's matrices (transformers' are PEFT's); loading and
compiling are not counted. With bfloat16, trainable parameters stay float32 on both sides
(transformers' under autocast), frozen ones are bfloat16. The losses of both sides, from the same
weights on, must agree. `mfu` is needed matrix operations (none that are recomputed) per second over
the device's peak by its data sheet (null for a CPU, which has none); `matmul_share` is
the same over what large matmuls reach in that dtype, measured in the same run.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from paligemma_jax.core import errors
from paligemma_jax.models import variants
from paligemma_jax.planning import targets
from tools.bench import compare
from tools.bench import models

# Relative. Adam's first steps go by the signs of gradients, also of those that are mere rounding.
# Adapters begin with other random numbers on each side, though with no effect.
_FIRST_LOSS = {"float32": 1e-4, "bfloat16": 2e-2}
_LATER_LOSSES = {"full_adam": 1e-2, "lora": 5e-2}


def batch(args: argparse.Namespace) -> dict[str, np.ndarray]:
  """A batch as the loader hands it out; its text fills the positions that the model is fed.

  image uint8[B, R, R, 3], text int32[B, L+1], mask_ar int32[B, L+1], mask_loss float32[B, L+1],
  _mask bool[B]; the last position is padding.
  """
  model_config = models.MODELS[args.model]
  rows, length = args.batch_size, args.text_len + 1
  rng = np.random.default_rng(1)
  text = rng.integers(4, model_config.llm.vocab_size, (rows, length), np.int32)
  text[:, 0], text[:, -1] = 2, 0
  answer = np.arange(length) >= args.text_len - args.supervised
  learned = answer & (np.arange(length) < args.text_len)
  return {
    "image": rng.integers(0, 256, (rows, model_config.res, model_config.res, 3), np.uint8),
    "text": text,
    "mask_ar": np.tile(answer.astype(np.int32), (rows, 1)),
    "mask_loss": np.tile(learned.astype(np.float32), (rows, 1)),
    "_mask": np.ones(rows, bool),
  }


def parser() -> argparse.ArgumentParser:
  """The options; both sides read them too."""
  made = compare.arguments(__doc__, ("transformers", "keras_hub"))
  made.add_argument("--batch_size", type=int, default=8)
  made.add_argument("--text_len", type=int, default=32, help="text tokens the model is fed")
  made.add_argument("--supervised", type=int, default=8, help="of them the answer's, per example")
  made.add_argument("--tune", default="full_adam", choices=("full_adam", "lora"))
  made.add_argument("--lr", type=float, default=1e-4)
  made.add_argument("--remat", default="auto", choices=variants.REMATS, help="ours")
  made.add_argument("--attention", default="auto", choices=variants.ATTENTIONS, help="ours")
  compare.add_device(made)
  made.add_argument(
    "--weights", default="", help="keep them in this folder and use them again; '': do not"
  )
  return made


def main() -> None:
  """Compares."""
  args = parser().parse_args()
  if not 0 < args.supervised < args.text_len:
    raise errors.ConfigError(
      f"--supervised={args.supervised} must be above 0 and below --text_len={args.text_len}."
    )
  if args.tune == "lora" and args.against == "keras_hub":
    raise errors.ConfigError("--tune=lora is compared --against=transformers, which has PEFT.")
  if args.device == "gpu" and args.against == "keras_hub":
    raise errors.ConfigError("keras_hub is compared on the CPU alone; leave out --device=gpu.")
  compare.check_baseline(args, more=("peft",) if args.tune == "lora" else ())
  with compare.written_weights(args.model, args.dtype, kept=args.weights) as path:
    where = compare.options(args, ("device", "dtype"))
    names = ("model", "batch_size", "text_len", "supervised", "tune", "lr", "remat", "attention")
    passed = [f"--weights={path}", *compare.options(args, names), *where]
    device = args.device
    with compare.started("matmul", "tools.bench.matmul", *where, device=device) as matmul:
      ours, baseline = compare.compared("step", args, passed, extra=[matmul])
  more = {**speed(ours, matmul, args.dtype), "ours_losses": ours.answers}
  if baseline is not None:
    more |= {
      "baseline_losses": baseline.answers,
      "loss_difference": difference(ours, baseline, args.tune, args.dtype),
    }
  compare.show(compare.result("step", ours, baseline, **more), args.json)


def speed(ours: compare.Side, matmul: compare.Side, dtype: str) -> dict[str, Any]:
  """Model FLOPs utilisation, and the share of a large matmul's speed by clock and processor."""
  product = matmul.facts["flops"]
  needed = ours.facts["flops_needed"]
  best, best_cpu = (product / min(seconds) for seconds in (matmul.seconds, matmul.cpu_seconds))
  peak = targets.bfloat16_peak(ours.facts["device"]) if dtype == "bfloat16" else None
  return {
    "mfu": round(needed / ours.median_seconds / peak, 4) if peak else None,
    "matmul_share": round(needed / ours.median_seconds / best, 4),
    "matmul_share_cpu": round(needed / ours.median_cpu_seconds / best_cpu, 4),
    "step_gflops": round(needed / ours.median_seconds / 1e9, 1),
    "matmul_gflops": round(best / 1e9, 1),
  }


def difference(
  ours: compare.Side, baseline: compare.Side, tune: str, dtype: str = "float32"
) -> float:
  """The largest relative difference of losses; in bfloat16 relative to the first.

  Rounding to bfloat16 is a large part of a loss that has come down to next to nothing.

  Raises:
    ConfigError: it is too large for two sides that do the same.
  """
  a, b = np.array(ours.answers), np.array(baseline.answers)
  found = np.abs(a - b) / np.abs(b if dtype == "float32" else b[0])
  first = _FIRST_LOSS[dtype]
  if not (found[0] <= first and found.max() <= max(first, _LATER_LOSSES[tune])):
    raise errors.ConfigError(
      f"The losses differ, so the two sides do not do the same: {ours.answers} and"
      f" {baseline.name}'s {baseline.answers}."
    )
  return float(f"{found.max():.2g}")


if __name__ == "__main__":
  errors.run_main(main)
