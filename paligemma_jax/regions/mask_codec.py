"""Encodes masks to sixteen codes and decodes them: the VQ-VAE of the `<seg…>` tokens, in NumPy.

The architecture is that of arXiv 2301.02229 as PaliGemma uses it. An encoder of four convolutions
of stride 2 (SAME, ReLU) makes 4 x 4 vectors of a mask of 64 x 64; the code of each is the nearest
row of the codebook. A decoder of four transposed convolutions inverts it. `models.mask_codec`
trains it in JAX.

Files have the layout of the published `vae-oid.npz`. Names and shapes are PyTorch's: convolutions
are (out, in, height, width), transposed convolutions (in, out, height, width). The reference
transposes both alike and runs the latter with Flax's `transpose_kernel`, which is equivalent. The
numbers of codes and channels are those of the file.
"""

from __future__ import annotations

import dataclasses
import functools
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
from paligemma_jax.core import spec

SIDE = 64  # Pixels of a coded mask.
GRID = 4  # Codes along one side.
NUM_CODES = GRID * GRID
EMBEDDED = pathlib.Path(__file__).resolve().parent.parent / "assets" / "demo" / "mask_codec.npz"

DOWN = ("encoder.0", "encoder.2", "encoder.4", "encoder.6")
UP = ("decoder.4", "decoder.6", "decoder.8", "decoder.10")
ENCODER_BLOCKS = ("encoder.8.net", "encoder.9.net")
DECODER_BLOCKS = ("decoder.2.net", "decoder.3.net")
TO_CODE, FROM_CODE, TO_MASK = "encoder.10", "decoder.0", "decoder.12"
CODEBOOK = "_vq_vae._embedding"
MAX_CODES = 128  # <seg000> to <seg127>.
PUBLISHED = "gs://big_vision/paligemma/vae-oid.npz"
_MIRROR = "https://huggingface.co/spaces/google/paligemma-hf/resolve/main/vae-oid.npz"

_MAX_BYTES = 96 << 20  # Of the file, and of all arrays in it.
_MAX_HEADER = 10_000  # numpy's own limit.
# {layer: kernel size}. The encoder's are those that we train; as the published ones are unknown, a
# file may have others.
_BLOCK = {".0": 3, ".2": 3, ".4": 1}
_ENCODER = {
  **dict.fromkeys(DOWN, 4),
  **{block + i: kernel for block in ENCODER_BLOCKS for i, kernel in _BLOCK.items()},
  TO_CODE: 1,
}
_DECODER = {
  FROM_CODE: 1,
  **{block + i: kernel for block in DECODER_BLOCKS for i, kernel in _BLOCK.items()},
  **dict.fromkeys(UP, 4),
  TO_MASK: 1,
}
_WIDTH_KEPT = ".net."  # Residual blocks have as many channels out as in.
_MAX_KERNEL = 7
NAMES = (CODEBOOK,) + tuple(
  f"{layer}.{kind}" for layer in _ENCODER | _DECODER for kind in ("weight", "bias")
)

_CHUNK = 32  # Masks at a time, whose patches fit into the processor's caches.


@dataclasses.dataclass(frozen=True)
class MaskCodec:
  """A codec; `weights` is {published name: float32 array} as stored.

  `conv`, `up` and `relu` are its layers in NumPy; `models.mask_codec` has them in JAX.
  """

  weights: Mapping[str, Any]

  @property
  def codebook(self) -> Any:
    """float32[codes, D]."""
    return self.weights[CODEBOOK]

  def encode(self, masks: np.ndarray) -> np.ndarray:
    """int64[N, 16] of bool[N, 64, 64], or of float[N, 64, 64] in [-1, 1], where 1 is the object."""
    masks = np.asarray(masks)
    assert masks.ndim == 3 and masks.shape[1:] == (SIDE, SIDE), masks.shape
    x = masks * np.float32(2) - np.float32(1) if masks.dtype == bool else masks
    return _in_chunks(self.encode_together, x.astype(np.float32), (NUM_CODES,), np.int64)

  def decode(self, codes: np.ndarray) -> np.ndarray:
    """float32[N, 64, 64], about -1 to 1, above 0 on the object, of int[N, 16]."""
    codes = np.asarray(codes)
    assert codes.ndim == 2 and codes.shape[1] == NUM_CODES, codes.shape
    return _in_chunks(self.decode_together, codes, (SIDE, SIDE), np.float32)

  def encode_together(self, masks: Any) -> Any:
    """`encode` of float32, all masks at once."""
    x = self.outputs(masks).reshape(-1, self.codebook.shape[1])
    return self.nearest(x).reshape(-1, NUM_CODES)

  def decode_together(self, codes: Any) -> Any:
    """`decode`, all masks at once."""
    return self.paint(self.codebook[codes].reshape(-1, GRID, GRID, self.codebook.shape[1]))

  def outputs(self, masks: Any) -> Any:
    """float32[N, 4, 4, D]: the encoder's, before they are replaced by codes."""
    x = masks[..., None]
    for name in DOWN:
      x = self.relu(self.conv(x, name, stride=2))
    for name in ENCODER_BLOCKS:
      x = self._residual(x, name)
    return self.conv(x, TO_CODE)

  def nearest(self, x: Any) -> Any:
    """int[X]: the code at the least squared distance from each float32[X, D]."""
    distance = (self.codebook**2).sum(axis=1) - 2 * x @ self.codebook.T  # Without |x|².
    return distance.argmin(axis=1)

  def paint(self, x: Any) -> Any:
    """float32[N, 64, 64] of codebook rows, float32[N, 4, 4, D]."""
    x = self.relu(self.conv(x, FROM_CODE))
    for name in DECODER_BLOCKS:
      x = self._residual(x, name)
    for name in UP:
      x = self.relu(self.up(x, name))
    return self.conv(x, TO_MASK)[..., 0]

  def _residual(self, x: Any, name: str) -> Any:
    y = self.relu(self.conv(x, f"{name}.0"))
    y = self.relu(self.conv(y, f"{name}.2"))
    return x + self.conv(y, f"{name}.4")

  @functools.cached_property
  def _matrices(self) -> dict[str, np.ndarray]:
    """Weights as matrices for matmuls: [ky kx in, out]; transposed ones [in, ky kx out]."""
    out = {}
    for layer in _ENCODER | _DECODER:
      w = self.weights[f"{layer}.weight"]
      if layer in UP:  # (in, out, ky, kx)
        matrix = w.transpose(0, 2, 3, 1).reshape(w.shape[0], -1)
      else:  # (out, in, ky, kx)
        matrix = w.transpose(2, 3, 1, 0).reshape(-1, w.shape[0])
      out[layer] = np.ascontiguousarray(matrix)
    return out

  def relu(self, x: Any) -> Any:
    """The greater of x and 0."""
    return np.maximum(x, 0)

  def conv(self, x: Any, name: str, stride: int = 1) -> Any:
    """SAME convolution of float32[N, H, W, C], as one matmul of its patches."""
    kernel = self.weights[f"{name}.weight"].shape[-1]
    num, size, _, channels = x.shape
    side = -(-size // stride)
    if kernel > 1:
      padding = max((side - 1) * stride + kernel - size, 0)
      around = (padding // 2, padding - padding // 2)  # The odd one goes below and to the right.
      x = np.pad(x, ((0, 0), around, around, (0, 0)))
      span = (side - 1) * stride + 1
      parts = [
        x[:, ky : ky + span : stride, kx : kx + span : stride]
        for ky in range(kernel)
        for kx in range(kernel)
      ]
      x = np.concatenate(parts, axis=-1)
    flat = x.reshape(-1, kernel * kernel * channels) @ self._matrices[name]
    flat += self.weights[f"{name}.bias"]
    return flat.reshape(num, side, side, -1)

  def up(self, x: Any, name: str) -> Any:
    """Transposed convolution with a 4 x 4 kernel, stride 2 and PyTorch's padding 1."""
    num, side, _, channels = x.shape
    patches = (x.reshape(-1, channels) @ self._matrices[name]).reshape(num, side, side, 4, 4, -1)
    canvas = np.zeros((num, 2 * side + 2, 2 * side + 2, patches.shape[-1]), np.float32)
    for ky in range(4):
      for kx in range(4):
        canvas[:, ky : ky + 2 * side : 2, kx : kx + 2 * side : 2] += patches[:, :, :, ky, kx]
    return canvas[:, 1:-1, 1:-1] + self.weights[f"{name}.bias"]


def open_codec(codec: str = "") -> MaskCodec:
  """The codec of a file, or the small embedded one for ''; cached until the file changes.

  Raises:
    CheckpointError: no such file (names the URL of the published one), or no codec.
  """
  path = pathlib.Path(codec) if codec else EMBEDDED
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
  return _opened(path, (status.st_size, status.st_mtime_ns))


@functools.lru_cache(maxsize=4)
def _opened(path: pathlib.Path, stamp: tuple[int, int]) -> MaskCodec:
  del stamp  # Part of the cache's key, so that a changed file is read again.
  return MaskCodec(read(path))


def _in_chunks(function, values: np.ndarray, shape: tuple[int, ...], dtype) -> np.ndarray:
  out = np.empty((len(values), *shape), dtype)
  for i in range(0, len(values), _CHUNK):
    out[i : i + _CHUNK] = function(values[i : i + _CHUNK])
  return out


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
  outs = dict(zip(DOWN, encoder, strict=True))
  outs |= dict(zip((FROM_CODE, *UP), decoder, strict=True))
  return _chain(num_codes, code_dim, outs, _ENCODER)


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
  problems = []
  for what, names, others in (("missing", missing, surplus), ("surplus", surplus, missing)):
    for name in names:
      near = "".join(f" (near: {other})" for other in errors.near(name, others, n=1))
      problems.append(f"{what} {name}.{near}")
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


def _chain(num_codes, code_dim, outs, encoder) -> dict[str, tuple[int, ...]]:
  """The shapes; each layer takes the channels of the one before.

  `outs` has the output channels of layers that others do not determine, `encoder` kernel sizes.
  """
  result: dict[str, tuple[int, ...]] = {CODEBOOK: (num_codes, code_dim)}
  for layers, width, last in ((encoder, 1, code_dim), (_DECODER, code_dim, 1)):
    for layer, side in layers.items():
      end = layer in (TO_CODE, TO_MASK)
      out = width if _WIDTH_KEPT in layer else last if end else outs[layer]
      sides = (width, out) if layer in UP else (out, width)
      result[f"{layer}.weight"] = (*sides, side, side)
      result[f"{layer}.bias"] = (out,)
      width = out
  return result


def _wrong_shapes(found: Mapping[str, tuple[int, ...]]) -> list[str]:
  """Shapes that do not fit each other, with widths taken from the biases; all names must exist."""
  problems = []
  if len(found[CODEBOOK]) != 2 or not 1 <= found[CODEBOOK][0] <= MAX_CODES:
    return [f"{CODEBOOK} is {list(found[CODEBOOK])}; expected [codes up to {MAX_CODES}, width]"]
  # A bias of another rank is found below.
  outs = {layer: math.prod(found[f"{layer}.bias"]) for layer in _ENCODER | _DECODER}
  encoder = dict.fromkeys(_ENCODER, 1)
  for layer in encoder:
    weight = found[f"{layer}.weight"]
    if len(weight) == 4 and weight[2] == weight[3] and 1 <= weight[2] <= _MAX_KERNEL:
      encoder[layer] = weight[2]
    else:
      problems.append(f"{layer}.weight is {list(weight)}; expected a square kernel up to 7 x 7")
  num_codes, code_dim = found[CODEBOOK]
  expected = _chain(num_codes, code_dim, outs, encoder)
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
      raise errors.CheckpointError(
        f"{path}: is encrypted, or compressed by another method than deflate."
      )
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
          raise errors.CheckpointError(f"{path}: {info.filename!r} is a duplicate or no array.")
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


@spec.spec
class CodecRecipe:
  """A training run of `models.mask_codec`.

  Attributes:
    source: rows with a column `mask`, bool[H, W], cut out at its box.
    held_out: rows to score the result on.
    num_codes, code_dim, encoder, decoder: sizes, as in `shapes`.
    steps, batch_size: length of the run; masks are randomly mirrored and transposed.
    plain_steps: steps at the start without quantization to codes.
    lr: peak of Adam's cosine schedule.
    commitment: weight of the distance from encoder outputs to their codes.
    decay: of the running means of the codes.
    report_every: steps between lines of progress.
    seed: of parameters, order and restarts.
  """

  source: Any
  held_out: Any
  num_codes: int = 128
  code_dim: int = 32
  encoder: tuple = (8, 16, 24, 20)
  decoder: tuple = (24, 16, 16, 8, 4)
  steps: int = 3200
  batch_size: int = 32
  plain_steps: int = 400
  lr: float = 3e-3
  commitment: float = 0.25
  decay: float = 0.98
  report_every: int = 100
  seed: int = 0

  def __post_init__(self):
    if not 1 <= self.num_codes <= MAX_CODES:
      raise errors.ConfigError(
        f"CodecRecipe.num_codes={self.num_codes!r}: there are {MAX_CODES} <seg> tokens."
      )
    if self.num_codes > NUM_CODES * self.batch_size:
      raise errors.ConfigError(
        f"CodecRecipe.batch_size={self.batch_size!r} is too small: its masks, with 16 codes"
        f" each, must have at least num_codes={self.num_codes} to replace unused codes."
      )
    if len(self.encoder) != 4 or len(self.decoder) != 5:
      raise errors.ConfigError("CodecRecipe: encoder takes four numbers of channels, decoder five.")
    if min(self.steps, self.batch_size, self.report_every) < 1:
      raise errors.ConfigError(
        "CodecRecipe: steps, batch_size and report_every must be at least 1."
      )

  def shapes(self) -> dict[str, tuple[int, ...]]:
    """{published name: shape} of the codec."""
    return shapes(
      num_codes=self.num_codes, code_dim=self.code_dim, encoder=self.encoder, decoder=self.decoder
    )
