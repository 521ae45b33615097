"""Named settings of `optim`, `lora` and `model.quantize`, combined with '+'.

    presets.apply(c, "full_adam")
    presets.apply(c, "full_adam+freeze_vit")

A preset sets keys. Keys that are set later take precedence, and so does `--config.optim.…`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from paligemma_jax.core import errors

ConfigDict: TypeAlias = Any  # Of ml_collections, which has no types.


def apply(c: ConfigDict, tune: str) -> None:
  """Applies the presets of `tune`: first the one of an optimizer, then the others in order.

  Call it after setting the task's lr and wd, which only `sgd_attention` changes. A ConfigError for
  an unknown name, and for two presets of an optimizer.
  """
  names = tune.split("+")
  fns = [errors.pick(TUNES, name, "preset") for name in names]
  optimizers = [name for name in names if name in OPTIMIZERS]
  if len(optimizers) > 1:
    raise errors.ConfigError(
      f"tune={tune!r}: {' and '.join(repr(n) for n in optimizers)} each choose an optimizer;"
      " name one of them."
    )
  # The preset of an optimizer makes all parameters trainable; the others then freeze some.
  for fn in sorted(fns, key=lambda fn: fn.__name__ not in OPTIMIZERS):
    fn(c)


def full_adam(c: ConfigDict) -> None:
  """Trains all parameters with Adam, as the paper's transfers do; lr and wd are the task's."""
  c.optim.update(
      name="adam", b1=0.9, b2=0.999, eps=1e-8, mu_dtype="float32", momentum=0.0, grad_clip_norm=1.0,
      rms_clip=0.0, wd_names=(".*/kernel",), schedule="cosine", schedule_start=0, schedule_end=0.0,
      warmup="5%", cooldown="", freeze=(), train_only=(), lr_mults=(),
  )  # fmt: skip


def sgd_attention(c: ConfigDict) -> None:
  """Trains only the decoder's attention with plain SGD, as the published notebook does.

  It sets lr to the notebook's 0.03, since SGD needs another than Adam. The notebook's first update
  is at step 1 of a schedule that is one step longer than the run, so that no update has lr 0.
  """
  c.optim.update(
      name="sgd", lr=0.03, momentum=0.0, wd=0.0, grad_clip_norm=0.0, rms_clip=0.0,
      schedule="cosine", schedule_start=1, schedule_end=0.0, warmup="10%", cooldown="", freeze=(),
      train_only=("llm/layers/attn/.*",), lr_mults=(),
  )  # fmt: skip


def adam8bit(c: ConfigDict) -> None:
  """As full_adam, with a state of 2 bytes per trainable parameter instead of 8."""
  full_adam(c)
  c.optim.name = "adam8bit"


def adafactor(c: ConfigDict) -> None:
  """As full_adam with Adafactor, whose bfloat16 momentum takes 2 bytes per trainable parameter.

  It is Big_vision's variant, without relative steps, so that Adam's learning rates are a start.
  """
  full_adam(c)
  c.optim.update(name="adafactor", mu_dtype="bfloat16", eps=1e-30, rms_clip=1.0)


def ema(c: ConfigDict) -> None:
  """Evaluates and exports a moving average of trainable parameters, of 4 bytes each."""
  c.optim.ema = 0.999


def lora(c: ConfigDict) -> None:
  """Trains only adapters of rank 16 on all matrices of the decoder.

  Their learning rate is ten times the task's, the best ratio for this alpha at any rank (Schulman
  et al., LoRA Without Regret, 2025).
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
  """As lora, with magnitudes of the weights trained apart from their directions (DoRA)."""
  lora(c)
  c.lora.dora = True


def qlora(c: ConfigDict) -> None:
  """As lora, with all other parameters in 4 bits (nf4), 0.57 bytes each."""
  lora(c)
  c.model.update(quantize="nf4", quantize_targets=(".*",))


def qlora_int4(c: ConfigDict) -> None:
  """As qlora, with evenly spaced 4-bit codes, which dequantize faster."""
  qlora(c)
  c.model.quantize = "int4"


def qlora_int8(c: ConfigDict) -> None:
  """As qlora, with 8 bits, 1.07 bytes per parameter and almost no loss."""
  qlora(c)
  c.model.quantize = "int8"


def freeze_vit(c: ConfigDict) -> None:
  """Freezes the vision tower and its projection."""
  c.optim.freeze = (*c.optim.freeze, "img/.*")


def freeze_llm(c: ConfigDict) -> None:
  """Freezes the language model."""
  c.optim.freeze = (*c.optim.freeze, "llm/.*")


def connector(c: ConfigDict) -> None:
  """Trains only the projection of image tokens."""
  c.optim.train_only = ("img/head/.*",)


_ADAPTERS = ".*lora_.*"
OPTIMIZERS = ("full_adam", "sgd_attention", "adam8bit", "adafactor")

TUNES: dict[str, Callable[[ConfigDict], None]] = {
  preset.__name__: preset
  for preset in (
      full_adam, sgd_attention, adam8bit, adafactor, ema, lora, lora_img, dora, qlora, qlora_int8,
      qlora_int4, freeze_vit, freeze_llm, connector,
  )
}  # fmt: skip


MESHES: dict[str, tuple[tuple[str, int], ...]] = {
  "one_device": (("fsdp", 1),),
  "fsdp": (("fsdp", -1),),  # Parameters sharded over all devices: least memory.
  "data": (("data", -1),),  # Parameters replicated: least communication.
  # FSDP within each slice or host, with its fast links; between them only gradients are sent.
  "2x_fsdp": (("data", 2), ("fsdp", -1)),
  "4x_fsdp": (("data", 4), ("fsdp", -1)),
  "8x_fsdp": (("data", 8), ("fsdp", -1)),
  # For batches with fewer examples than devices. Each layer communicates, so it needs the fastest
  # links: the last axis is that of neighbouring devices.
  "tensor_2": (("fsdp", -1), ("tensor", 2)),
  "tensor_4": (("fsdp", -1), ("tensor", 4)),
  "tensor_8": (("fsdp", -1), ("tensor", 8)),
}


def apply_mesh(c: ConfigDict, mesh: str) -> None:
  """Sets `c.mesh.shape` to the named mesh; ConfigError when there is none of that name."""
  c.mesh.shape = errors.pick(MESHES, mesh, "mesh")
