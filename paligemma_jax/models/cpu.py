"""The code paths of a single CPU: other ways to the same numbers, chosen here and nowhere else.

The model files are written for an accelerator and ask `in_use`, `has_room` or `goes_by_rows`, all
of them False on any other device, on several CPU devices and inside `off`. What each saves, in
processor time on two cores ("mid" is that of tools/bench/models.py, the demo's step that of
transfers/demo.py):

  goes_by_rows      0.5 to 1 of the 10 s of a step of mid; the demo's sequences are too short for it
  has_room          6 % of the demo's step, 10 % of one with 6 layers of 512
  times_table       7 % of decoding a token of mid, whose table has 257152 rows
  compiler_options  0.5 of the 3.6 GB of a step of mid

B rows, Q query positions, N query heads, H head dim, D width, V vocabulary.
"""

from __future__ import annotations

import contextlib
import contextvars
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh

from paligemma_jax.models import kernels

# Up to so many rows the table stands on the left of the head's product: XLA:CPU is faster so.
_FEW_ROWS = 32

# Weights of layers are copied up to this size in bytes.
_ROOM_FOR_LAYERS = 2**30

# Attention goes by rows from so many logits a row on. Forward and backward that takes 0.5 of the
# plain way's time at 288 positions, and 0.3 to 0.6 of that of chunks at a thousand (8 rows, 8 and 4
# heads of 64). Shorter ones gain less than the second that tracing and compiling takes.
_ROWS_FROM = 256 * 1024

# Embedding tables of so many numbers and more are large.
_LARGE_TABLE = 2**24
_FOR_MEMORY = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}

_OFF: contextvars.ContextVar[bool] = contextvars.ContextVar("off", default=False)


@contextlib.contextmanager
def off() -> Iterator[None]:
  """What is traced in here takes an accelerator's code paths; tests compare the two."""
  token = _OFF.set(True)
  try:
    yield
  finally:
    _OFF.reset(token)


def in_use() -> bool:
  """Whether what is traced is for a single CPU device."""
  return kernels.devices() == ("cpu", 1) and not _OFF.get()


def has_room(layers: Any) -> bool:
  """Whether these layers, a tree of arrays, may be copied to run the last one by itself."""
  size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(layers))
  return in_use() and size <= _ROOM_FOR_LAYERS


def goes_by_rows(q_BQNH: jax.Array, k_len: int) -> bool:
  """Whether attention of these queries over so many keys takes one row after the other."""
  return in_use() and math.prod(q_BQNH.shape[1:3]) * k_len >= _ROWS_FROM


def compiler_options(mesh: Mesh, table: jax.Array | None) -> dict[str, str] | None:
  """Options of XLA for a step on this mesh in which the embedding table trains (None: does not).

  By default XLA:CPU computes the table's gradient as early as it can, for parallelism, and keeps it
  while the layers run backward. Where it is large, one product keeps the threads busy anyway.
  """
  large = table is not None and table.size >= _LARGE_TABLE
  return _FOR_MEMORY if large and mesh.devices.flat[0].platform == "cpu" else None


def times_table(x: jax.Array, table_VD: jax.Array) -> jax.Array:
  """float32[..., V] of x [..., D]."""
  if not in_use() or math.prod(x.shape[:-1]) > _FEW_ROWS:
    return jnp.einsum("...D,VD->...V", x, table_VD, preferred_element_type=jnp.float32)
  y = jnp.einsum("VD,...D->V...", table_VD, x, preferred_element_type=jnp.float32)
  # Else the compiler transposes the operands instead of the result.
  return jnp.moveaxis(lax.optimization_barrier(y), 0, -1)
