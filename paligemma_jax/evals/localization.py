"""Boxes and masks of the objects in the prompt: are they found, and how well do they fit?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from paligemma_jax.core import errors
from paligemma_jax.core import spec
from paligemma_jax.evals import base
from paligemma_jax.regions import loc
from paligemma_jax.regions import mask_codec
from paligemma_jax.regions import seg


@spec.spec
class BoxAccuracy(base.Evaluator):
  """Are the objects in the prompt found, with boxes that fit?

  Predicted and true boxes with the same label are matched greedily by IoU, each at most once. An
  unmatched true box has an IoU of 0.

  Attributes:
    target: the column with the true text, as in '<loc0010>… cat ; <loc0500>… dog'.
    bins: 1023 or 1024, how loc tokens become coordinates, in both texts.

  Metrics:
    acc/0.5, acc/0.75: fraction of true boxes matched with at least that IoU.
    miou: mean IoU of the true boxes.
    precision/0.5: fraction of predicted boxes matched with at least that IoU.
    invalid, invalid_share: number and fraction of rows whose prediction has an unreadable part, or
      no box where there is a true one.
    num, num_boxes, num_predicted: rows, true boxes and predicted boxes.
  """

  target: str = "suffix"
  bins: int = 1024

  reads = ("target",)

  def __post_init__(self):
    loc.check_bins(self.bins)

  def score(self, rows: Sequence[base.Row], outputs: Sequence[base.Output]) -> dict[str, float]:
    """The metrics above; DataError for an unreadable true text."""
    overlaps: list[float] = []
    num_predicted = num_invalid = 0
    for true_objects, output in zip(base.each(self._target, rows), outputs, strict=True):
      prediction = loc.parse_boxes(output.text, bins=self.bins)
      overlaps += match(true_objects, prediction)
      num_predicted += len(prediction.boxes)
      num_invalid += bool(prediction.num_invalid or (true_objects.boxes and not prediction.boxes))
    num_found = sum(v >= 0.5 for v in overlaps)
    return {
      "acc/0.5": base.mean(float(v >= 0.5) for v in overlaps),
      "acc/0.75": base.mean(float(v >= 0.75) for v in overlaps),
      "miou": base.mean(overlaps),
      "precision/0.5": num_found / max(num_predicted, 1),
      "invalid": float(num_invalid),
      "invalid_share": num_invalid / max(len(outputs), 1),
      "num": float(len(outputs)),
      "num_boxes": float(len(overlaps)),
      "num_predicted": float(num_predicted),
    }

  def baseline(self, rows: Sequence[base.Row]) -> dict[str, float]:
    """The metrics of the mean true box of these rows, with the true labels."""
    targets = base.each(self._target, rows)
    boxes = [box for target in targets for box in target.boxes]
    mean_box = [base.mean(side) for side in zip(*boxes, strict=True)]
    texts = (
      loc.format_boxes([mean_box] * len(target.boxes), target.labels, bins=self.bins)
      for target in targets
    )
    return self.score(rows, base.outputs_of(texts))

  def _target(self, row: base.Row) -> loc.Parsed:
    text = base.column(row, self.target)
    parsed = loc.parse_boxes(text, bins=self.bins) if isinstance(text, str) else None
    if parsed is None or parsed.num_invalid:
      expected = "'<loc0012><loc0034><loc0056><loc0078> label', several joined by ' ; '"
      raise base.unexpected(row, self.target, expected)
    return parsed


def iou(a: loc.Box, b: loc.Box) -> float:
  """Intersection over union in [0, 1]; equal boxes have 1 even without an area."""
  if a == b:
    return 1.0
  height = min(a.y_max, b.y_max) - max(a.y_min, b.y_min)
  width = min(a.x_max, b.x_max) - max(a.x_min, b.x_min)
  if height <= 0 or width <= 0:
    return 0.0
  intersection = height * width
  area_a, area_b = ((box.y_max - box.y_min) * (box.x_max - box.x_min) for box in (a, b))
  return intersection / (area_a + area_b - intersection)


def match(target: loc.Parsed, prediction: loc.Parsed) -> list[float]:
  """The IoU of each true box with its match, 0.0 without one."""
  pairs = sorted(
    (
      (-iou(true_box, box), t, p)
      for t, (true_box, true_label) in enumerate(zip(target.boxes, target.labels, strict=True))
      for p, (box, label) in enumerate(zip(prediction.boxes, prediction.labels, strict=True))
      if true_label == label
    ),
  )
  overlaps = [0.0] * len(target.boxes)
  free_target, free_prediction = set(range(len(target.boxes))), set(range(len(prediction.boxes)))
  for negative_iou, t, p in pairs:
    if t in free_target and p in free_prediction:
      overlaps[t] = -negative_iou
      free_target.remove(t)
      free_prediction.remove(p)
  return overlaps


@spec.spec
class Segmentation(base.Metric):
  """RefCOCO's segmentation by the rules of the reference.

  The first twenty tokens of a prediction must be four loc and sixteen seg tokens of a box with an
  area; the rest is ignored. So `max_len` is at least 20, and more where a label follows. The
  decoded mask is resized to the box's pixels (with truncated corners), thresholded at 0, and
  compared with the true mask at full resolution. Boxes are compared as fractions of the image.

  Attributes:
    mask: the column of the true mask, bool[H, W] or the bytes of a PNG file.
    box: the column of the true box, (y_min, x_min, y_max, x_max) as fractions of the image; '' is
      the bounding box of the true mask.
    codec: '' is the small embedded codec, else the path of one; the data must be made with it.
    bins: 1023 (the reference) or 1024, how loc tokens become coordinates.

  Metrics:
    miou: mean IoU of predicted and true masks; 0 for an invalid prediction.
    ciou: the sum of intersections over the sum of unions, in pixels; also called oIoU in papers on
      referring segmentation. An invalid prediction adds its true mask to the unions.
    boxacc/0.5, boxacc/0.75: fraction of rows whose predicted box has at least that IoU.
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
    """iou, box_iou, pixels of intersection and union, and invalid; masks are decoded together.

    DataError of a wrong true mask or box, CheckpointError of a codec that cannot be read.
    """
    model = mask_codec.open_codec(self.codec)
    segments = [seg.parse(o.text, codec=model, bins=self.bins) for o in outputs]
    squares = iter(_decoded([s.codes for s in segments if s is not None], model))

    def line(row: base.Row, segment: seg.Segment | None) -> tuple[float, ...]:
      true_mask, true_box = self._target(row)
      box_iou, painted = 0.0, None
      common, either = 0, int(true_mask.sum())
      if segment is not None:
        box_iou = iou(segment.box, true_box)
        painted = seg.paint(next(squares), segment.box, *true_mask.shape)
        if painted is not None:
          y_min, x_min, y_max, x_max = seg.pixel_box(segment.box, *true_mask.shape)
          common = int((true_mask[y_min:y_max, x_min:x_max] & painted).sum())
          either += int(painted.sum()) - common
      return common / either if either else 0.0, box_iou, common, either, painted is None

    lines = base.each(line, rows, segments)
    columns = np.array(lines, np.float64).reshape(-1, 5).T
    return dict(zip(("iou", "box_iou", "common", "either", "invalid"), columns, strict=True))

  def summary(self, table: base.Table) -> dict[str, float]:
    return {
      "miou": base.mean_of(table["iou"]),
      "ciou": float(table["common"].sum()) / max(float(table["either"].sum()), 1.0),
      "boxacc/0.5": base.mean_of(table["box_iou"] >= 0.5),
      "boxacc/0.75": base.mean_of(table["box_iou"] >= 0.75),
      "invalid": float(table["invalid"].sum()),
      "total": base.num_rows(table),  # The reference's name for `num`.
      "num": base.num_rows(table),
    }

  def baseline(self, rows: Sequence[base.Row]) -> dict[str, float]:
    """The metrics of the mean true box of these rows, filled."""
    boxes = base.each(lambda row: self._target(row)[1], rows)
    if not boxes:
      return self.score([], [])
    mean_box = loc.Box(*(base.mean(side) for side in zip(*boxes, strict=True)))
    model = mask_codec.open_codec(self.codec)
    codes = model.encode(np.ones((1, mask_codec.SIDE, mask_codec.SIDE), bool))[0].tolist()
    text = seg.format_segment(mean_box, codes, bins=self.bins)
    return self.score(rows, base.outputs_of([text] * len(rows)))

  def _target(self, row: base.Row) -> tuple[np.ndarray, loc.Box]:
    """The true mask, bool[H, W], and the true box."""
    value = base.column(row, self.mask)
    with errors.within(f"column {self.mask!r}"):
      true_mask = seg.as_mask(value)
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
