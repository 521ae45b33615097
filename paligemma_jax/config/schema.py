"""The schema: every key with its default, its meaning and its limits; and durations in steps.

Defaults are only here. `load.default_config` makes a ConfigDict of this table,
`validation.validate` checks values against it, and `--help-config` prints it.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

from paligemma_jax.core import errors


@dataclasses.dataclass(frozen=True)
class Key:
  """One key of the configuration.

  Attributes:
    default: also gives the type of the key.
    text: its meaning, for --help-config.
    choices: the legal strings; () for any.
    low, high: the least and the greatest legal number.
    form: "" where the type says all; "duration", "steps", "regex" (a tuple of them), "rules"
      (pairs of regex and number >= 0), "axes" (pairs of name and size), "lengths" (rising positive
      ints), "spec" (one, or None), "specs" (a tuple of them), "trackers" (the same, or names),
      "code" (a function of the user's, its name 'module:name', a spec that can be called, or None),
      "free" (a dict of any keys).
    resume: the effect of a change before a run is resumed: "refuse" when it would be another run,
      "data" when it would train on other rows (which --allow_data_change allows), "warn" when
      people change it on purpose, "allow" when it does not affect training.
  """

  default: Any
  text: str
  choices: tuple[str, ...] = ()
  low: float | None = None
  high: float | None = None
  form: str = ""
  resume: str = "refuse"


# The names of those in paligemma_jax.trackers.
TRACKERS = ("mlflow", "trackio", "wandb")

# Fields of sources that are paths; the content there decides whether the data is the same.
PLACES = ("path", "images", "videos", "root", "data_dir")

SCHEMA: Mapping[str, Key | Mapping[str, Key]] = {
  "seed": Key(0, "Seed of row order, augmentation, dropout and initial weights.",
      low=0, high=2**63 - 1),
  "model": {
    "variant": Key("tiny", "Name of the model; models/variants.py has the sizes."),
    "res": Key(112, "Side of the square image in pixels, a multiple of the patch size.", low=1),
    "dropout": Key(0.0, "Share of activations dropped in the decoder.", low=0, high=0.99),
    "dtype": Key("auto", "Compute dtype; auto: bfloat16 on TPU and GPU, float32 on CPU.",
        choices=("auto", "bfloat16", "float32")),
    "remat": Key("auto", "Recompute activations in the backward pass instead of keeping them.",
        choices=("auto", "none", "dots", "full"), resume="allow"),
    "attention": Key("auto",
        "Attention logits all at once (plain), by chunks of queries (chunked), or in a fused"
        " kernel of the device (flash); auto: by length and device.",
        choices=("auto", "plain", "chunked", "flash"), resume="allow"),
    "vocab_size": Key(0, "Rows of the embedding table; 0: the variant's own.", low=0),
    "final_logits_softcap": Key(-1.0, "Cap of the final logits, 0 for none; -1: the variant's own.",
        low=-1),
    "attn_logits_softcap": Key(-1.0,
        "Cap of the logits of attention in the decoder, 0 for none; -1: the variant's own.",
        low=-1),
    "quantize": Key("",
        "Quantize frozen matrices to 4 or 8 bits; '': keep them in the compute dtype.",
        choices=("", "nf4", "int8", "int4")),
    "quantize_targets": Key((".*",), "Frozen matrices to quantize, embedding table too.",
        form="regex"),
    "overrides": Key({}, "Sizes other than the variant's, as {'llm': {'depth': 2}}.", form="free"),
  },
  "lora": {
    "rank": Key(0, "Rank of the adapters; 0: no adapters.", low=0),
    "alpha": Key(16.0, "Adapters are scaled by alpha / rank.", low=0),
    "rslora": Key(False, "Scale by alpha / sqrt(rank) instead, for high ranks."),
    "dora": Key(False, "DoRA: train magnitude and direction of the weights apart."),
    "dropout": Key(0.0, "Share of an adapter's inputs dropped.", low=0, high=0.99),
    "targets": Key((), "Matrices that get an adapter.", form="regex"),
  },
  "init": Key("",
      "Weights to start from: a path, a published name, an id on the hub; '': from scratch."),
  "init_fresh": Key((), "Parameters to initialize instead of reading them from init.",
      form="regex"),
  "init_only": Key((), "Parameters to read from init, all others are initialized; (): all.",
      form="regex"),
  "tokenizer": Key("", "SentencePiece file; '': that of init, else the embedded one.",
      resume="data"),
  "train": {
    "source": Key(None, "The training rows: a spec of paligemma_jax.sources.",
        form="spec", resume="data"),
    "pp": Key((), "Row ops, in order; they make image, prefix and suffix.",
        form="specs", resume="data"),
    "text_len": Key(64, "Tokens of prefix and suffix together, per example.", low=2),
    "batch_size": Key(32, "Examples per step over all hosts and devices.", low=1),
    "total": Key("", "Length of the run: '15 epochs', '2000 steps', ….",
        form="duration", resume="warn"),
    "overflow": Key("error",
        "What happens to a row longer than text_len; truncate keeps the end of text, cut does not,"
        " as in the reference.", choices=("error", "truncate", "cut", "drop")),
    "bad_rows": Key(0, "Unreadable rows that are skipped before the run stops.",
        low=0, resume="allow"),
    "shuffle": Key(True, "Read rows in a new random order every epoch, else in file order."),
    "buckets": Key((),
        "Lengths to pad text to, the shortest that fits; (): text_len. Also in evaluation.",
        form="lengths"),
    "num_workers": Key(0, "Processes that read rows; 0: threads only.", low=0, resume="allow"),
    "num_threads": Key(2, "Threads that prepare rows, per process.", low=1, resume="allow"),
    "cache_image_features": Key("",
        "Where to cache the image features of a frozen vision tower, so that it runs once per"
        " image: 'memory' or a folder, also in a bucket; '': no cache.", resume="allow"),
    "feature_cache_gb": Key(8.0,
        "Limit of that cache in GB per process; features beyond it are recomputed.",
        low=0, resume="allow"),
    "stall_secs": Key(60.0, "Seconds without a row after which the run ends, also in evaluation.",
        low=1, resume="allow"),
    "prefetch": Key(4, "Batches prepared ahead of the step.", low=0, resume="allow"),
    "grad_accum_steps": Key(1,
        "Micro-batches of a batch, to save memory; the gradient is the same.", low=1),
    "loss": Key(None,
        "A loss of your own, 'module:function': (logits, targets) -> loss of each token; None: the"
        " negative log likelihood.", form="code"),
  },
  "optim": {
    "name": Key("adam", "The optimizer.", choices=("adam", "adam8bit", "adafactor", "sgd")),
    "custom": Key(None,
        "An optimizer of your own in place of name, 'module:function': (optim) ->"
        " optax.GradientTransformation of directions, as optax.scale_by_…; lr, decay, sign follow.",
        form="code"),
    "lr": Key(0.0, "Learning rate at the peak of the schedule.", low=0, resume="warn"),
    "wd": Key(0.0, "Weight decay; scaled by the schedule, not by lr.",
        low=0, high=1, resume="warn"),
    "wd_names": Key((".*/kernel",), "Parameters that weight decay acts on.",
        form="regex", resume="warn"),
    "b1": Key(0.9, "Adam, Adafactor (0: no momentum): decay of the mean of gradients.",
        low=0, high=1, resume="warn"),
    "b2": Key(0.999, "Adam: decay of the mean of squares; Adafactor: its largest decay.",
        low=0, high=1, resume="warn"),
    "eps": Key(1e-8, "Adam: added to the root of the mean of squares; Adafactor: to squares.",
        low=0, resume="warn"),
    "momentum": Key(0.0, "SGD: decay of the sum of gradients; 0: no momentum.", low=0, high=1),
    "mu_dtype": Key("float32", "Dtype of the first moment (mean or momentum).",
        choices=("float32", "bfloat16")),
    "rms_clip": Key(0.0, "Adafactor: largest root mean square of a parameter's update; 0: any.",
        low=0, resume="warn"),
    "ema": Key(0.0,
        "Decay of a moving average of trainable parameters, evaluated and exported; 0: off.",
        low=0, high=1),
    "grad_clip_norm": Key(1.0, "Largest global norm of the gradient; 0: any.",
        low=0, resume="warn"),
    "label_smoothing": Key(0.0, "Share of the target spread evenly over all tokens.",
        low=0, high=0.99, resume="warn"),
    "schedule": Key("cosine", "Schedule of the learning rate after warm-up.",
        choices=("cosine", "linear", "constant", "rsqrt"), resume="warn"),
    "custom_schedule": Key(None,
        "A schedule of your own, 'module:function': (step, total) -> share of lr.",
        form="code", resume="warn"),
    "warmup": Key("5%", "Length of the linear rise from 0 at the start.",
        form="duration", resume="warn"),
    "schedule_start": Key(0,
        "Schedule step of the first update; 0: it has lr 0 when there is a warm-up.",
        low=0, high=1, resume="warn"),
    "schedule_end": Key(0.0, "linear: share of lr at the end.", low=0, high=1, resume="warn"),
    "rsqrt_timescale": Key(10000, "rsqrt: steps after which lr begins to fall.",
        low=1, resume="warn"),
    "cooldown": Key("", "Length of the linear fall to 0 at the end.",
        form="duration", resume="warn"),
    "freeze": Key((), "Parameters to freeze.", form="regex"),
    "train_only": Key((), "Parameters to train, all others are frozen; (): all.", form="regex"),
    "lr_mults": Key((), "Pairs (regex, factor on lr); the first match counts.",
        form="rules", resume="warn"),
    "nonfinite_in_a_row": Key(3,
        "Steps in a row with a non-finite loss or gradient that end the run.",
        low=1, resume="allow"),
    "nonfinite_share": Key(0.001, "Share of such steps in the run that ends it.",
        low=0, high=1, resume="allow"),
  },
  "mesh": {
    "shape": Key((),
        "Pairs of axis (data, fsdp, tensor) and size, -1: the rest; (): all on 'fsdp'.",
        form="axes", resume="allow"),
  },
  "ckpt": {
    "every": Key("1000 steps", "How often state is saved, besides at the end.",
        form="duration", resume="allow"),
    "keep": Key(2, "Number of newest checkpoints to keep.", low=1, resume="allow"),
    "best": Key("", "Metric whose best checkpoint is kept too, as 'val/acc/acc'; '': none.",
        resume="allow"),
    "best_mode": Key("max", "Which value of that metric is best.",
        choices=("max", "min"), resume="allow"),
    "async_save": Key(True, "Write checkpoints while training goes on.", resume="allow"),
    "export": Key("", "Also write the final weights in this format; '': no.",
        choices=("", "npz"), resume="allow"),
  },
  "log": {
    "every": Key("50 steps", "How often metrics are written.", form="duration", resume="allow"),
    "tensorboard": Key(True, "Write TensorBoard files too.", resume="allow"),
    "profile": Key("", "Trace these steps into WORKDIR/profile: 'steps 10-13'; '': none.",
        form="steps", resume="allow"),
    "trackers": Key((),
        "Where the metrics go too: 'wandb', 'trackio', 'mlflow', a spec of paligemma_jax.trackers,"
        " or one of your own.", form="trackers", resume="allow"),
  },
  "evals": Key((), "Evaluators: specs of paligemma_jax.evals; --config.evals=none removes them.",
      form="specs", resume="allow"),
}  # fmt: skip


def flat() -> dict[str, Key]:
  """{'optim.lr': Key(...)}: all keys by their dotted paths, in the order of the schema."""
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


# Names of keys in older versions, which are read from saved configurations only.
RENAMED = {
  "model.packed": "model.quantize",
  "model.packed_names": "model.quantize_targets",
  "train.accum": "train.grad_accum_steps",
  "train.img_cache": "train.cache_image_features",
  "train.img_cache_gb": "train.feature_cache_gb",
  "optim.clip": "optim.grad_clip_norm",
}

# Names of these keys in other libraries and in older versions.
_ELSEWHERE = {
  **{old.rpartition(".")[2]: new for old, new in RENAMED.items()},
  "learning_rate": "optim.lr", "weight_decay": "optim.wd", "adam_beta1": "optim.b1",
  "adam_beta2": "optim.b2", "adam_epsilon": "optim.eps", "max_grad_norm": "optim.grad_clip_norm",
  "warmup_steps": "optim.warmup", "warmup_ratio": "optim.warmup",
  "lr_scheduler_type": "optim.schedule", "optimizer": "optim.name", "frozen": "optim.freeze",
  "num_train_epochs": "train.total", "epochs": "train.total", "max_steps": "train.total",
  "total_steps": "train.total", "per_device_train_batch_size": "train.batch_size",
  "gradient_accumulation_steps": "train.grad_accum_steps",
  "dataloader_num_workers": "train.num_workers", "max_seq_length": "train.text_len",
  "max_length": "train.text_len", "dataset": "train.source", "image_size": "model.res",
  "resolution": "model.res", "precision": "model.dtype", "gradient_checkpointing": "model.remat",
  "attn_implementation": "model.attention", "lora_alpha": "lora.alpha", "lora_rank": "lora.rank",
  "lora_dropout": "lora.dropout", "target_modules": "lora.targets", "save_steps": "ckpt.every",
  "save_total_limit": "ckpt.keep", "metric_for_best_model": "ckpt.best",
  "logging_steps": "log.every", "pretrained": "init",
}  # fmt: skip


def unknown_key(key: str, section: str = "") -> str:
  """The error message for the unknown key 'lrr' in the section 'optim' ('' for the top)."""
  path = f"{section}.{key}" if section else key
  here = [f"{section}.{name}" if section else name for name in sections()[section]]
  close = _like(key, here)
  if not close:  # Perhaps the right key in the wrong section: c.lr for c.optim.lr.
    close = _like(key, [*flat(), *SCHEMA])
  if close:
    hint = f" Did you mean {' or '.join(map(repr, close))}?"
  else:
    hint = f" Known: {', '.join(map(repr, here))}."
  return f"There is no key {path!r}.{hint}"


def _like(key: str, paths: list[str]) -> list[str]:
  """Up to three paths whose last part is like `key`, best first."""
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


_DURATIONS = "'200 steps', '3 epochs', '5000 examples', '10%', 'end', or '' for never"
_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?(?:[eE]\d+)?)\s*(%|steps?|epochs?|examples?)\s*")


def parse_duration(text: str | int, what: str) -> tuple[float, str]:
  """(number, unit) with a unit of 'steps', 'epochs', 'examples', '%'; 'end' is 100 %, '' is 0.

  A ConfigError that names the key `what` where the text is no duration.
  """
  if text == "" or text is None:
    return 0.0, "steps"
  if text == "end":
    return 100.0, "%"
  if isinstance(text, int) and not isinstance(text, bool) and text >= 0:
    return float(text), "steps"
  match = _DURATION.fullmatch(text) if isinstance(text, str) else None
  if not match or math.isinf(float(match[1])):
    raise errors.ConfigError(f"{what}: {text!r} is not a duration; write {_DURATIONS}.")
  number, unit = float(match[1]), match[2]
  return number, unit if unit == "%" or unit.endswith("s") else unit + "s"


_STEPS = re.compile(r"\s*steps?\s+(\d{1,9})(?:\s*-\s*(\d{1,9}))?\s*")
_MAX_STEPS = 100  # Of a trace: more is larger than what viewers open.


def parse_steps(text: str, what: str) -> tuple[int, int]:
  """(first, last) of 'steps 10-13' or 'step 10', counted from 1; (0, 0) of ''.

  A ConfigError that names the key `what` where the text is none, or names too many steps.
  """
  if text == "":
    return 0, 0
  match = _STEPS.fullmatch(text) if isinstance(text, str) else None
  first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
  if not 1 <= first <= last:
    raise errors.ConfigError(
      f"{what}: {text!r} names no steps; write 'steps 10-13', 'step 10', or '' for none. The first"
      " is step 1."
    )
  if last - first >= _MAX_STEPS:
    raise errors.ConfigError(
      f"{what}: {text!r} are {last - first + 1} steps; at most {_MAX_STEPS} fit into a trace."
    )
  return first, last


def to_steps(
  text: str | int, what: str, *, batch_size: int, num_examples: int = 0, total_steps: int = 0
) -> int:
  """A duration (an int is steps) in steps: 0 for never, else at least 1.

  Rounds to the nearest step, a half to the even one, as the reference does: the learning rate of
  each step depends on their number. A ConfigError names the key `what` where the text is no
  duration, and where the base of its unit is unknown.

  Args:
    batch_size: examples per step over all hosts.
    num_examples: of one epoch; needed for epochs.
    total_steps: of the run; needed for percentages.
  """
  number, unit = parse_duration(text, what)
  if number == 0:
    return 0
  if unit == "steps":
    if number != int(number):
      raise errors.ConfigError(f"{what}: {text!r} is not a whole number of steps.")
    return int(number)
  if unit == "%" and not total_steps:
    raise errors.ConfigError(
      f"{what}: {text!r} is a share of the run, whose length is unknown here."
    )
  if unit == "epochs" and not num_examples:
    raise errors.ConfigError(f"{what}: {text!r} needs a source with a known number of rows.")
  if unit == "%":
    return max(1, round(number / 100 * total_steps))
  if unit == "epochs":
    return max(1, round(number * (num_examples / batch_size)))
  return max(1, round(number / batch_size))
