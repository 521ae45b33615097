"""Asked-for masks: how well do the painted mask and its box fit the true ones?"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from paligemma_jax.core import errors
from paligemma_jax.core import spec
from paligemma_jax.evals import base
from paligemma_jax.evals import boxes
from paligemma_jax.evals import tables
from paligemma_jax.regions import loc
from paligemma_jax.regions import mask_codec
from paligemma_jax.regions import seg


def table(
  predictions: Sequence[str],
  rows: Sequence[Mapping[str, Any]],
  *,
  mask: str = "mask",
  box: str = "box",
  codec: str = "",
  bins: int = 1023,
) -> tables.Table:
  """iou and box_iou of each row, its mask's pixels, whether it is invalid; see `segmentation`."""
  model = mask_codec.open_codec(codec)
  segments = [seg.parse(text, codec=model, bins=bins) for text in predictions]
  squares = iter(_decoded([s.codes for s in segments if s is not None], model))
  box_ious, common, either, invalid = [], [], [], []
  for i, (segment, row) in enumerate(zip(segments, rows, strict=True)):
    true_mask = _true_mask(row, mask, i)
    true_box = _true_box(row, box, true_mask, i)
    painted = None
    if segment is not None:
      painted = seg.paint(next(squares), segment.box, *true_mask.shape)
    box_ious.append(0.0 if segment is None else boxes.iou(segment.box, true_box))
    for places, count in zip((common, either), _pixels(painted, true_mask, segment), strict=True):
      places.append(count)
    invalid.append(painted is None)
  ious = [c / e if e else 0.0 for c, e in zip(common, either, strict=True)]
  columns = {"iou": ious, "box_iou": box_ious, "common": common, "either": either}
  return tables.make({**columns, "invalid": invalid})


def summary(table: Mapping[str, np.ndarray]) -> dict[str, float]:
  """The metrics of `segmentation`."""
  return {
    "miou": tables.mean(table["iou"]),
    "ciou": float(table["common"].sum() / max(table["either"].sum(), 1.0)),
    "boxacc/0.5": tables.mean(table["box_iou"] >= 0.5),
    "boxacc/0.75": tables.mean(table["box_iou"] >= 0.75),
    "invalid": float(table["invalid"].sum()),
    "total": float(len(table["iou"])),  # As the reference calls it; `num` is the house's name.
    "num": float(len(table["iou"])),
  }


def segmentation(
  predictions: Sequence[str],
  rows: Sequence[Mapping[str, Any]],
  *,
  mask: str = "mask",
  box: str = "box",
  codec: str = "",
  bins: int = 1023,
) -> dict[str, float]:
  """The metrics of RefCOCO segmentation, by the rules of the reference's evaluator.

  The first twenty tokens of a prediction must be four loc and sixteen seg tokens of a box with an
  area; the rest is ignored. The decoded mask is resized to the box's pixels (whose corners are
  truncated), set where it is above 0, and compared with the true mask at full resolution. Boxes
  are compared as shares of the picture.

  Args:
    predictions: one text per row.
    rows: each has the columns `mask` and `box`.
    mask: the column of the true mask, bool[H, W] or the bytes of a PNG file.
    box: the column of the true box, (y_min, x_min, y_max, x_max) as shares; '' takes the least box
      that holds the true mask.
    codec: '' is the small embedded codec, else the path of one; the data must be made with it.
    bins: 1023 (the reference) or 1024, how loc tokens become coordinates.

  Returns:
    miou: mean overlap (IoU) of predicted and true masks; 0 for an invalid prediction.
    ciou: the sum of the overlaps' pixels by that of the unions', also called oIoU, which papers on
      referring segmentation print: a large object counts more. An invalid prediction adds its true
      mask to the unions.
    boxacc/0.5, boxacc/0.75: share of the predicted boxes that overlap the true one at least so.
    invalid: number of predictions without a readable mask, or with a box smaller than a pixel
      (whose box still counts).
    total: rows scored.

  Raises:
    DataError: a true mask or box that is none.
    CheckpointError: a codec that cannot be read.
  """
  return summary(table(predictions, rows, mask=mask, box=box, codec=codec, bins=bins))


@spec.spec
class Segmentation(base.Evaluator):
  """Is the asked-for object outlined right? Needs max_len >= 20, and more where a label follows.

  The fields `mask`, `box`, `codec` and `bins` are the options of the metric `segmentation`.
  """

  mask: str = "mask"
  box: str = "box"
  codec: str = ""
  bins: int = 1023

  def __post_init__(self):
    loc.check_bins(self.bins)

  def columns(self) -> tuple[str, ...]:
    """The columns of the true mask and box."""
    return (self.mask, self.box) if self.box else (self.mask,)

  def score(
    self, rows: Sequence[Mapping[str, Any]], outputs: Sequence[base.Output]
  ) -> dict[str, float]:
    """The metrics of `segmentation`."""
    return self._score([o.text for o in outputs], rows)

  def baseline(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The same metrics of always giving the mean true box of these very rows, filled."""
    found = [
      _true_box(row, self.box, _true_mask(row, self.mask, i), i) for i, row in enumerate(rows)
    ]
    if not found:
      return self._score([], [])
    middle = loc.Box(*(base.mean(side) for side in zip(*found, strict=True)))
    model = mask_codec.open_codec(self.codec)
    codes = model.encode(np.ones((1, mask_codec.SIDE, mask_codec.SIDE), bool))[0].tolist()
    text = seg.format_segment(middle, codes, bins=self.bins)
    return self._score([text] * len(rows), rows)

  def _score(self, texts: list[str], rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    return segmentation(texts, rows, mask=self.mask, box=self.box, codec=self.codec, bins=self.bins)


def _decoded(codes: list[tuple[int, ...]], model: mask_codec.MaskCodec) -> np.ndarray:
  """float32[N, 64, 64]; equal codes are decoded once."""
  if not codes:
    return np.zeros((0, mask_codec.SIDE, mask_codec.SIDE), np.float32)
  distinct, which = np.unique(np.array(codes), axis=0, return_inverse=True)
  return model.decode(distinct)[which.reshape(-1)]


def _pixels(
  painted: np.ndarray | None, true_mask: np.ndarray, segment: seg.Segment | None
) -> tuple[int, int]:
  """How many pixels both masks have, and either: one painted into its box, and one of the whole."""
  num_true = int(true_mask.sum())
  if painted is None:
    return 0, num_true
  y_min, x_min, y_max, x_max = seg.pixel_box(segment.box, *true_mask.shape)
  common = int((true_mask[y_min:y_max, x_min:x_max] & painted).sum())
  return common, num_true + int(painted.sum()) - common


def _true_mask(row: Mapping[str, Any], name: str, i: int) -> np.ndarray:
  try:
    return seg.as_mask(base.column(row, name, i))
  except errors.DataError as e:
    raise errors.DataError(f"Row {i} of those to score: column {name!r}: {e}") from None


def _true_box(row: Mapping[str, Any], name: str, true_mask: np.ndarray, i: int) -> loc.Box:
  if not name:
    try:
      return seg.least_box(true_mask)
    except errors.DataError as e:
      raise errors.DataError(f"Row {i} of those to score: {e}") from None
  value = base.column(row, name, i)
  try:
    return loc.Box(*(float(v) for v in value))
  except (TypeError, ValueError):
    raise errors.DataError(
      f"Row {i} of those to score: column {name!r} holds {value!r}; expected a box of four"
      " numbers, y_min, x_min, y_max, x_max."
    ) from None
