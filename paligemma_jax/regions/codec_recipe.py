"""What a mask codec is trained on and how: the spec that configs/mask_codec.py returns."""

from __future__ import annotations

from typing import Any

from paligemma_jax.core import errors
from paligemma_jax.core import spec
from paligemma_jax.regions import mask_codec_file

_CODED_GRID = 16


@spec.spec
class CodecRecipe:
  """A training run of `models.mask_codec`.

  Attributes:
    source: rows with a column `mask`, bool[H, W], cut out at its box.
    held_out: the rows on which the result is scored.
    num_codes, code_dim, encoder, decoder: sizes, as in `mask_codec_file.shapes`.
    steps, batch_size: length of the run. Masks are mirrored and transposed at random on the way.
    plain_steps: the first so many steps are without codes.
    lr: peak of Adam's cosine schedule.
    commitment: weight of the distance from encoder outputs to their codes.
    decay: of the codes' running means.
    report_every: steps between two lines of progress.
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
    if self.num_codes > _CODED_GRID * self.batch_size:
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
      num_codes=self.num_codes,
      code_dim=self.code_dim,
      encoder=self.encoder,
      decoder=self.decoder,
    )
