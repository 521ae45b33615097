"""Asked-for boxes: were the objects of the prompt found, and how well do the boxes fit?"""

from __future__ import annotations

from collections.abc import Sequence

from paligemma_jax.core import spec
from paligemma_jax.evals import base
from paligemma_jax.regions import loc


@spec.spec
class BoxAccuracy(base.Evaluator):
  """Are the asked-for objects found, with boxes that fit?

  Predicted and true boxes with the same label are paired greedily, the highest overlap first; each
  box is used once. A true box that was left alone has an overlap (IoU) of 0.

  Attributes:
    target: the column with the true text, as in '<loc0010>… cat ; <loc0500>… dog'.
    bins: 1023 or 1024, how loc tokens become coordinates, in both texts.

  Metrics:
    acc/0.5, acc/0.75: share of the true boxes found with at least that overlap.
    miou: mean overlap of the true boxes.
    precision/0.5: share of the predicted boxes that found a true one with at least that overlap; it
      falls when boxes are strewn about.
    invalid, invalid_share: rows whose prediction has an unreadable part, or nothing where something
      was asked for; their number and share.
    num, num_boxes, num_predicted: rows, true boxes and predicted boxes.
  """

  target: str = "suffix"
  bins: int = 1024

  reads = ("target",)

  def __post_init__(self):
    loc.check_bins(self.bins)

  def score(self, rows: Sequence[base.Row], outputs: Sequence[base.Output]) -> dict[str, float]:
    """The metrics above.

    Raises:
      DataError: a true text that is not readable.
    """
    overlaps, num_predicted, num_invalid = [], 0, 0
    for true_objects, output in zip(self._truths(rows), outputs, strict=True):
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
    """The same metrics of always giving the mean true box of these very rows, rightly labelled."""
    targets = self._truths(rows)
    boxes = [box for target in targets for box in target.boxes]
    middle = loc.Box(*(base.mean(side) for side in zip(*boxes, strict=True))) if boxes else None
    texts = (
      loc.format_boxes([middle] * len(target.boxes), target.labels, bins=self.bins)
      for target in targets
    )
    return self.score(rows, base.outputs_of(texts))

  def _truths(self, rows: Sequence[base.Row]) -> list[loc.Parsed]:
    found = []
    for i, row in enumerate(rows):
      with base.of_row(i):
        text = base.column(row, self.target)
        parsed = loc.parse_boxes(text, bins=self.bins) if isinstance(text, str) else None
        if parsed is None or parsed.num_invalid:
          expected = "'<loc0012><loc0034><loc0056><loc0078> label', several joined by ' ; '"
          raise base.unexpected(row, self.target, expected)
      found.append(parsed)
    return found


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


def match(target: loc.Parsed, prediction: loc.Parsed) -> list[float]:
  """For each true box the overlap with its predicted partner, 0.0 where it has none."""
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


def _area(box: loc.Box) -> float:
  return (box.y_max - box.y_min) * (box.x_max - box.x_min)
