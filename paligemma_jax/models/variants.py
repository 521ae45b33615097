"""Sizes: every published variant, `tiny`, and how a run's settings become one ModelConfig.

Knows nothing of JAX, so that a configuration can be checked without loading it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from paligemma_jax.core import errors
from paligemma_jax.core import spec

# A few times the largest model in use; more would fill the memory before it failed.
_LARGEST = {
  "width": 1 << 17,
  "depth": 1 << 10,
  "mlp_dim": 1 << 20,
  "num_heads": 1 << 12,
  "num_kv_heads": 1 << 12,
  "head_dim": 1 << 14,
  "vocab_size": 1 << 24,
  "patch_size": 1 << 10,
  "res": 1 << 15,
}
_INFINITE = {int: 1 << 31, float: math.inf}
# "auto" is "full" from this decoder width on.
_FULL_REMAT_FROM_WIDTH = 1024

DTYPES = ("auto", "float32", "bfloat16")
REMATS = ("auto", "none", "dots", "full")
ATTENTIONS = ("auto", "plain", "chunked", "rows", "flash")
QUERY_SCALES = ("head_dim", "width_per_head")


def _check_numbers(tower: str, sizes: Any) -> None:
  """A ConfigError unless all are sizes in use, or finite caps or windows, which are off at 0."""
  for field in dataclasses.fields(sizes):
    if field.type in ("int", "float"):
      _check_number(f"{tower}.{field.name}", getattr(sizes, field.name))


def _check_number(key: str, value: Any) -> None:
  largest = _LARGEST.get(key.rpartition(".")[2])
  wrong = ""
  if largest:
    if type(value) is not int or value <= 0:
      wrong = "is not a positive whole number"
    elif value > largest:
      wrong = f"is more than any model has, {largest}"
  elif type(value) not in (int, float) or not abs(value) < _INFINITE[type(value)]:
    wrong = "is not a finite number"
  elif value < 0:
    wrong = "is negative; 0 is off"
  if wrong:
    raise errors.ConfigError(f"{key}={value!r} {wrong}.")


def _check_option(key: str, value: str, options: tuple[str, ...]) -> None:
  if value not in options:
    raise errors.ConfigError(f"Unknown {key} {value!r}.{errors.did_you_mean(value, options)}")


@spec.spec
class Vit:
  """A SigLIP vision tower: pre-LN transformer over patches, one token per patch."""

  width: int
  depth: int
  mlp_dim: int
  num_heads: int
  patch_size: int = 14

  def __post_init__(self):
    _check_numbers("img", self)
    if self.width % self.num_heads:
      raise errors.ConfigError(
        f"img.num_heads={self.num_heads} does not divide img.width={self.width}."
      )


@spec.spec
class Gemma:
  """A Gemma decoder of either generation.

  `query_scale`: attention logits are scaled by head_dim^-0.5 ("head_dim") or
  (width / num_heads)^-0.5 ("width_per_head"). Softcaps and the window are off at 0. With
  `sliding_window` w, every second layer (0, 2, ...) attends to earlier blocks only w - 1 positions
  back, as transformers does; the reference has no window.
  """

  width: int
  depth: int
  mlp_dim: int
  num_heads: int
  num_kv_heads: int
  head_dim: int
  vocab_size: int = 257152
  post_norms: bool = False
  attn_softcap: float = 0.0
  final_softcap: float = 0.0
  query_scale: str = "head_dim"
  sliding_window: int = 0

  def __post_init__(self):
    _check_numbers("llm", self)
    if self.num_heads % self.num_kv_heads:
      raise errors.ConfigError(
        f"llm.num_kv_heads={self.num_kv_heads} does not divide llm.num_heads={self.num_heads}."
      )
    if self.head_dim % 2:
      raise errors.ConfigError(f"llm.head_dim={self.head_dim} is odd; rotary needs two halves.")
    _check_option("llm.query_scale", self.query_scale, QUERY_SCALES)


@spec.spec
class Lora:
  """Low-rank adapters; none when `rank` is 0. `targets` are regexes over the names of matrices."""

  rank: int = 0
  alpha: float = 16.0
  rslora: bool = False
  dora: bool = False
  dropout: float = 0.0
  targets: tuple[str, ...] = ()

  @property
  def scale(self) -> float:
    """What A B is multiplied by."""
    return self.alpha / (self.rank**0.5 if self.rslora else self.rank)


@spec.spec
class ModelConfig:
  """Everything that shapes the model's program.

  `dtype` is the dtype of matmuls ("auto": bfloat16 on TPU and GPU, float32 on CPU); `remat` is what
  the backward pass recomputes (gemma.recomputed; "auto": "dots" for small and "full" for big
  models); `dropout` is the rate on the decoder's two residual branches; `attention` is
  `implementation` in attention.attend; `lora` holds the adapters; `quantize` is what the matrices
  that `quantize_targets` (regexes) match are stored as, "" for as they are.
  """

  img: Vit
  llm: Gemma
  res: int
  dropout: float = 0.0
  dtype: str = "float32"
  remat: str = "none"
  attention: str = "auto"
  lora: Lora = Lora()
  quantize: str = ""
  quantize_targets: tuple[str, ...] = ()

  def __post_init__(self):
    _check_option("model.dtype", self.dtype, DTYPES)
    _check_option("model.remat", self.remat, REMATS)
    _check_option("model.attention", self.attention, ATTENTIONS)
    if not 0 <= self.dropout < 1:
      raise errors.ConfigError(f"model.dropout={self.dropout!r} is not in [0, 1).")
    _check_number("model.res", self.res)
    if self.res % self.img.patch_size:
      raise errors.ConfigError(
        f"model.res={self.res!r} is not a positive multiple of the patch size"
        f" {self.img.patch_size}."
      )

  def plain(self) -> ModelConfig:
    """The same model with every matrix as it is published, and no adapters."""
    return dataclasses.replace(self, lora=Lora(), quantize="", quantize_targets=())

  @property
  def remat_policy(self) -> str:
    """What the backward pass recomputes, "auto" decided."""
    if self.remat == "auto":
      return "full" if self.llm.width >= _FULL_REMAT_FROM_WIDTH else "dots"
    return self.remat

  @property
  def num_image_tokens(self) -> int:
    """Tokens of one image (an example with several images has a multiple of it)."""
    return (self.res // self.img.patch_size) ** 2


_SO400M = Vit(width=1152, depth=27, mlp_dim=4304, num_heads=16)

# Gemma 2's own final softcap of 30 is off: the published transfers found 0 better.
_GEMMA2: dict[str, Any] = dict(post_norms=True, attn_softcap=50.0, final_softcap=0.0)

# Of the language model: width, depth, mlp_dim, num_heads, num_kv_heads, head_dim.
VARIANTS: dict[str, tuple[Vit, Gemma]] = {
  "tiny": (Vit(128, 4, 512, num_heads=4), Gemma(128, 4, 512, 4, 1, 32, vocab_size=2176)),
  "paligemma_3b": (_SO400M, Gemma(2048, 18, 16384, 8, 1, 256)),
  "paligemma2_3b": (_SO400M, Gemma(2304, 26, 9216, 8, 4, 256, **_GEMMA2)),
  "paligemma2_10b": (_SO400M, Gemma(3584, 42, 14336, 16, 8, 256, **_GEMMA2)),
  "paligemma2_28b": (
    _SO400M,
    Gemma(4608, 46, 36864, 32, 16, 128, query_scale="width_per_head", **_GEMMA2),
  ),
}


def get(
  variant: str,
  *,
  vocab_size: int = 0,
  final_softcap: float = -1.0,
  attn_softcap: float = -1.0,
  overrides: Mapping[str, Any] | None = None,
  dtype: str = "auto",
  remat: str = "auto",
  quantize: str = "",
  quantize_targets: tuple[str, ...] = (),
  **settings: Any,
) -> ModelConfig:
  """The variant at a resolution, with the run's settings.

  Args:
    vocab_size: rows of the embedding table; 0 keeps the variant's.
    final_softcap, attn_softcap: caps of the final logits and of those of attention; 0 is off,
      negative keeps the variant's.
    overrides: sizes to change, as {"llm.depth": 2} or {"llm": {"depth": 2}}.
    settings: `res` and other fields of ModelConfig.

  Raises:
    ConfigError: unknown variant, unknown size, or sizes that do not fit together.
  """
  img, llm = errors.pick(VARIANTS, variant, "model variant")
  changes: dict[str, dict[str, Any]] = {"img": {}, "llm": {}}
  for key, value in (overrides or {}).items():
    tower, _, name = str(key).partition(".")
    fields = errors.pick(changes, tower, "tower in model.overrides")
    if not name and not isinstance(value, Mapping):
      raise errors.ConfigError(
        f"model.overrides: {tower} is {str(value)[:60]!r}; expected sizes, as in {{'depth': 2}}."
      )
    fields.update({name: value} if name else value)
  if vocab_size:
    changes["llm"]["vocab_size"] = vocab_size
  for name, cap in (("final_softcap", final_softcap), ("attn_softcap", attn_softcap)):
    if not cap < 0:  # NaN too, which is refused below.
      changes["llm"][name] = float(cap)
  img = dataclasses.replace(img, **changes["img"])
  llm = dataclasses.replace(llm, **changes["llm"])
  targets = quantize_targets if quantize else ()
  return ModelConfig(
    img, llm, dtype=dtype, remat=remat, quantize=quantize, quantize_targets=targets, **settings
  )


def of_run(model: Mapping[str, Any], lora: Mapping[str, Any]) -> ModelConfig:
  """The ModelConfig of the sections `model` and `lora` of a configuration."""
  caps = {"final_logits_softcap": "final_softcap", "attn_logits_softcap": "attn_softcap"}
  return get(lora=Lora(**lora), **{caps.get(key, key): value for key, value in model.items()})
