"""The schema: every key a configuration can hold, with its default, its meaning and its limits.

This table is the only place of a default. `config.default_config` turns it into a ConfigDict,
`validation.validate` checks values against it, `--help-config` prints it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from paligemma_jax.core import errors


@dataclasses.dataclass(frozen=True)
class Key:
  """One key of the configuration.

  Attributes:
    default: the value when nothing is said; its type is the type of the key.
    text: what it means, for people.
    choices: the legal strings; () for any.
    low: the least legal number.
    high: the greatest legal number.
    form: what the type does not say: "duration", "regex" (a tuple of them), "rules" (pairs of
      regex and number >= 0), "axes" (pairs of name and size), "lengths" (rising positive ints),
      "spec" (one, or None), "specs" (a tuple of them), "code" (a function of the user's, a text
      'module:name' of one, a spec that can be called, or None), "free" (a dict of any keys), ""
      for plain.
    resume: what a change between saving and resuming a run does: "refuse" when the rest of the
      run would no longer be the run that was started, "data" when it would be with other rows
      (which --allow_data_change allows), "warn" when that is a thing people do on purpose, "allow"
      when training is not touched.
  """

  default: Any
  text: str
  choices: tuple[str, ...] = ()
  low: float | None = None
  high: float | None = None
  form: str = ""
  resume: str = "refuse"


# Fields of sources that say where something lies; what lies there decides whether it is the same.
PLACES = ("path", "images", "videos", "root", "data_dir")

SCHEMA: Mapping[str, Key | Mapping[str, Key]] = {
  "seed": Key(
    0, "Row order, augmentation, dropout and initial weights follow from it.", low=0, high=2**63 - 1
  ),
  "model": {
    "variant": Key("tiny", "Which model; the sizes of a name are in models/variants.py."),
    "res": Key(112, "Side of the square image in pixels; a multiple of the patch.", low=1),
    "dropout": Key(0.0, "Share of activations dropped in the decoder.", low=0, high=0.99),
    "dtype": Key(
      "auto",
      "Compute dtype; auto: bfloat16 on TPU and GPU, float32 on CPU.",
      choices=("auto", "bfloat16", "float32"),
    ),
    "remat": Key(
      "auto",
      "Recompute activations in the backward pass instead of keeping them.",
      choices=("auto", "none", "dots", "full"),
      resume="allow",
    ),
    "attention": Key(
      "auto",
      "Logits of attention all at once (plain), by chunks of queries (chunked), never written"
      " (flash: the device's kernel, where it has one); auto: by length and device.",
      choices=("auto", "plain", "chunked", "flash"),
      resume="allow",
    ),
    "vocab_size": Key(0, "Rows of the embedding table; 0: the variant's own.", low=0),
    "final_logits_softcap": Key(
      -1.0, "Cap of the final logits, 0 for none; -1: the variant's own.", low=-1
    ),
    "attn_logits_softcap": Key(
      -1.0,
      "Cap of the logits of attention in the decoder, 0 for none; -1: the variant's own.",
      low=-1,
    ),
    "quantize": Key(
      "",
      "Keep matrices that do not train in 4 or 8 bits; '': in the compute dtype.",
      choices=("", "nf4", "int8", "int4"),
    ),
    "quantize_targets": Key((".*",), "Matrices (and embedding table) so kept.", form="regex"),
    "overrides": Key({}, "Sizes that differ from the variant: {'llm': {'depth': 2}}.", form="free"),
  },
  "lora": {
    "rank": Key(0, "Rank of the adapters; 0: there are none.", low=0),
    "alpha": Key(16.0, "Adapters are scaled by alpha / rank.", low=0),
    "rslora": Key(False, "Scale by alpha / sqrt(rank) instead, for high ranks."),
    "dora": Key(False, "Train the length of each output's weights apart from its direction."),
    "dropout": Key(0.0, "Share of an adapter's inputs dropped.", low=0, high=0.99),
    "targets": Key((), "Matrices that get an adapter.", form="regex"),
  },
  "init": Key(
    "", "Weights to start from: a path, a published name, an id on the hub; '': from scratch."
  ),
  "init_fresh": Key((), "Parameters that start new instead of being read from init.", form="regex"),
  "init_only": Key(
    (), "Parameters that are read from init, the others start new; (): all.", form="regex"
  ),
  "tokenizer": Key(
    "", "SentencePiece file; '': the one beside init, else the embedded one.", resume="data"
  ),
  "train": {
    "source": Key(
      None, "The training rows: a spec of paligemma_jax.sources.", form="spec", resume="data"
    ),
    "pp": Key(
      (), "Row ops, in order; they end in image, prefix and suffix.", form="specs", resume="data"
    ),
    "text_len": Key(64, "Tokens of prefix and suffix together, per row.", low=2),
    "batch_size": Key(32, "Rows per step over all hosts and devices.", low=1),
    "total": Key(
      "", "Length of the run: '15 epochs', '2000 steps', ….", form="duration", resume="warn"
    ),
    "overflow": Key(
      "error",
      "What happens to a row longer than text_len; truncate keeps the end of text, cut does"
      " not, as in the reference.",
      choices=("error", "truncate", "cut", "drop"),
    ),
    "bad_rows": Key(
      0, "How many unreadable rows are put up with before the run stops.", low=0, resume="allow"
    ),
    "shuffle": Key(True, "Rows in a new random order every epoch, else in file order."),
    "buckets": Key(
      (),
      "Lengths to pad text to, the least that fits; (): text_len. In evaluation too.",
      form="lengths",
    ),
    "num_workers": Key(0, "Processes that read rows; 0: threads only.", low=0, resume="allow"),
    "num_threads": Key(2, "Threads that prepare rows, per process.", low=1, resume="allow"),
    "cache_image_features": Key(
      "",
      "Where to keep what a vision tower that does not train makes of each image, so that"
      " it runs once per image: 'memory' or a folder; '': nowhere.",
      resume="allow",
    ),
    "feature_cache_gb": Key(
      8.0,
      "Most that this takes, in GB, per process; what is over is computed again.",
      low=0,
      resume="allow",
    ),
    "stall_secs": Key(
      60.0,
      "Seconds without a row after which the run ends; in evaluation too.",
      low=1,
      resume="allow",
    ),
    "prefetch": Key(4, "Batches prepared ahead of the step.", low=0, resume="allow"),
    "grad_accum_steps": Key(1, "Parts a batch is cut into to save memory; same gradient.", low=1),
    "loss": Key(
      None,
      "A loss of your own, 'module:function': (logits, targets) -> loss of each token; None:"
      " the negative log likelihood.",
      form="code",
    ),
  },
  "optim": {
    "name": Key("adam", "The optimizer.", choices=("adam", "adam8bit", "adafactor", "sgd")),
    "custom": Key(
      None,
      "An optimizer of your own in place of name, 'module:function': (optim) ->"
      " optax.GradientTransformation.",
      form="code",
    ),
    "lr": Key(0.0, "Learning rate at the peak of the schedule.", low=0, resume="warn"),
    "wd": Key(
      0.0, "Weight decay; scaled by the schedule, not by lr.", low=0, high=1, resume="warn"
    ),
    "wd_names": Key(
      (".*/kernel",), "Parameters that weight decay acts on.", form="regex", resume="warn"
    ),
    "b1": Key(
      0.9,
      "Adam, Adafactor (0: no mean kept): decay of the mean of gradients.",
      low=0,
      high=1,
      resume="warn",
    ),
    "b2": Key(
      0.999,
      "Adam: decay of the mean of squares; Adafactor: its greatest.",
      low=0,
      high=1,
      resume="warn",
    ),
    "eps": Key(
      1e-8,
      "Adam: added to the root of the mean of squares; Adafactor: to squares.",
      low=0,
      resume="warn",
    ),
    "momentum": Key(0.0, "SGD: decay of the sum of gradients; 0: none kept.", low=0, high=1),
    "mu_dtype": Key(
      "float32", "Dtype of the first moment (mean or momentum).", choices=("float32", "bfloat16")
    ),
    "rms_clip": Key(
      0.0, "Adafactor: largest root mean square of a leaf's update; 0: any.", low=0, resume="warn"
    ),
    "ema": Key(
      0.0,
      "Decay of a moving average of the trainable parameters, to evaluate and export; 0: off.",
      low=0,
      high=1,
    ),
    "grad_clip_norm": Key(
      1.0, "Largest global norm of the gradient; 0: any.", low=0, resume="warn"
    ),
    "label_smoothing": Key(
      0.0, "Share of the target given to all tokens alike.", low=0, high=0.99, resume="warn"
    ),
    "schedule": Key(
      "cosine",
      "Course of the learning rate after warm-up.",
      choices=("cosine", "linear", "constant", "rsqrt"),
      resume="warn",
    ),
    "custom_schedule": Key(
      None,
      "A course of your own in place of schedule, 'module:function': (step, total) -> share of lr.",
      form="code",
      resume="warn",
    ),
    "warmup": Key(
      "5%", "Rise of the learning rate from 0 at the start.", form="duration", resume="warn"
    ),
    "schedule_start": Key(
      0,
      "Schedule step of the first update; 0: it has lr 0 when there is a warm-up.",
      low=0,
      high=1,
      resume="warn",
    ),
    "schedule_end": Key(0.0, "linear: share of lr at the end.", low=0, high=1, resume="warn"),
    "rsqrt_timescale": Key(
      10000, "rsqrt: steps after which lr begins to fall.", low=1, resume="warn"
    ),
    "cooldown": Key(
      "", "Fall of the learning rate to 0 at the end.", form="duration", resume="warn"
    ),
    "freeze": Key((), "Parameters that do not train.", form="regex"),
    "train_only": Key((), "Parameters that train, all others do not; (): all.", form="regex"),
    "lr_mults": Key(
      (), "Pairs (regex, factor on lr); the first that matches counts.", form="rules", resume="warn"
    ),
    "nonfinite_in_a_row": Key(
      3,
      "Steps in a row with a non-finite loss or gradient that end the run.",
      low=1,
      resume="allow",
    ),
    "nonfinite_share": Key(
      0.001, "Share of such steps in the run that ends it.", low=0, high=1, resume="allow"
    ),
  },
  "mesh": {
    "shape": Key(
      (),
      "Pairs of axis (data, fsdp, tensor) and size, -1: the rest; (): all on 'fsdp'.",
      form="axes",
      resume="allow",
    )
  },
  "ckpt": {
    "every": Key(
      "1000 steps", "How often state is saved; always at the end.", form="duration", resume="allow"
    ),
    "keep": Key(2, "Newest checkpoints that are kept.", low=1, resume="allow"),
    "best": Key(
      "", "Metric whose best checkpoint is kept too, as in 'val/acc/acc'; '': none.", resume="allow"
    ),
    "best_mode": Key(
      "max", "Which value of that metric is best.", choices=("max", "min"), resume="allow"
    ),
    "async_save": Key(True, "Write checkpoints while training goes on.", resume="allow"),
    "export": Key(
      "",
      "Write the weights at the end also in this format; '': no.",
      choices=("", "npz"),
      resume="allow",
    ),
  },
  "log": {
    "every": Key("50 steps", "How often metrics are written.", form="duration", resume="allow"),
    "tensorboard": Key(True, "Write TensorBoard files too.", resume="allow"),
    "trackers": Key(
      (), "Specs of other trackers of the metrics; see extending.md.", form="specs", resume="allow"
    ),
  },
  "evals": Key(
    (),
    "Evaluators: specs of paligemma_jax.evals; --config.evals=none switches them off.",
    form="specs",
    resume="allow",
  ),
}


def flat() -> dict[str, Key]:
  """{'optim.lr': Key(...)}: every key by its dotted path, in the order of the schema."""
  keys = {}
  for name, entry in SCHEMA.items():
    if isinstance(entry, Key):
      keys[name] = entry
    else:
      keys.update({f"{name}.{child}": key for child, key in entry.items()})
  return keys


def code() -> tuple[str, ...]:
  """The dotted paths of the keys that hold functions of the user's."""
  return tuple(path for path, key in flat().items() if key.form == "code")


def sections() -> dict[str, tuple[str, ...]]:
  """{'': top-level names, 'optim': its keys, ...}."""
  named = {name: tuple(entry) for name, entry in SCHEMA.items() if not isinstance(entry, Key)}
  return {"": tuple(SCHEMA), **named}


# Keys that had another name in older versions: what those saved is read, what is written is not.
RENAMED = {
  "model.packed": "model.quantize",
  "model.packed_names": "model.quantize_targets",
  "train.accum": "train.grad_accum_steps",
  "train.img_cache": "train.cache_image_features",
  "train.img_cache_gb": "train.feature_cache_gb",
  "optim.clip": "optim.grad_clip_norm",
}

# How other libraries and older versions call what these keys say.
_ELSEWHERE = {
  **{old.rpartition(".")[2]: new for old, new in RENAMED.items()},
  "learning_rate": "optim.lr",
  "weight_decay": "optim.wd",
  "adam_beta1": "optim.b1",
  "adam_beta2": "optim.b2",
  "adam_epsilon": "optim.eps",
  "max_grad_norm": "optim.grad_clip_norm",
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
  "gradient_accumulation_steps": "train.grad_accum_steps",
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
    key: the misspelled last part, such as 'lrr'.
    section: where it stood, such as 'optim'; '' for the top.
  """
  path = f"{section}.{key}" if section else key
  here = [f"{section}.{name}" if section else name for name in sections()[section]]
  close = _like(key, here)
  if not close:  # Perhaps the right key in the wrong section: c.lr for c.optim.lr.
    close = _like(key, [*flat(), *SCHEMA])
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
