"""Asked-for masks: how well do the painted mask and its box fit the true ones?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from paligemma_jax.core import errors
from paligemma_jax.core import spec
from paligemma_jax.evals import base
from paligemma_jax.evals import boxes
from paligemma_jax.regions import loc
from paligemma_jax.regions import mask_codec
from paligemma_jax.regions import seg


@spec.spec
class Segmentation(base.Metric):
  """RefCOCO's segmentation by the rules of the reference: is the object outlined right?

  The first twenty tokens of a prediction must be four loc and sixteen seg tokens of a box with an
  area; the rest is ignored. So `max_len` is at least 20, and more where a label follows. The
  decoded mask is resized to the box's pixels (whose corners are truncated), set where it is above
  0, and compared with the true mask at full resolution. Boxes are compared as shares of the
  image.

  Attributes:
    mask: the column of the true mask, bool[H, W] or the bytes of a PNG file.
    box: the column of the true box, (y_min, x_min, y_max, x_max) as shares; '' takes the least box
      that holds the true mask.
    codec: '' is the small embedded codec, else the path of one; the data must be made with it.
    bins: 1023 (the reference) or 1024, how loc tokens become coordinates.

  Metrics:
    miou: mean overlap (IoU) of predicted and true masks; 0 for an invalid prediction.
    ciou: the sum of the overlaps' pixels by that of the unions', also called oIoU, which papers on
      referring segmentation print: a large object counts more. An invalid prediction adds its true
      mask to the unions.
    boxacc/0.5, boxacc/0.75: share of the predicted boxes that overlap the true one at least so.
    invalid: number of predictions without a readable mask, or with a box smaller than a pixel
      (whose box still counts).
    total: rows scored.
  """

  mask: str = "mask"
  box: str = "box"
  codec: str = ""
  bins: int = 1023

  reads = ("mask",)
  may_read = ("box",)

  def __post_init__(self):
    loc.check_bins(self.bins)

  def table(self, rows: Sequence[base.Row], outputs: Sequence[base.Output]) -> base.Table:
    """iou and box_iou of each row, its mask's pixels, whether it is invalid.

    Not row by row: all masks are decoded together.

    Raises:
      DataError: a true mask or box that is none.
      CheckpointError: a codec that cannot be read.
    """
    model = mask_codec.open_codec(self.codec)
    segments = [seg.parse(o.text, codec=model, bins=self.bins) for o in outputs]
    squares = iter(_decoded([s.codes for s in segments if s is not None], model))
    box_ious, common, either, invalid = [], [], [], []
    for i, (segment, row) in enumerate(zip(segments, rows, strict=True)):
      with base.of_row(i):
        true_mask, true_box = self._target(row)
      painted = None
      if segment is not None:
        painted = seg.paint(next(squares), segment.box, *true_mask.shape)
      box_ious.append(0.0 if segment is None else boxes.iou(segment.box, true_box))
      for places, count in zip((common, either), _pixels(painted, true_mask, segment), strict=True):
        places.append(count)
      invalid.append(painted is None)
    ious = [c / e if e else 0.0 for c, e in zip(common, either, strict=True)]
    columns = {"iou": ious, "box_iou": box_ious, "common": common, "either": either}
    columns |= {"invalid": invalid}
    return {name: np.array(values, np.float64) for name, values in columns.items()}

  def summary(self, table: base.Table) -> dict[str, float]:
    """The metrics above."""
    return {
      "miou": base.mean_of(table["iou"]),
      "ciou": float(table["common"].sum() / max(table["either"].sum(), 1.0)),
      "boxacc/0.5": base.mean_of(table["box_iou"] >= 0.5),
      "boxacc/0.75": base.mean_of(table["box_iou"] >= 0.75),
      "invalid": float(table["invalid"].sum()),
      "total": base.num_rows(table),  # As the reference calls it; `num` is the house's name.
      "num": base.num_rows(table),
    }

  def baseline(self, rows: Sequence[base.Row]) -> dict[str, float]:
    """The same metrics of always giving the mean true box of these very rows, filled."""
    found = []
    for i, row in enumerate(rows):
      with base.of_row(i):
        found.append(self._target(row)[1])
    if not found:
      return self.score([], [])
    middle = loc.Box(*(base.mean(side) for side in zip(*found, strict=True)))
    model = mask_codec.open_codec(self.codec)
    codes = model.encode(np.ones((1, mask_codec.SIDE, mask_codec.SIDE), bool))[0].tolist()
    text = seg.format_segment(middle, codes, bins=self.bins)
    return self.score(rows, base.outputs_of([text] * len(rows)))

  def _target(self, row: base.Row) -> tuple[np.ndarray, loc.Box]:
    """The true mask, bool[H, W], and the true box."""
    value = base.column(row, self.mask)
    try:
      true_mask = seg.as_mask(value)
    except errors.DataError as e:
      raise errors.DataError(f"column {self.mask!r}: {e}") from None
    if not self.box:
      return true_mask, seg.least_box(true_mask)
    value = base.column(row, self.box)
    try:
      return true_mask, loc.Box(*(float(v) for v in value))
    except (TypeError, ValueError):
      expected = "a box of four numbers, y_min, x_min, y_max, x_max"
      raise base.unexpected(row, self.box, expected) from None


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
