"""Our side of input.py: the loader of the train command, over rows in memory."""

from __future__ import annotations

import os

import numpy as np

from paligemma_jax import pp
from paligemma_jax.core import process
from paligemma_jax.data import loader
from paligemma_jax.data import tokenizer as tokenizers
from tools.bench import input as input_lib
from tools.bench import models
from tools.bench import photos
from tools.bench import side


def prepare():
  """Makes the files; the task turns each into part of a batch. Answers the mean of some pixels."""
  args = input_lib.parser().parse_args()
  files = photos.make(args.files)
  rows = [files[i % len(files)] for i in range(args.images)]
  ops = (pp.Decode(), pp.Resize(models.MODELS[args.model].res, method=args.method))
  tokenizer = tokenizers.Tokenizer(os.fspath(input_lib.TOKENIZER))

  def task():
    # Unlike TrainLoader this ends, so nothing is read ahead for the next run.
    batches = loader.eval_batches(
      rows,
      ops,
      tokenizer,
      encoding="train",
      batch_size=args.batch_size,
      text_len=input_lib.TEXT_LEN,
      num_threads=args.num_threads,
    )
    return float(np.mean([batch["image"][:, ::16, ::16].mean() for batch, _ in batches]))

  return {"numpy": np.__version__, "file_kb": photos.mean_kb(files)}, task


if __name__ == "__main__":
  process.use_huge_pages()
  side.serve(prepare)
