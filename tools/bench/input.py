"""Input: images per second of one core, from JPEG files to what the model is fed.

    python -m tools.bench.input --model mid --against transformers --json

Our loader against PaliGemmaProcessor over Pillow's decoder, one thread each: 640 x 480 files in
memory are decoded and resized to the model's side, prompt and answer are tokenized and laid out,
and batches made. Seconds are those of all images; `*_images_per_core_second` are per second of
processor time. Each side resizes as it does by default (ours bilinear with antialiasing, as the
published checkpoints were trained; theirs Pillow's bicubic); --method=hf_bicubic gives ours theirs.
"""

from __future__ import annotations

import argparse
import pathlib

from paligemma_jax.core import errors
from tools.bench import compare

TOKENIZER = (
  pathlib.Path(__file__).resolve().parents[2]
  / "paligemma_jax"
  / "assets"
  / "demo"
  / "tokenizer.model"
)
TEXT_LEN = 40
_ALIKE = 2.0  # Levels of 255 by which mean pixels may differ; kernels differ.


def parser() -> argparse.ArgumentParser:
  """The options; both sides read them too."""
  made = compare.arguments(__doc__, ("transformers",))
  made.add_argument("--batch_size", type=int, default=8)
  made.add_argument("--images", type=int, default=128, help="per run")
  made.add_argument("--files", type=int, default=32, help="different ones among them")
  made.add_argument("--num_threads", type=int, default=1, help="of our loader")
  made.add_argument("--method", default="bilinear", help="our way to resize, see pp.Resize")
  return made


def main() -> None:
  """Compares."""
  args = parser().parse_args()
  compare.check_baseline(args, more=("PIL", "sentencepiece"))
  names = ("model", "batch_size", "images", "files", "num_threads", "method")
  ours, baseline = compare.compared("input", args, compare.options(args, names))
  more = {"images": args.images, "ours_images_per_core_second": _rate(args, ours)}
  if baseline is not None:
    if abs(ours.answers[-1] - baseline.answers[-1]) > _ALIKE:
      raise errors.ConfigError(
        f"The mean pixels differ: {ours.answers[-1]} and {baseline.name}'s {baseline.answers[-1]}."
      )
    more["baseline_images_per_core_second"] = _rate(args, baseline)
  compare.show(compare.result("input", ours, baseline, **more), args.json)


def _rate(args: argparse.Namespace, side: compare.Side) -> float:
  return round(args.images / side.median_cpu_seconds, 1)


if __name__ == "__main__":
  errors.run_main(main)
