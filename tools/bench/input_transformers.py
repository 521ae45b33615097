"""transformers' side of input.py: Pillow's decoder and PaliGemmaProcessor."""

from __future__ import annotations

import io
import pathlib
import shutil
import tempfile

import numpy as np
import torch
import transformers
from PIL import Image

from tools.bench import input as input_lib
from tools.bench import models
from tools.bench import photos
from tools.bench import side


def prepare():
  """Makes the files; the task turns each into part of a batch. Answers the mean of some pixels."""
  args = input_lib.parser().parse_args()
  model_config = models.MODELS[args.model]
  files = photos.make(args.files)
  rows = [files[i % len(files)] for i in range(args.images)]
  torch.set_num_threads(1)
  processor = transformers.PaliGemmaProcessor(_images(model_config), _tokenizer())

  def batch_of(part):
    return processor(
      images=[Image.open(io.BytesIO(row["image"])).convert("RGB") for row in part],
      text=["<image>" + row["prefix"] for row in part],
      suffix=[row["suffix"] for row in part],
      padding="longest",
      return_tensors="pt",
    )

  def task():
    size = args.batch_size
    batches = (batch_of(rows[start : start + size]) for start in range(0, len(rows), size))
    means = [batch["pixel_values"][..., ::16, ::16].mean().item() for batch in batches]
    return (float(np.mean(means)) + 1) * 127.5

  facts = {
    "torch": torch.__version__,
    "transformers": transformers.__version__,
    "image_processor": type(processor.image_processor).__name__,
    "file_kb": photos.mean_kb(files),
  }
  return facts, task


def _images(model_config):
  made = transformers.SiglipImageProcessor(
    size={"height": model_config.res, "width": model_config.res}
  )
  made.image_seq_length = model_config.num_image_tokens
  return made


def _tokenizer():
  with tempfile.TemporaryDirectory() as folder:
    shutil.copy(input_lib.TOKENIZER, pathlib.Path(folder) / "tokenizer.model")
    return transformers.GemmaTokenizer.from_pretrained(folder)


if __name__ == "__main__":
  side.serve(prepare)
