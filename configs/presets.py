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
  """Applies the presets named in `tune`, left to right.

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
  for fn in fns:
    fn(c)


def full_adam(c: ConfigDict) -> None:
  """Everything trains, by Adam, as in the paper's transfers; lr and wd are the task's."""
  c.optim.update(
      name="adam", b1=0.9, b2=0.999, eps=1e-8, mu_dtype="float32", momentum=0.0,
      clip=1.0, wd_names=(".*/kernel",),
      schedule="cosine", schedule_start=0, schedule_end=0.0, warmup="5%", cooldown="",
      freeze=(), train_only=(), lr_mults=(),
  )


def sgd_attention(c: ConfigDict) -> None:
  """Only the decoder's attention trains, by plain SGD: the published notebook for small devices.

  Sets lr too, 0.03 as there: what suits Adam does not suit SGD. The notebook's schedule is one
  step longer than the run and its first update is at step 1, so no update has lr 0.
  """
  c.optim.update(
      name="sgd", lr=0.03, momentum=0.0, wd=0.0, clip=0.0,
      schedule="cosine", schedule_start=1, schedule_end=0.0, warmup="10%", cooldown="",
      freeze=(), train_only=("llm/layers/attn/.*",), lr_mults=(),
  )


def freeze_vit(c: ConfigDict) -> None:
  """The vision tower and its projection stay as they are."""
  c.optim.freeze = (*c.optim.freeze, "img/.*")


def freeze_llm(c: ConfigDict) -> None:
  """The language model stays as it is."""
  c.optim.freeze = (*c.optim.freeze, "llm/.*")


def connector(c: ConfigDict) -> None:
  """Only the projection from image to text tokens trains."""
  c.optim.train_only = ("img/head/.*",)


OPTIMIZERS = ("full_adam", "sgd_attention")

TUNES: dict[str, Callable[[ConfigDict], None]] = {
    "full_adam": full_adam,
    "sgd_attention": sgd_attention,
    "freeze_vit": freeze_vit,
    "freeze_llm": freeze_llm,
    "connector": connector,
}
