"""Our side of decode.py."""

from __future__ import annotations

import jax
import jaxlib
import numpy as np

from paligemma_jax import api
from paligemma_jax.core import process
from paligemma_jax.decoding import generate
from tools.bench import decode
from tools.bench import side


def prepare():
  """Loads; the task is one batch, from pixels on the host to tokens on the host."""
  args = decode.parser().parse_args()
  pg = api.load(args.weights, dtype=args.dtype)
  image, text = decode.inputs(args)
  batch = {
    "image": image,
    "text": text,
    "mask_ar": np.zeros_like(text),
    "mask_input": np.ones_like(text),
  }
  run = generate.make_generate(pg.config, generate.Options(args.new_tokens), eos_id=-1)

  def task():
    return np.asarray(run(pg.params, batch)["tokens"]).tolist()

  return {"jax": jax.__version__, "jaxlib": jaxlib.__version__}, task


if __name__ == "__main__":
  process.use_huge_pages()
  side.serve(prepare, gpu_peak=side.jax_peak)
