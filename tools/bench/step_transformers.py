"""transformers' side of step.py: PyTorch, with what its Trainer does by default."""

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
  device = torch.device("cuda" if args.device == "gpu" else "cpu")
  is_half = args.dtype == "bfloat16"
  kept = torch.bfloat16 if is_half and args.tune == "lora" else torch.float32
  model = transformers.PaliGemmaForConditionalGeneration.from_pretrained(args.weights, dtype=kept)
  model = model.to(device).train()
  image_token_id = model.config.image_token_id
  attention = model.config._attn_implementation
  learning_rate = args.lr
  if args.tune == "lora":
    model, learning_rate = adapted(model), 10 * args.lr  # As our preset has it.
  trainable = [p for p in model.parameters() if p.requires_grad]
  optimizer = torch.optim.AdamW(
    trainable, lr=learning_rate, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, fused=True
  )
  batch = step.batch(args)
  given = inputs(batch, models.MODELS[args.model].num_image_tokens, image_token_id)
  given = {name: x.to(device) for name, x in given.items()}

  def task():
    pixels = torch.tensor(batch["image"].transpose(0, 3, 1, 2)).to(device).float() / 127.5 - 1
    with torch.autocast(device.type, torch.bfloat16, enabled=is_half):
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
    "attention": attention,
    "parameters": sum(p.numel() for p in model.parameters()),
    "trained": sum(p.numel() for p in trainable),
  }
  return facts, task


def adapted(model: torch.nn.Module) -> torch.nn.Module:
  """The model with PEFT's adapters where our preset `lora` has them."""
  import peft

  config = peft.LoraConfig(
    r=16,
    lora_alpha=32,
    target_modules=r".*language_model.*\.(q|k|v|o|gate|up|down)_proj",
  )
  return peft.get_peft_model(model, config)


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
  side.serve(prepare, gpu_peak=torch.cuda.max_memory_allocated)
