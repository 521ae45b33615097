"""transformers' side of step.py: PyTorch on the CPU, with what its Trainer does by default."""

from __future__ import annotations

import numpy as np
import torch
import transformers

from tools.bench import models
from tools.bench import side
from tools.bench import step

_IGNORED = -100  # The label of what is not supervised.


def prepare():
  """Loads; the task is one step, from pixels on the host to the loss and new parameters."""
  args = step.parser().parse_args()
  model = transformers.PaliGemmaForConditionalGeneration.from_pretrained(
      args.weights, dtype=torch.float32
  ).train()
  trainable = [p for p in model.parameters() if p.requires_grad]
  optimizer = torch.optim.AdamW(
      trainable, lr=args.lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, fused=True
  )
  batch = step.batch(args)
  given = inputs(batch, models.MODELS[args.model].num_image_tokens, model.config.image_token_id)

  def task():
    pixels = torch.tensor(batch["image"].transpose(0, 3, 1, 2)).float() / 127.5 - 1
    loss = model(**given, pixel_values=pixels).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(trainable, 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()

  facts = {
      "torch": torch.__version__,
      "transformers": transformers.__version__,
      "threads": torch.get_num_threads(),
      "attention": model.config._attn_implementation,
      "parameters": sum(p.numel() for p in model.parameters()),
  }
  return facts, task


def inputs(
    batch: dict[str, np.ndarray], num_image_tokens: int, image_token_id: int
) -> dict[str, torch.Tensor]:
  """What the model's processor would make of the batch, but for the pixels."""
  text, learned, answer = (batch[k][:, :-1] for k in ("text", "mask_loss", "mask_ar"))
  shape = (len(text), num_image_tokens)

  def after_image(fill, values):
    return torch.tensor(np.concatenate([np.full(shape, fill), values], axis=1))

  ids = after_image(image_token_id, text)
  return {
      "input_ids": ids,
      "attention_mask": torch.ones_like(ids),
      "token_type_ids": after_image(0, answer),
      "labels": after_image(_IGNORED, np.where(learned > 0, text, _IGNORED)),
  }


if __name__ == "__main__":
  side.serve(prepare)
