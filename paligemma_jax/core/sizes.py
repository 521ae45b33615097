"""Which sizes of a model are believed. They are looked at before anything is made of them."""

from __future__ import annotations

import math
from typing import Any

# A few times the largest that anybody has trained; more would fill the memory before it failed.
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


def wrong(name: str, value: Any) -> str:
  """What is wrong with the size `name`, as the end of a sentence; '' when nothing is."""
  if type(value) is not int or value <= 0:
    return "is not a positive whole number"
  largest = _LARGEST[name]
  return f"is more than any model has, {largest}" if value > largest else ""


def wrong_number(value: Any) -> str:
  """What is wrong with a cap or a window, which is off at 0; '' when nothing is."""
  if type(value) is int:
    finite = abs(value) < 1 << 31
  else:
    finite = type(value) is float and math.isfinite(value)
  if not finite:
    return "is not a finite number"
  return "is negative; 0 is off" if value < 0 else ""
