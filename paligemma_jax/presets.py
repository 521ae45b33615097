"""Named settings of `optim`, `lora` and `model.quantize`, composed with '+': what trains and how.

    presets.apply(c, "full_adam")
    presets.apply(c, "full_adam+freeze_vit")

A preset sets keys; keys set after it win, and `--config.optim.…` wins over both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from paligemma_jax.core import errors

ConfigDict: TypeAlias = Any  # Of ml_collections, which has no types.


def apply(c: ConfigDict, tune: str) -> None:
  """Applies the presets named in `tune`: the one that chooses the optimizer, then left to right.

  To be called after the task's lr and wd are set, which most leave as they are: `sgd_attention`
  brings its own.

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
    name="adam",
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    mu_dtype="float32",
    momentum=0.0,
    grad_clip_norm=1.0,
    rms_clip=0.0,
    wd_names=(".*/kernel",),
    schedule="cosine",
    schedule_start=0,
    schedule_end=0.0,
    warmup="5%",
    cooldown="",
    freeze=(),
    train_only=(),
    lr_mults=(),
  )


def sgd_attention(c: ConfigDict) -> None:
  """Only the decoder's attention trains, by plain SGD: the published notebook for small devices.

  Sets lr too, 0.03 as there: what suits Adam does not suit SGD. The notebook's schedule is one
  step longer than the run and its first update is at step 1, so no update has lr 0.
  """
  c.optim.update(
    name="sgd",
    lr=0.03,
    momentum=0.0,
    wd=0.0,
    grad_clip_norm=0.0,
    rms_clip=0.0,
    schedule="cosine",
    schedule_start=1,
    schedule_end=0.0,
    warmup="10%",
    cooldown="",
    freeze=(),
    train_only=("llm/layers/attn/.*",),
    lr_mults=(),
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
  """Evaluates and exports a moving average of the trainable parameters; 4 bytes more for each."""
  c.optim.ema = 0.999


def lora(c: ConfigDict) -> None:
  """Adapters of rank 16 on every matrix of the decoder train, and nothing else.

  They learn at ten times the task's rate, the ratio that served best at any rank with this alpha
  (Schulman et al., LoRA Without Regret, 2025).
  """
  c.lora.update(
    rank=16, alpha=32.0, rslora=False, dora=False, dropout=0.0, targets=("llm/layers/.*",)
  )
  c.optim.update(train_only=(_ADAPTERS,), lr_mults=((_ADAPTERS, 10.0),))


def lora_img(c: ConfigDict) -> None:
  """As lora, with adapters on the vision tower and its projection too."""
  lora(c)
  c.lora.targets = ("llm/layers/.*", "img/.*")


def dora(c: ConfigDict) -> None:
  """As lora, with the lengths of weights trained apart from their directions."""
  lora(c)
  c.lora.dora = True


def qlora(c: ConfigDict) -> None:
  """As lora, the rest of the model in 4 bits (nf4): 0.57 bytes per parameter."""
  lora(c)
  c.model.update(quantize="nf4", quantize_targets=(".*",))


def qlora_int4(c: ConfigDict) -> None:
  """As qlora with evenly spaced 4-bit codes, which unpack faster."""
  qlora(c)
  c.model.quantize = "int4"


def qlora_int8(c: ConfigDict) -> None:
  """As qlora with 8 bits: 1.07 bytes per parameter, next to no loss."""
  qlora(c)
  c.model.quantize = "int8"


def freeze_vit(c: ConfigDict) -> None:
  """The vision tower and its projection stay as they are."""
  c.optim.freeze = (*c.optim.freeze, "img/.*")


def freeze_llm(c: ConfigDict) -> None:
  """The language model stays as it is."""
  c.optim.freeze = (*c.optim.freeze, "llm/.*")


def connector(c: ConfigDict) -> None:
  """Only the projection from image to text tokens trains."""
  c.optim.train_only = ("img/head/.*",)


_ADAPTERS = ".*lora_.*"
OPTIMIZERS = ("full_adam", "sgd_attention", "adam8bit", "adafactor")

TUNES: dict[str, Callable[[ConfigDict], None]] = {
  "full_adam": full_adam,
  "sgd_attention": sgd_attention,
  "adam8bit": adam8bit,
  "adafactor": adafactor,
  "ema": ema,
  "lora": lora,
  "lora_img": lora_img,
  "dora": dora,
  "qlora": qlora,
  "qlora_int8": qlora_int8,
  "qlora_int4": qlora_int4,
  "freeze_vit": freeze_vit,
  "freeze_llm": freeze_llm,
  "connector": connector,
}


MESHES: dict[str, tuple[tuple[str, int], ...]] = {
  "one_device": (("fsdp", 1),),
  "fsdp": (("fsdp", -1),),  # Parameters in as many parts as there are devices: least memory.
  "data": (("data", -1),),  # Parameters whole on each device: least talk, for models that fit.
  # FSDP inside each slice or host, whose links are fast; only gradients cross between them.
  "2x_fsdp": (("data", 2), ("fsdp", -1)),
  "4x_fsdp": (("data", 4), ("fsdp", -1)),
  "8x_fsdp": (("data", 8), ("fsdp", -1)),
  # For batches with fewer rows than there are devices. The talk is per layer and not per
  # parameter, so it wants the fastest links: the last axis is the one of neighbours.
  "tensor_2": (("fsdp", -1), ("tensor", 2)),
  "tensor_4": (("fsdp", -1), ("tensor", 4)),
  "tensor_8": (("fsdp", -1), ("tensor", 8)),
}


def apply_mesh(c: ConfigDict, mesh: str) -> None:
  """Sets `c.mesh.shape` to the named mesh; ConfigError when there is none of that name."""
  c.mesh.shape = errors.pick(MESHES, mesh, "mesh")
