"""Masks of a row to the text the model learns to write; see `regions.seg` for the conventions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from paligemma_jax.core import errors
from paligemma_jax.core import spec as spec_lib
from paligemma_jax.pp import columns
from paligemma_jax.regions import loc
from paligemma_jax.regions import mask_codec
from paligemma_jax.regions import seg

_TINY = ("drop", "error")


@spec_lib.spec
class MaskToText:
  """A mask column to '<loc…> x 4 <seg…> x 16', or several masks to such texts joined by ' ; '.

  For data sets with several objects an image and several sentences an object, as RefCOCO's:

      pp.Choice(("objects/mask", "objects/bbox", "objects/refs/sentence"), ("mask", "box", "refs")),
      pp.Choice("refs", "prefix", each_once=False),  # Drawn anew: in step with the objects, each
      pp.MaskToText(),                               # would always meet the same sentence.

  Attributes:
    codec: '' is the small embedded codec; the published models need the published one: the path of
      vae-oid.npz. Evaluators must be given the same.
    mask: the column with the mask of the whole image (bool[H, W], or the bytes of a PNG file), or
      with a list of masks.
    box: the column with its box (or a list of boxes), (y_min, x_min, y_max, x_max) as shares of
      the image's height and width; '' takes the least box that holds the mask.
    labels: the column with one label, or one per mask, written behind the tokens; '' writes none.
    bins: 1023 (the reference) or 1024: how a coordinate becomes a loc token, see `regions.loc`.
    tiny: an object that is thinner than a pixel or than a loc token can say: "drop" leaves it out
      of a text of several, "error" rejects the row. A row with none that is larger is rejected.
    out: the column of the result.

  Notes: tiny_masks_dropped.
  """

  codec: str = ""
  mask: str = "mask"
  box: str = "box"
  labels: str = ""
  bins: int = 1023
  tiny: str = "drop"
  out: str = "suffix"

  def __post_init__(self):
    errors.pick(dict.fromkeys(_TINY), self.tiny, "tiny of MaskToText")
    loc.check_bins(self.bins)

  def needs(self) -> tuple[str, ...]:
    return tuple(name for name in (self.mask, self.box, self.labels) if name)

  def makes(self) -> tuple[str, ...]:
    return (self.out,)

  def __call__(self, row: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    value = columns.get(row, self.mask)
    several = isinstance(value, (list, tuple))
    try:
      masks = _masks(value if several else [value])
    except errors.DataError as e:
      raise errors.DataError(f"column {self.mask!r}: {e}") from None
    boxes: list[Any] = [None] * len(masks)
    if self.box:
      found = columns.get(row, self.box)
      boxes = columns.entries(found, self.box) if several else [found]
    labels = [""] * len(masks)
    if self.labels:
      said = columns.get(row, self.labels)
      one = isinstance(said, (str, bytes))
      said = [said] * len(masks) if one else columns.entries(said, self.labels)
      labels = [columns.as_text(v, self.labels) for v in said]
    codec = mask_codec.open_codec(self.codec)
    tiny: list[int] | None = [] if self.tiny == "drop" else None
    text = seg.masks_to_text(masks, boxes, labels, codec=codec, bins=self.bins, tiny=tiny)
    notes = {columns.NOTES: columns.with_notes(row, ("tiny_masks_dropped",))} if tiny else {}
    return {**row, self.out: text, **notes}


def _masks(values: Sequence[Any]) -> list[np.ndarray]:
  """bool[H, W] each; a row may have MAX_ROW_ITEMS of them, of MAX_MASK_PIXELS in all."""
  if len(values) > columns.MAX_ROW_ITEMS:
    raise errors.DataError(f"{len(values)} masks; a row may have {columns.MAX_ROW_ITEMS}.")
  out, left = [], columns.MAX_MASK_PIXELS
  for value in values:
    out.append(seg.as_mask(value))
    left -= out[-1].size
    if left < 0:
      raise errors.DataError(
        f"the {len(values)} masks of the row have more than {columns.MAX_MASK_PIXELS} pixels in"
        " all."
      )
  return out
