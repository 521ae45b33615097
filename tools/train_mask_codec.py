"""Trains a mask codec: python tools/train_mask_codec.py --config configs/mask_codec.py --out FILE

The config's get_config returns a `CodecRecipe`. Its arguments are set after a colon:
configs/mask_codec.py:steps=500. The same command gives the same codec on the same machine.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
import time
from collections.abc import Iterator

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # So that it runs from a clone, from any folder.

from paligemma_jax.config import config_file  # noqa: E402
from paligemma_jax.core import errors  # noqa: E402
from paligemma_jax.core import prng  # noqa: E402
from paligemma_jax.regions import mask_codec  # noqa: E402
from paligemma_jax.regions import seg  # noqa: E402


def main() -> None:
  """Trains, writes float16 weights, and scores the written file on the held-out masks."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--config", required=True, metavar="FILE[:NAME=VALUE,…]")
  parser.add_argument("--out", required=True, type=pathlib.Path, help="the npz to write")
  args = parser.parse_args()

  path, _, text = args.config.partition(":")
  recipe = config_file.run(path, text)
  if not isinstance(recipe, mask_codec.CodecRecipe):
    raise errors.ConfigError(
      f"{path}: get_config returned {type(recipe).__name__}; expected a CodecRecipe."
    )
  from paligemma_jax.models import mask_codec as jax_codec

  start = time.perf_counter()
  masks = squares(recipe.source)
  print(f"{len(masks)} masks after {time.perf_counter() - start:.0f} s", flush=True)

  def report(step: int, metrics: dict[str, float]) -> None:
    seconds = time.perf_counter() - start
    print(
      f"step {step}/{recipe.steps}: loss {metrics['loss']:.4f},"
      f" {metrics['codes']:.0f} codes in use, {seconds:.0f} s",
      flush=True,
    )

  weights = jax_codec.train(recipe, batches(recipe, masks), report)
  mask_codec.write(args.out, weights)
  iou, num_bytes = held_out_iou(recipe.held_out, args.out), args.out.stat().st_size
  print(f"mean IoU on held-out masks {iou:.4f}, {num_bytes} bytes")
  print(f"wrote {args.out}, {time.process_time():.0f} s of CPU time")


def squares(source) -> np.ndarray:
  """float32[N, 64, 64] in [-1, 1]: all masks of the source, as inputs of the codec."""
  rows = source.open()
  if not len(rows):
    raise errors.ConfigError(f"{source!r} has no rows; a codec needs masks.")
  return np.stack([seg.to_square(rows[i]["mask"]) for i in range(len(rows))])


def batches(recipe: mask_codec.CodecRecipe, masks: np.ndarray) -> Iterator[np.ndarray]:
  """Endless batches; each mask is mirrored and transposed in one of 8 ways."""
  step = 0
  while True:
    rng = prng.generator(recipe.seed, step)
    batch = masks[rng.integers(0, len(masks), recipe.batch_size)]
    for axis in (1, 2):
      which = rng.random(len(batch)) < 0.5
      batch[which] = np.flip(batch[which], axis)
    which = rng.random(len(batch)) < 0.5
    batch[which] = batch[which].swapaxes(1, 2)
    yield batch
    step += 1


def held_out_iou(source, path: pathlib.Path) -> float:
  """Mean IoU of the masks, at their own sizes, with their reconstructions by the codec file."""
  codec = mask_codec.open_codec(str(path))
  rows = source.open()
  masks = [rows[i]["mask"] for i in range(len(rows))]
  decoded = codec.decode(codec.encode(np.stack([seg.to_square(mask) for mask in masks])))
  again = [seg.from_square(d, *mask.shape) for d, mask in zip(decoded, masks, strict=True)]
  ious = [(a & b).sum() / (a | b).sum() for a, b in zip(masks, again, strict=True)]
  return float(np.mean(ious))


if __name__ == "__main__":
  errors.run_main(main)
