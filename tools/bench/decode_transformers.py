"""transformers' side of decode.py, with its defaults: PyTorch, fused attention."""

from __future__ import annotations

import numpy as np
import torch
import transformers

from tools.bench import decode
from tools.bench import models
from tools.bench import side


def prepare():
  """Loads; the task is one batch, from pixels on the host to tokens on the host."""
  args = decode.parser().parse_args()
  device = torch.device("cuda" if args.device == "gpu" else "cpu")
  model = transformers.PaliGemmaForConditionalGeneration.from_pretrained(
    args.weights, dtype=getattr(torch, args.dtype)
  )
  model = model.to(device).eval()
  model.generation_config.eos_token_id = None
  model_config = models.MODELS[args.model]
  image, text = decode.inputs(args)
  placeholders = np.full((len(text), model_config.num_image_tokens), model.config.image_token_id)
  ids = torch.tensor(np.concatenate([placeholders, text], axis=1)).to(device)
  given = {
    "input_ids": ids,
    "attention_mask": torch.ones_like(ids),
    "token_type_ids": torch.zeros_like(ids),
  }

  @torch.inference_mode()
  def task():
    pixels = torch.tensor(image.transpose(0, 3, 1, 2)).to(device, model.dtype) / 127.5 - 1
    out = model.generate(
      **given, pixel_values=pixels, max_new_tokens=args.new_tokens, do_sample=False
    )
    return out[:, ids.shape[1] :].tolist()

  facts = {
    "torch": torch.__version__,
    "transformers": transformers.__version__,
    "threads": torch.get_num_threads(),
    "attention": model.config._attn_implementation,
  }
  return facts, task


if __name__ == "__main__":
  side.serve(prepare, gpu_peak=torch.cuda.max_memory_allocated)
