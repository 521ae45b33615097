"""Records handed from every process to every process, as plain data: nothing in them can run."""

from __future__ import annotations

import base64
import json
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from paligemma_jax.core import errors


def gather(value: Any) -> list[Any]:
  """The values of all processes, in the order of the processes; the same list in each.

  Args:
    value: None, booleans, numbers, texts, bytes and numpy arrays, in lists, tuples and dicts.
  """
  if jax.process_count() == 1:
    return [value]
  data = np.frombuffer(json.dumps(pack(value)).encode(), np.uint8)
  sizes = multihost_utils.process_allgather(np.array([data.size])).ravel()
  padded = np.zeros(int(sizes.max()), np.uint8)
  padded[: data.size] = data
  parts = multihost_utils.process_allgather(padded)
  return [unpack(json.loads(p[:n].tobytes())) for p, n in zip(parts, sizes, strict=True)]


def local_rows(x: jax.Array) -> np.ndarray:
  """This process's rows of an array whose rows are those of the global batch, however it lies."""
  if x.is_fully_addressable:
    return np.asarray(x)
  whole = multihost_utils.process_allgather(x, tiled=True)
  size = whole.shape[0] // jax.process_count()
  return whole[jax.process_index() * size :][:size]


def pack(value: Any) -> Any:
  """JSON data that `unpack` turns into an equal value of equal types.

  Numpy scalars become Python's.

  Raises:
    ConfigError: a value of another type.
  """
  if isinstance(value, np.generic):
    value = value.item()
  if value is None or isinstance(value, (bool, int, float, str)):
    return value
  if isinstance(value, list):
    return [pack(v) for v in value]
  if isinstance(value, tuple):
    return {"tuple": [pack(v) for v in value]}
  if isinstance(value, dict):
    return {"dict": [[pack(k), pack(v)] for k, v in value.items()]}
  if isinstance(value, bytes):
    return {"bytes": base64.b64encode(value).decode()}
  if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
    data = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()
    return {"array": [value.dtype.str, list(value.shape), data]}
  raise errors.ConfigError(
    f"A {type(value).__name__} cannot be handed from one process to another; evaluators may keep"
    " columns of texts, numbers, bytes and numeric arrays."
  )


def unpack(data: Any) -> Any:
  """The inverse of `pack`."""
  if isinstance(data, list):
    return [unpack(v) for v in data]
  if not isinstance(data, dict):
    return data
  ((kind, content),) = data.items()
  if kind == "tuple":
    return tuple(unpack(v) for v in content)
  if kind == "dict":
    return {unpack(k): unpack(v) for k, v in content}
  if kind == "bytes":
    return base64.b64decode(content)
  dtype, shape, text = content
  return np.frombuffer(base64.b64decode(text), dtype).reshape(shape).copy()
