"""Encodes masks to sixteen codes and decodes them: the VQ-VAE of the `<seg…>` tokens, in NumPy.

The architecture is that of arXiv 2301.02229 as PaliGemma uses it. An encoder of four convolutions
of stride 2 (SAME, ReLU) makes 4 x 4 vectors of a mask of 64 x 64; the code of each is the nearest
row of the codebook. A decoder of four transposed convolutions inverts it. `models.mask_codec` is
the same in JAX, for training.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from paligemma_jax.core import errors
from paligemma_jax.core import spec
from paligemma_jax.regions import mask_codec_file

SIDE = 64  # Pixels of a coded mask.
GRID = 4  # Codes along one side.
NUM_CODES = GRID * GRID
EMBEDDED = pathlib.Path(__file__).resolve().parent.parent / "assets" / "demo" / "mask_codec.npz"

DOWN = ("encoder.0", "encoder.2", "encoder.4", "encoder.6")
UP = ("decoder.4", "decoder.6", "decoder.8", "decoder.10")
ENCODER_BLOCKS = ("encoder.8.net", "encoder.9.net")
DECODER_BLOCKS = ("decoder.2.net", "decoder.3.net")
TO_CODE, FROM_CODE, TO_MASK = "encoder.10", "decoder.0", "decoder.12"
CODEBOOK = mask_codec_file.CODEBOOK

_CHUNK = 32  # Masks at a time, whose patches fit into the processor's caches.


@dataclasses.dataclass(frozen=True)
class MaskCodec:
  """A codec; `weights` is {published name: float32 array} as stored, see `mask_codec_file`."""

  weights: Mapping[str, np.ndarray]

  @property
  def codebook(self) -> np.ndarray:
    """float32[codes, D]."""
    return self.weights[CODEBOOK]

  def encode(self, masks: np.ndarray) -> np.ndarray:
    """int64[N, 16], row by row: the nearest codes of each mask.

    Args:
      masks: bool[N, 64, 64], or float[N, 64, 64] in [-1, 1], where 1 is the object.
    """
    masks = np.asarray(masks)
    assert masks.ndim == 3 and masks.shape[1:] == (SIDE, SIDE), masks.shape
    x = masks * np.float32(2) - np.float32(1) if masks.dtype == bool else masks
    return _in_chunks(self._encode, x.astype(np.float32), (NUM_CODES,), np.int64)

  def decode(self, codes: np.ndarray) -> np.ndarray:
    """float32[N, 64, 64], about -1 to 1, above 0 on the object.

    Args:
      codes: int[N, 16], each below the number of codes.
    """
    codes = np.asarray(codes)
    assert codes.ndim == 2 and codes.shape[1] == NUM_CODES, codes.shape
    return _in_chunks(self._decode, codes, (SIDE, SIDE), np.float32)

  def _encode(self, x: np.ndarray) -> np.ndarray:
    x = x[..., None]
    for name in DOWN:
      x = np.maximum(self._conv(x, name, stride=2), 0)
    for name in ENCODER_BLOCKS:
      x = self._block(x, name)
    x = self._conv(x, TO_CODE).reshape(-1, self.codebook.shape[1])
    distance = (self.codebook**2).sum(axis=1) - 2 * (x @ self.codebook.T)  # Without |x|².
    return distance.argmin(axis=1).reshape(-1, NUM_CODES)

  def _decode(self, codes: np.ndarray) -> np.ndarray:
    x = self.codebook[codes].reshape(-1, GRID, GRID, self.codebook.shape[1])
    x = np.maximum(self._conv(x, FROM_CODE), 0)
    for name in DECODER_BLOCKS:
      x = self._block(x, name)
    for name in UP:
      x = np.maximum(self._up(x, name), 0)
    return self._conv(x, TO_MASK)[..., 0]

  def _block(self, x: np.ndarray, name: str) -> np.ndarray:
    y = np.maximum(self._conv(x, f"{name}.0"), 0)
    y = np.maximum(self._conv(y, f"{name}.2"), 0)
    return x + self._conv(y, f"{name}.4")

  @functools.cached_property
  def _matrices(self) -> dict[str, np.ndarray]:
    """Weights as matrices for matmuls: [ky kx in, out]; transposed ones [in, ky kx out]."""
    out = {}
    for name, w in self.weights.items():
      if name.endswith(".weight"):
        stem = name.removesuffix(".weight")
        if stem in UP:  # (in, out, ky, kx)
          out[stem] = np.ascontiguousarray(w.transpose(0, 2, 3, 1).reshape(w.shape[0], -1))
        else:  # (out, in, ky, kx)
          out[stem] = np.ascontiguousarray(w.transpose(2, 3, 1, 0).reshape(-1, w.shape[0]))
    return out

  def _conv(self, x: np.ndarray, name: str, stride: int = 1) -> np.ndarray:
    """SAME convolution of float32[N, H, W, C] as one matmul of its patches."""
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

  def _up(self, x: np.ndarray, name: str) -> np.ndarray:
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
  return _read(path, mask_codec_file.stamp(path, codec))


@functools.lru_cache(maxsize=4)
def _read(path: pathlib.Path, stamp: tuple[int, int]) -> MaskCodec:
  del stamp  # Part of the cache's key, so that a changed file is read again.
  return MaskCodec(mask_codec_file.read(path))


def _in_chunks(function, values: np.ndarray, shape: tuple[int, ...], dtype) -> np.ndarray:
  out = np.empty((len(values), *shape), dtype)
  for i in range(0, len(values), _CHUNK):
    out[i : i + _CHUNK] = function(values[i : i + _CHUNK])
  return out


@spec.spec
class CodecRecipe:
  """A training run of `models.mask_codec`.

  Attributes:
    source: rows with a column `mask`, bool[H, W], cut out at its box.
    held_out: rows to score the result on.
    num_codes, code_dim, encoder, decoder: sizes, as in `mask_codec_file.shapes`.
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
    if not 1 <= self.num_codes <= mask_codec_file.MAX_CODES:
      raise errors.ConfigError(
        f"CodecRecipe.num_codes={self.num_codes!r}: there are {mask_codec_file.MAX_CODES}"
        " <seg> tokens."
      )
    if self.num_codes > NUM_CODES * self.batch_size:
      raise errors.ConfigError(
        f"CodecRecipe.batch_size={self.batch_size!r} is too small: its 16 codes per mask must be"
        f" as many as num_codes={self.num_codes}, or dead codes cannot start anew."
      )
    if len(self.encoder) != 4 or len(self.decoder) != 5:
      raise errors.ConfigError("CodecRecipe: encoder has four numbers of channels, decoder five.")
    if min(self.steps, self.batch_size, self.report_every) < 1:
      raise errors.ConfigError("CodecRecipe: steps, batch_size and report_every are at least 1.")

  def shapes(self) -> dict[str, tuple[int, ...]]:
    """{published name: shape} of the codec."""
    return mask_codec_file.shapes(
      num_codes=self.num_codes, code_dim=self.code_dim, encoder=self.encoder, decoder=self.decoder
    )
