"""Reads and writes mask codecs in the layout of the published `vae-oid.npz`.

Names and shapes are PyTorch's: convolutions are (out, in, height, width), transposed convolutions
(`decoder.4` to `decoder.10`) (in, out, height, width). The reference transposes both alike and runs
the latter with Flax's `transpose_kernel`, which is equivalent. The numbers of codes and channels
are those of the file.
"""

from __future__ import annotations

import io
import math
import os
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from paligemma_jax.core import atomic_io
from paligemma_jax.core import errors
from paligemma_jax.core import file_checks

CODEBOOK = "_vq_vae._embedding"
MAX_CODES = 128  # <seg000> to <seg127>.
PUBLISHED = "gs://big_vision/paligemma/vae-oid.npz"
_MIRROR = "https://huggingface.co/spaces/google/paligemma-hf/resolve/main/vae-oid.npz"

_MAX_BYTES = 96 << 20  # Of the file, and of all arrays in it.
_MAX_HEADER = 10_000  # numpy's own limit.
# (layer, kernel size); 0 is that of the file, since the encoder's are published nowhere.
_ENCODER = (
    ("encoder.0", 0), ("encoder.2", 0), ("encoder.4", 0), ("encoder.6", 0),
    ("encoder.8.net.0", 0), ("encoder.8.net.2", 0), ("encoder.8.net.4", 0),
    ("encoder.9.net.0", 0), ("encoder.9.net.2", 0), ("encoder.9.net.4", 0),
    ("encoder.10", 0),
)  # fmt: skip
_DECODER = (
    ("decoder.0", 1),
    ("decoder.2.net.0", 3), ("decoder.2.net.2", 3), ("decoder.2.net.4", 1),
    ("decoder.3.net.0", 3), ("decoder.3.net.2", 3), ("decoder.3.net.4", 1),
    ("decoder.4", 4), ("decoder.6", 4), ("decoder.8", 4), ("decoder.10", 4),
    ("decoder.12", 1),
)  # fmt: skip
_TRANSPOSED = ("decoder.4", "decoder.6", "decoder.8", "decoder.10")
_WIDTH_KEPT = ".net."  # Residual blocks have as many channels out as in.
_MAX_KERNEL = 7
NAMES = (CODEBOOK,) + tuple(
  f"{layer}.{kind}" for layer, _ in _ENCODER + _DECODER for kind in ("weight", "bias")
)


def shapes(
  *,
  num_codes: int = 128,
  code_dim: int = 512,
  encoder: tuple[int, int, int, int] = (16, 32, 64, 128),
  decoder: tuple[int, int, int, int, int] = (128, 128, 64, 32, 16),
) -> dict[str, tuple[int, ...]]:
  """{published name: shape}; the defaults are the published decoder and codebook.

  Args:
    encoder: channels after each of the four convolutions of stride 2.
    decoder: channels of the residual blocks, then after each transposed convolution.
  """
  outs = dict(zip(("encoder.0", "encoder.2", "encoder.4", "encoder.6"), encoder, strict=True))
  outs |= dict(zip(("decoder.0", *_TRANSPOSED), decoder, strict=True))
  kernels = {"encoder.10": 1, "encoder.0": 4, "encoder.2": 4, "encoder.4": 4, "encoder.6": 4}
  for block in ("encoder.8", "encoder.9"):
    kernels |= {f"{block}.net.0": 3, f"{block}.net.2": 3, f"{block}.net.4": 1}
  return _chain(num_codes, code_dim, outs, kernels)


def stamp(path: pathlib.Path, codec: str) -> tuple[int, int]:
  """(bytes, modification time in ns) of the file; CheckpointError when there is none."""
  try:
    status = path.stat()
  except (OSError, ValueError):
    raise errors.CheckpointError(
      f"codec={codec!r}: there is no such file here. The published mask codec is {PUBLISHED} (the"
      f" same file: {_MIRROR}): download it and name its path; codec='' is the small embedded"
      " one."
    ) from None
  if not path.is_file() or status.st_size > _MAX_BYTES:
    raise errors.CheckpointError(
      f"{path}: is no file, or one of more than {_MAX_BYTES} bytes; a mask codec is an npz of a"
      " few megabytes."
    )
  return status.st_size, status.st_mtime_ns


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
  """{published name: float32 array} with consistent shapes.

  Other arrays under `_vq_vae.`, from the training of the published codec, are skipped. Nothing is
  unpickled, and no buffer is larger than the file justifies.

  Raises:
    CheckpointError: a damaged or hostile file, a missing or surplus name, or a wrong shape.
  """
  found = _arrays(path)
  missing = [name for name in NAMES if name not in found]
  surplus = [name for name in found if name not in NAMES]
  problems = [f"missing {name}.{_near(name, surplus)}" for name in missing]
  problems += [f"surplus {name}.{_near(name, missing)}" for name in surplus]
  if not problems:
    problems = _wrong_shapes({name: array.shape for name, array in found.items()})
  if problems:
    raise errors.CheckpointError(
      f"{path}: is not a mask codec in the layout of {PUBLISHED}:\n  " + "\n  ".join(problems)
    )
  return found


def write(
  path: str | os.PathLike[str], weights: Mapping[str, np.ndarray], dtype: str = "float16"
) -> None:
  """Writes the weights under their published names, compressed; deterministic."""
  buffer = io.BytesIO()
  arrays: Any = {name: np.asarray(weights[name]).astype(dtype) for name in NAMES}
  np.savez_compressed(buffer, **arrays)
  atomic_io.write_atomically(path, buffer.getvalue())


def _chain(num_codes, code_dim, outs, kernels) -> dict[str, tuple[int, ...]]:
  """The shapes, where each layer takes the channels of the one before.

  Args:
    outs: {layer: output channels} where they are not determined by others.
    kernels: {layer of the encoder: kernel size}.
  """
  result: dict[str, tuple[int, ...]] = {CODEBOOK: (num_codes, code_dim)}
  for layers, width, last in ((_ENCODER, 1, code_dim), (_DECODER, code_dim, 1)):
    for layer, kernel in layers:
      end = layer == layers[-1][0]
      out = width if _WIDTH_KEPT in layer else last if end else outs[layer]
      side = kernel or kernels[layer]
      sides = (width, out) if layer in _TRANSPOSED else (out, width)
      result[f"{layer}.weight"] = (*sides, side, side)
      result[f"{layer}.bias"] = (out,)
      width = out
  return result


def _wrong_shapes(found: Mapping[str, tuple[int, ...]]) -> list[str]:
  """Shapes that do not fit each other, with widths taken from the biases; all names must exist."""
  problems = []
  if len(found[CODEBOOK]) != 2 or not 1 <= found[CODEBOOK][0] <= MAX_CODES:
    return [f"{CODEBOOK} is {list(found[CODEBOOK])}; expected [codes up to {MAX_CODES}, width]"]
  outs, kernels = {}, {}
  for layer, kernel in _ENCODER + _DECODER:
    bias, weight = found[f"{layer}.bias"], found[f"{layer}.weight"]
    outs[layer] = math.prod(bias)  # A bias of another rank is found below.
    fits = len(weight) == 4 and weight[2] == weight[3] and 1 <= weight[2] <= _MAX_KERNEL
    if not kernel and not fits:
      problems.append(f"{layer}.weight is {list(weight)}; expected a square kernel up to 7 x 7")
    kernels[layer] = weight[2] if fits else 1
  num_codes, code_dim = found[CODEBOOK]
  expected = _chain(num_codes, code_dim, outs, kernels)
  for name, shape in expected.items():
    if found[name] != shape and 0 not in shape:
      swapped = " (transposed?)" if sorted(found[name]) == sorted(shape) else ""
      problems.append(f"{name} is {list(found[name])}; expected {list(shape)}{swapped}")
  problems += [f"{name} is empty" for name in NAMES if 0 in found[name]]
  return problems


def _arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
  file_bytes = path.stat().st_size
  found: dict[str, np.ndarray] = {}
  try:
    with open(path, "rb") as file:
      infos = file_checks.members(file)
    if not all(map(file_checks.is_plain, infos)):
      raise errors.CheckpointError(f"{path}: is encrypted, or packed by no deflate.")
    with zipfile.ZipFile(path) as archive:
      total = sum(info.file_size for info in infos)
      if total > 20 * file_bytes + (1 << 20) or total > _MAX_BYTES:
        raise errors.CheckpointError(
          f"{path}: its {file_bytes} bytes claim to hold {total}; no weights deflate like that."
        )
      for info in infos:
        name = info.filename.removesuffix(".npy")
        if name.startswith("_vq_vae.") and name != CODEBOOK:
          continue
        if name in found or name == info.filename:
          raise errors.CheckpointError(f"{path}: {info.filename!r} is there twice or no array.")
        found[name] = _array(archive.read(info), f"{path}: {name!r}")
  except errors.CheckpointError:
    raise
  except Exception as e:  # zipfile raises many types on damaged files.
    raise errors.CheckpointError(
      f"{path}: is no intact npz file: {type(e).__name__}: {e}.{file_checks.of_file(path)}"
    ) from None
  return found


def _array(data: bytes, where: str) -> np.ndarray:
  """The float32 array of an npy file, whose header must agree with its size."""
  stream = io.BytesIO(data)
  try:
    if np.lib.format.read_magic(stream) != (1, 0):
      raise ValueError("an npy version that weights never need")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream, _MAX_HEADER)
  except Exception as e:  # numpy raises many types on damaged headers.
    raise errors.CheckpointError(f"{where} is no numpy array: {e}.") from None
  if dtype.hasobject or dtype.kind != "f":
    raise errors.CheckpointError(
      f"{where} has dtype {dtype}; weights are floats, and pickled objects are never read."
    )
  body = memoryview(data)[stream.tell() :]
  if math.prod(shape) * dtype.itemsize != len(body):
    raise errors.CheckpointError(
      f"{where} says {dtype}{list(shape)}, but {len(body)} bytes of data follow."
    )
  array = np.frombuffer(body, dtype).reshape(shape, order="F" if fortran else "C")
  array = np.ascontiguousarray(array, np.float32)
  if not np.isfinite(array).all():
    raise errors.CheckpointError(f"{where} holds values that are not finite.")
  return array


def _near(name: str, options) -> str:
  close = errors.near(name, options, n=1)
  return f" (near: {close[0]})" if close else ""
