"""Asked-for boxes: were the objects of the prompt found, and how well do the boxes fit?"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from paligemma_jax.core import errors
from paligemma_jax.core import spec
from paligemma_jax.evals import base
from paligemma_jax.regions import loc


def box_accuracy(
  predictions: Sequence[str],
  rows: Sequence[Mapping[str, Any]],
  *,
  truth: str = "suffix",
  bins: int = 1024,
) -> dict[str, float]:
  """How many of the true boxes were found, and how well.

  Predicted and true boxes with the same label are paired greedily, the highest overlap first; each
  box is used once. A true box that was left alone has an overlap (IoU) of 0.

  Args:
    predictions: one text per row.
    rows: each has the column `truth`: the true text, as in '<loc0010>… cat ; <loc0500>… dog'.
    truth: the name of that column.
    bins: 1023 or 1024, how loc tokens become coordinates, in both texts.

  Returns:
    acc/0.5, acc/0.75: share of the true boxes found with at least that overlap.
    miou: mean overlap of the true boxes.
    precision/0.5: share of the predicted boxes that found a true one with at least that overlap; it
      falls when boxes are strewn about.
    invalid, invalid_share: rows whose prediction has an unreadable part, or nothing where something
      was asked for; their number and share.
    num, num_boxes, num_predicted: rows, true boxes and predicted boxes.

  Raises:
    DataError: a true text that is not readable.
  """
  overlaps, num_predicted, num_invalid = [], 0, 0
  for i, (prediction, row) in enumerate(zip(predictions, rows, strict=True)):
    true_objects = _read_truth(base.column(row, truth, i), truth, i, bins=bins)
    said = loc.parse_boxes(prediction, bins=bins)
    overlaps += match(true_objects, said)
    num_predicted += len(said.boxes)
    num_invalid += bool(said.num_invalid or (true_objects.boxes and not said.boxes))
  num_found = sum(v >= 0.5 for v in overlaps)
  return {
    "acc/0.5": base.mean(float(v >= 0.5) for v in overlaps),
    "acc/0.75": base.mean(float(v >= 0.75) for v in overlaps),
    "miou": base.mean(overlaps),
    "precision/0.5": num_found / max(num_predicted, 1),
    "invalid": float(num_invalid),
    "invalid_share": num_invalid / max(len(predictions), 1),
    "num": float(len(predictions)),
    "num_boxes": float(len(overlaps)),
    "num_predicted": float(num_predicted),
  }


def iou(a: loc.Box, b: loc.Box) -> float:
  """Intersection over union in [0, 1]; equal boxes score 1 even without an area."""
  if a == b:
    return 1.0
  height = min(a.y_max, b.y_max) - max(a.y_min, b.y_min)
  width = min(a.x_max, b.x_max) - max(a.x_min, b.x_min)
  if height <= 0 or width <= 0:
    return 0.0
  intersection = height * width
  return intersection / (_area(a) + _area(b) - intersection)


def match(truth: loc.Parsed, said: loc.Parsed) -> list[float]:
  """For each true box the overlap with its predicted partner, 0.0 where it has none."""
  pairs = sorted(
    (
      (-iou(true_box, box), t, p)
      for t, (true_box, true_label) in enumerate(zip(truth.boxes, truth.labels, strict=True))
      for p, (box, label) in enumerate(zip(said.boxes, said.labels, strict=True))
      if true_label == label
    ),
  )
  overlaps = [0.0] * len(truth.boxes)
  free_truth, free_said = set(range(len(truth.boxes))), set(range(len(said.boxes)))
  for negative_iou, t, p in pairs:
    if t in free_truth and p in free_said:
      overlaps[t] = -negative_iou
      free_truth.remove(t)
      free_said.remove(p)
  return overlaps


@spec.spec
class BoxAccuracy(base.Evaluator):
  """Are the asked-for objects found, with boxes that fit? The truth is a loc text."""

  truth: str = "suffix"
  bins: int = 1024

  def __post_init__(self):
    loc.check_bins(self.bins)

  def columns(self) -> tuple[str, ...]:
    """The column of the true loc text."""
    return (self.truth,)

  def score(
    self, rows: Sequence[Mapping[str, Any]], outputs: Sequence[base.Output]
  ) -> dict[str, float]:
    """The metrics of `box_accuracy`."""
    return box_accuracy([o.text for o in outputs], rows, truth=self.truth, bins=self.bins)

  def baseline(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The same metrics of always giving the mean true box of these very rows, rightly labelled."""
    truths = [
      _read_truth(base.column(row, self.truth, i), self.truth, i, bins=self.bins)
      for i, row in enumerate(rows)
    ]
    boxes = [box for truth in truths for box in truth.boxes]
    middle = loc.Box(*(base.mean(side) for side in zip(*boxes, strict=True))) if boxes else None
    texts = [
      loc.format_boxes([middle] * len(truth.boxes), truth.labels, bins=self.bins)
      for truth in truths
    ]
    return box_accuracy(texts, rows, truth=self.truth, bins=self.bins)


def _area(box: loc.Box) -> float:
  return (box.y_max - box.y_min) * (box.x_max - box.x_min)


def _read_truth(text: Any, name: str, i: int, *, bins: int) -> loc.Parsed:
  parsed = loc.parse_boxes(text, bins=bins) if isinstance(text, str) else None
  if parsed is None or parsed.num_invalid:
    raise errors.DataError(
      f"Row {i} of those to score: column {name!r} holds {text!r}, which is no text of boxes;"
      " expected '<loc0012><loc0034><loc0056><loc0078> label', several joined by ' ; '."
    )
  return parsed
