"""What trains and how: named settings of the `optim` section, composed with '+'.

    presets.apply(c, "full_adam")
    presets.apply(c, "full_adam+freeze_vit")

A preset sets keys; keys set after it win, and `--config.optim.…` wins over both.
"""

from __future__ import annotations

from collections.abc import Callable

import ml_collections

from paligemma_jax.core import errors

ConfigDict = ml_collections.ConfigDict


def apply(c: ConfigDict, tune: str) -> None:
  """Applies the presets named in `tune`: the one that chooses the optimizer, then left to right.

  Raises:
    ConfigError: an unknown name, or two names that both choose the optimizer.
  """
  names = tune.split("+")
  fns = [errors.pick(TUNES, name, "preset") for name in names]
  optimizers = [name for name in names if name in OPTIMIZERS]
  if len(optimizers) > 1:
    raise errors.ConfigError(
        f"tune={tune!r}: {' and '.join(repr(n) for n in optimizers)} each choose an optimizer;"
        " name one of them."
    )
  # A preset of an optimizer also says that everything trains; the others then say what does not.
  for fn in sorted(fns, key=lambda fn: fn.__name__ not in OPTIMIZERS):
    fn(c)


def full_adam(c: ConfigDict) -> None:
  """Everything trains, by Adam, as in the paper's transfers; lr and wd are the task's."""
  c.optim.update(
      name="adam", b1=0.9, b2=0.999, eps=1e-8, mu_dtype="float32", momentum=0.0,
      clip=1.0, rms_clip=0.0, wd_names=(".*/kernel",),
      schedule="cosine", schedule_start=0, schedule_end=0.0, warmup="5%", cooldown="",
      freeze=(), train_only=(), lr_mults=(),
  )


def sgd_attention(c: ConfigDict) -> None:
  """Only the decoder's attention trains, by plain SGD: the published notebook for small devices.

  Sets lr too, 0.03 as there: what suits Adam does not suit SGD. The notebook's schedule is one
  step longer than the run and its first update is at step 1, so no update has lr 0.
  """
  c.optim.update(
      name="sgd", lr=0.03, momentum=0.0, wd=0.0, clip=0.0, rms_clip=0.0,
      schedule="cosine", schedule_start=1, schedule_end=0.0, warmup="10%", cooldown="",
      freeze=(), train_only=("llm/layers/attn/.*",), lr_mults=(),
  )


def adam8bit(c: ConfigDict) -> None:
  """As full_adam, its state in 2 bytes per parameter that trains instead of 8."""
  full_adam(c)
  c.optim.name = "adam8bit"


def adafactor(c: ConfigDict) -> None:
  """As full_adam by Adafactor: a bfloat16 momentum and next to nothing else, 2 bytes a parameter.

  Big_vision's variant: no relative steps, so learning rates of Adam are where to start from.
  """
  full_adam(c)
  c.optim.update(name="adafactor", mu_dtype="bfloat16", eps=1e-30, rms_clip=1.0)


def ema(c: ConfigDict) -> None:
  """Evaluates and exports a moving average of what trains; 4 bytes more for each of those."""
  c.optim.ema = 0.999


def freeze_vit(c: ConfigDict) -> None:
  """The vision tower and its projection stay as they are."""
  c.optim.freeze = (*c.optim.freeze, "img/.*")


def freeze_llm(c: ConfigDict) -> None:
  """The language model stays as it is."""
  c.optim.freeze = (*c.optim.freeze, "llm/.*")


def connector(c: ConfigDict) -> None:
  """Only the projection from image to text tokens trains."""
  c.optim.train_only = ("img/head/.*",)


OPTIMIZERS = ("full_adam", "sgd_attention", "adam8bit", "adafactor")

TUNES: dict[str, Callable[[ConfigDict], None]] = {
    "full_adam": full_adam,
    "sgd_attention": sgd_attention,
    "adam8bit": adam8bit,
    "adafactor": adafactor,
    "ema": ema,
    "freeze_vit": freeze_vit,
    "freeze_llm": freeze_llm,
    "connector": connector,
}
