"""What a person who wrote a key that does not exist probably meant."""

from __future__ import annotations

from paligemma_jax.config import schema
from paligemma_jax.core import errors

# How other libraries call what these keys say.
_ELSEWHERE = {
    "learning_rate": "optim.lr",
    "weight_decay": "optim.wd",
    "adam_beta1": "optim.b1",
    "adam_beta2": "optim.b2",
    "adam_epsilon": "optim.eps",
    "max_grad_norm": "optim.clip",
    "grad_clip_norm": "optim.clip",
    "warmup_steps": "optim.warmup",
    "warmup_ratio": "optim.warmup",
    "lr_scheduler_type": "optim.schedule",
    "optimizer": "optim.name",
    "frozen": "optim.freeze",
    "num_train_epochs": "train.total",
    "epochs": "train.total",
    "max_steps": "train.total",
    "total_steps": "train.total",
    "per_device_train_batch_size": "train.batch_size",
    "gradient_accumulation_steps": "train.accum",
    "dataloader_num_workers": "train.num_workers",
    "max_seq_length": "train.text_len",
    "max_length": "train.text_len",
    "dataset": "train.source",
    "image_size": "model.res",
    "resolution": "model.res",
    "precision": "model.dtype",
    "gradient_checkpointing": "model.remat",
    "attn_implementation": "model.attention",
    "lora_alpha": "lora.alpha",
    "lora_dropout": "lora.dropout",
    "target_modules": "lora.targets",
    "lora_rank": "lora.rank",
    "save_steps": "ckpt.every",
    "save_total_limit": "ckpt.keep",
    "metric_for_best_model": "ckpt.best",
    "logging_steps": "log.every",
    "pretrained": "init",
}


def unknown_key(key: str, section: str = "") -> str:
  """One sentence: the key does not exist, the nearest that do, with their full dotted paths.

  Args:
    key: the misspelt last part, such as 'lrr'.
    section: where it stood, such as 'optim'; '' for the top.
  """
  path = f"{section}.{key}" if section else key
  here = [f"{section}.{name}" if section else name for name in schema.sections()[section]]
  close = _like(key, here)
  if not close:  # Perhaps the right key in the wrong section: c.lr for c.optim.lr.
    close = _like(key, [*schema.flat(), *schema.SCHEMA])
  if close:
    hint = " Did you mean " + " or ".join(repr(c) for c in close) + "?"
  else:
    hint = f" Known: {', '.join(repr(h) for h in here)}."
  return f"There is no key {path!r}.{hint}"


def _like(key: str, paths: list[str]) -> list[str]:
  """Up to three paths whose last part is like `key`, best first; exact and swapped ones first."""
  by_leaf: dict[str, list[str]] = {}
  for path in paths:
    by_leaf.setdefault(path.rpartition(".")[2], []).append(path)
  for name, path in _ELSEWHERE.items():
    if path in paths:
      by_leaf.setdefault(name, []).append(path)
  leaves = [leaf for leaf in by_leaf if leaf == key]
  leaves += [leaf for leaf in by_leaf if sorted(leaf) == sorted(key) and leaf not in leaves]
  leaves += [leaf for leaf in errors.near(key, by_leaf) if leaf not in leaves]
  return [path for leaf in leaves[:3] for path in dict.fromkeys(by_leaf[leaf])][:3]
