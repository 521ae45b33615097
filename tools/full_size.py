"""Writes, loads and runs random weights of a published size; prints time and memory.

    python tools/full_size.py                       # npz and Hugging Face directory, 3B, bfloat16
    python tools/full_size.py --formats npz --variant paligemma2_3b

Prints one JSON line per format. `load_peak_ratio` is the growth of the process's peak memory during
loading, as a multiple of the parameters' size. A 3B model needs 6 GB of disk and, on CPU, 19 GB of
memory to run, because XLA converts the weights to float32 there and keeps the copies.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from paligemma_jax.checkpoint import export
from paligemma_jax.checkpoint import reader
from paligemma_jax.models import param_table
from paligemma_jax.models import variants

_SHARD_BYTES = 5 << 30  # The size of transformers' shards.
_PAD_ROWS = 64  # Released embedding tables have rows after the vocabulary.


class RandomArray:
  """An array of bfloat16 noise that is generated when it is sliced."""

  dtype = reader.BFLOAT16
  _noise = None

  def __init__(self, shape: tuple[int, ...], seed: int):
    self.shape = shape
    self._seed = seed
    if RandomArray._noise is None:
      noise = np.random.default_rng(0).standard_normal(1 << 24, dtype=np.float32) * 0.02
      RandomArray._noise = noise.astype(reader.BFLOAT16)

  def __getitem__(self, rows: slice) -> np.ndarray:
    start, stop, _ = rows.indices(self.shape[0])
    row_size = math.prod(self.shape[1:])
    first = (self._seed * 7919 + start * row_size) % len(self._noise)
    size = (stop - start) * row_size
    repeats = -(-(first + size) // len(self._noise))
    flat = self._noise[first : first + size] if repeats == 1 else None
    if flat is None:
      flat = np.resize(np.roll(self._noise, -first), size)
    return flat.reshape(stop - start, *self.shape[1:])


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--variant", default="paligemma_3b", choices=sorted(variants.VARIANTS))
  parser.add_argument("--res", type=int, default=224)
  parser.add_argument("--formats", default="npz,hf")
  parser.add_argument("--new_tokens", type=int, default=8)
  parser.add_argument("--folder", default="", help="where to write; default: a temporary folder")
  parser.add_argument("--measure", default="", help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.measure:
    print(json.dumps(measure(pathlib.Path(args.measure), args.new_tokens)), flush=True)
    return
  for kind in args.formats.split(","):
    folder = pathlib.Path(tempfile.mkdtemp(prefix="full_size_", dir=args.folder or None))
    try:
      start = time.monotonic()
      path = {"npz": make_npz, "hf": make_hf}[kind](folder, sizes(args.variant, args.res))
      wrote_secs = time.monotonic() - start
      command = [sys.executable, __file__, "--measure", str(path)]
      command += ["--new_tokens", str(args.new_tokens)]
      done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
      result = json.loads(done.stdout.splitlines()[-1])
      print(
        json.dumps(
          {
            "variant": args.variant,
            "res": args.res,
            "format": kind,
            "write_seconds": round(wrote_secs, 1),
            **result,
          }
        ),
        flush=True,
      )
    finally:
      shutil.rmtree(folder)


def sizes(variant: str, res: int) -> dict:
  """The sizes of a variant, as `models.param_table` has them."""
  model_config = variants.get(variant, res=res)
  return {
    "img": dataclasses.asdict(model_config.img),
    "llm": dataclasses.asdict(model_config.llm),
    "res": res,
  }


def make_npz(folder: pathlib.Path, model: dict) -> pathlib.Path:
  """Writes a random bfloat16 npz in the published format."""
  arrays = {n: RandomArray(s, i) for i, (n, s) in enumerate(param_table.shapes(model).items())}
  return export.save_npz(folder / "random.npz", arrays)


def make_hf(folder: pathlib.Path, model: dict) -> pathlib.Path:
  """Writes a random bfloat16 Hugging Face directory, in shards, with padded embeddings."""
  llm, img = model["llm"], model["img"]
  dims = param_table.dims_of(model)
  dims["V"] += _PAD_ROWS
  shapes = {}
  for row in param_table.rows(model).values():
    layers = dims[row.shape[0]] if "{i}" in row.hf[0] else 1
    for i in range(layers):
      for their in row.hf:
        shapes[their.format(i=i)] = param_table.their_shape(row.layout, dims)
  shards, used = [{}], 0
  for name, shape in shapes.items():
    num_bytes = 2 * math.prod(shape)
    if used and used + num_bytes > _SHARD_BYTES:
      shards.append({})
      used = 0
    shards[-1][name] = shape
    used += num_bytes
  weight_map = {}
  for i, shard in enumerate(shards):
    file = f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
    _write_safetensors(folder / file, shard)
    weight_map.update({name: file for name in shard})
  _write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})
  text = {
    "model_type": "gemma2" if llm["post_norms"] else "gemma",
    "hidden_size": llm["width"],
    "num_hidden_layers": llm["depth"],
    "intermediate_size": llm["mlp_dim"],
    "num_attention_heads": llm["num_heads"],
    "num_key_value_heads": llm["num_kv_heads"],
    "head_dim": llm["head_dim"],
    "vocab_size": dims["V"],
  }
  vision = {
    "hidden_size": img["width"],
    "num_hidden_layers": img["depth"],
    "intermediate_size": img["mlp_dim"],
    "num_attention_heads": img["num_heads"],
    "patch_size": img["patch_size"],
    "image_size": model["res"],
  }
  config = {"model_type": "paligemma", "text_config": text, "vision_config": vision}
  _write_json(folder / "config.json", config)
  return folder


def measure(path: pathlib.Path, new_tokens: int) -> dict:
  """Loads, runs one forward pass and generates; returns times and memory of this process."""
  import jax

  from paligemma_jax import api

  jax.device_put(np.zeros(1)).block_until_ready()
  before = peak_bytes()
  start = time.monotonic()
  pg = api.load(path, dtype="bfloat16")
  load_secs = time.monotonic() - start
  load_peak = peak_bytes()
  params_bytes = sum(array.nbytes for array in pg.params.values())
  image = np.random.default_rng(1).integers(0, 256, (1, pg.config.res, pg.config.res, 3), np.uint8)
  tokens = np.array([[2, 4521, 659, 108]], np.int32)
  start = time.monotonic()
  logits = np.asarray(pg.logits(image, tokens, np.zeros_like(tokens)))
  forward_secs = time.monotonic() - start
  assert logits.shape == (1, 4, pg.config.llm.vocab_size) and np.isfinite(logits).all()
  start = time.monotonic()
  (prediction,) = pg.generate(image, [tokens[0].tolist()], max_new_tokens=new_tokens)
  return {
    "params_bytes": params_bytes,
    "load_seconds": round(load_secs, 1),
    "load_peak_bytes": load_peak,
    "load_peak_ratio": round((load_peak - before) / params_bytes, 3),
    "forward_seconds": round(forward_secs, 1),
    "generate_seconds": round(time.monotonic() - start, 1),
    "generated_tokens": len(prediction.tokens),
    "peak_bytes": peak_bytes(),
  }


def peak_bytes() -> int:
  """The largest resident memory of this process so far, in bytes (Linux)."""
  for line in pathlib.Path("/proc/self/status").read_text().splitlines():
    if line.startswith("VmHWM:"):
      return int(line.split()[1]) * 1024
  raise RuntimeError("no VmHWM in /proc/self/status")


def _write_safetensors(path: pathlib.Path, shapes: dict) -> None:
  header, at = {}, 0
  for name, shape in shapes.items():
    end = at + 2 * math.prod(shape)
    header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, end]}
    at = end
  raw = json.dumps(header).encode()
  with open(path, "wb") as file:
    file.write(len(raw).to_bytes(8, "little") + raw)
    for i, shape in enumerate(shapes.values()):
      array = RandomArray(shape, i)
      step = reader.rows_per_block(shape, 2)
      for row in range(0, shape[0], step):
        file.write(np.ascontiguousarray(array[row : row + step]).view(np.uint8))


def _write_json(path: pathlib.Path, content: dict) -> None:
  path.write_text(json.dumps(content, indent=2))


if __name__ == "__main__":
  main()
