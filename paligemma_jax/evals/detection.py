"""Detection as COCO scores it: mean average precision, with the model's own confidence."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from paligemma_jax.core import errors
from paligemma_jax.core import spec
from paligemma_jax.evals import base
from paligemma_jax.regions import loc

_LOC_LEN = 4 * len("<loc0000>")


@spec.spec
class CocoDetection(base.Evaluator):
  """Mean average precision, where a box's confidence is the likelihood of its label.

  The confidence is the probability of the label's tokens when the model wrote them (PaliGemma 2's
  recipe, arXiv 2412.03555). Put the tokens of noise and eos in `banned`, so that the model
  continues to write boxes up to `max_len`; their probability is not given to the labels. For texts
  without probabilities it is `scores`, a number for each readable box of each prediction, or else
  decreases with the order of the boxes.

  Attributes:
    boxes: the column with the true boxes, (y_min, x_min, y_max, x_max) as fractions of the image.
    labels: the column with a label per true box; labels are compared as texts.
    crowd: the column with a flag per true box that it is a crowd, which does not count; '' is none.
    areas: the column with the area of each true object in square pixels; '' takes the boxes'.
    height, width: the columns with the size of the image in pixels.
    bins: 1023 or 1024, how loc tokens become coordinates.
    by_class: adds the average precision of each true label.
    image_id: the column with the image's id, for a results file in COCO's format (image_id,
      category_id, bbox in pixels, score); '' writes none.
    categories: for that file, (label, id) of each class; a box with another label is left out and
      counted as `unknown`. () writes labels, as `category`, in place of ids.

  Metrics:
    map, map50, map75, map_small, map_medium, map_large, ar1, ar10, ar100, ar_small, ar_medium,
    ar_large: -1 where there is nothing to measure. Ties are resolved by the order of the rows,
      which should be that of their ids.
    ap/<label>, ap50/<label>: with `by_class`; map is the mean of the ap/<label>.
    invalid: unreadable parts of texts.
    num, num_boxes, num_predicted: rows, true boxes (crowds too) and predicted boxes.
    unknown: with `categories`, predicted boxes of none of them.
  """

  boxes: str = "boxes"
  labels: str = "labels"
  crowd: str = ""
  areas: str = ""
  height: str = "height"
  width: str = "width"
  bins: int = 1024
  by_class: bool = False
  image_id: str = ""
  categories: tuple = ()

  reads = ("boxes", "labels")
  may_read = ("crowd", "areas", "height", "width", "image_id")
  per_output = ("scores",)

  def __post_init__(self):
    loc.check_bins(self.bins)
    for pair in self.categories:
      good = isinstance(pair, tuple) and len(pair) == 2
      if not good or not isinstance(pair[0], str) or type(pair[1]) is not int:
        raise errors.ConfigError(
          f"evals.CocoDetection: categories holds {pair!r}; expected pairs of a label and a"
          " whole number, as in ('person', 1)."
        )

  def score(self, rows: Sequence[base.Row], outputs: Sequence[base.Output]) -> dict[str, float]:
    """The metrics above; DataError of a wrong true box, label, size or number of scores."""
    images, num_invalid = [], 0
    predicted_labels: list[str] = []
    targets = base.each(self._target, rows)
    for i, (out, (true_labels, target, size)) in enumerate(zip(outputs, targets, strict=True)):
      prediction = loc.parse_boxes(out.text, bins=self.bins)
      given = np.array(self._confidences(out, len(prediction.boxes)), float)
      if given.shape != (len(prediction.boxes),):
        raise errors.DataError(
          f"Prediction {i} has {len(prediction.boxes)} readable boxes but {given.size} scores."
        )
      detections = Detections(_pixels(prediction.boxes, size), given)
      true, predicted = (np.array(x, object) for x in (true_labels, prediction.labels))
      images.append({
          name: (
              GroundTruth(*(x[true == name] for x in target)),
              Detections(*(x[predicted == name] for x in detections)),
          )
          for name in dict.fromkeys((*true_labels, *prediction.labels))
      })  # fmt: skip
      num_invalid += prediction.num_invalid
      predicted_labels += prediction.labels
    found = {
      **mean_average_precision(images, by_class=self.by_class),
      "invalid": float(num_invalid),
      "num": float(len(images)),
      "num_boxes": float(sum(len(true_labels) for true_labels, _, _ in targets)),
      "num_predicted": float(len(predicted_labels)),
    }
    if self.categories:
      known = {label for label, _ in self.categories}
      found["unknown"] = float(sum(label not in known for label in predicted_labels))
    return found

  def files(self, rows: Sequence[base.Row], outputs: Sequence[base.Output]) -> dict[str, str]:
    """{name below `predictions/`: a COCO results file}."""
    if not self.image_id:
      return {}
    ids = dict(self.categories)
    results = []
    images = base.each(lambda row: (base.plain_id(row, self.image_id), self._size(row)), rows)
    for (image_id, size), out in zip(images, outputs, strict=True):
      prediction = loc.parse_boxes(out.text, bins=self.bins)
      scores = self._confidences(out, len(prediction.boxes))
      boxes = _pixels(prediction.boxes, size).tolist()
      for box, label, score in zip(boxes, prediction.labels, scores, strict=True):
        if ids and label not in ids:
          continue
        category = {"category_id": ids[label]} if ids else {"category": label}
        bbox = [round(v, 3) for v in box]
        results.append({"image_id": image_id, **category, "bbox": bbox, "score": score})
    return {f"{self.name}.json": json.dumps(results, ensure_ascii=False)}

  def _confidences(self, out: base.Output, num_boxes: int) -> Sequence[float]:
    if out.scores is not None:
      return out.scores
    if not out.token_ends:  # Without probabilities.
      return [float(n) for n in range(num_boxes, 0, -1)]
    return label_likelihoods(out, bins=self.bins)

  def _target(self, row: base.Row) -> tuple[list[str], GroundTruth, tuple[float, float]]:
    """A row's true labels, its true boxes and the size of its image."""
    size = self._size(row)
    names = [v.strip() for v in base.answers(row, self.labels)]
    corners = _numbers(row, self.boxes, (len(names), 4))
    with errors.within(f"column {self.boxes!r}"):
      for box in corners.tolist():
        loc.checked(box)
    pixels = _pixels(corners, size)
    crowd, areas = np.zeros(len(names), bool), pixels[:, 2] * pixels[:, 3]
    if self.crowd:
      crowd = _numbers(row, self.crowd, (len(names),)) != 0
    if self.areas:
      areas = _numbers(row, self.areas, (len(names),))
    return names, GroundTruth(pixels, crowd, areas), size

  def _size(self, row: base.Row) -> tuple[float, float]:
    height, width = (float(_numbers(row, name, ())) for name in (self.height, self.width))
    for name, number in ((self.height, height), (self.width, width)):
      if number <= 0:
        raise errors.DataError(f"column {name!r} holds {row[name]!r} pixels.")
    return height, width


def label_likelihoods(prediction: base.Output, *, bins: int) -> list[float]:
  """The likelihood of each readable box's label; without a label, of its last loc token."""
  found, start = [], 0
  for part in prediction.text.split(";"):
    if loc.parse_boxes(part, bins=bins).boxes:
      label_at = len(part) - len(part.lstrip()) + _LOC_LEN
      label = part[label_at:]
      begin = start + label_at + len(label) - len(label.lstrip())
      end = begin + len(label.strip())
      if begin >= end:
        begin, end = start + label_at - 1, start + label_at
      found.append(_likelihood(prediction, begin, end))
    start += len(part) + 1
  return found


def _likelihood(prediction: base.Output, begin: int, end: int) -> float:
  """The joint likelihood of the tokens that overlap `text[begin:end]`."""
  ends = prediction.token_ends
  tokens = zip((0, *ends[:-1]), ends, prediction.token_logprobs, strict=True)
  return math.exp(math.fsum(p for first, last, p in tokens if first < end and begin < last))


def _pixels(boxes: Any, size: tuple[float, float]) -> np.ndarray:
  """float64[N, 4], (x_min, y_min, width, height) in pixels, of fractions (y_min, x_min, …)."""
  height, width = size
  y_min, x_min, y_max, x_max = np.array(boxes, float).reshape(-1, 4).T
  sides = (x_min * width, y_min * height, (x_max - x_min) * width, (y_max - y_min) * height)
  return np.stack(sides, axis=1)


def _numbers(row: base.Row, name: str, shape: tuple[int, ...]) -> np.ndarray:
  """float64[shape] of a column; an empty value has any shape of size 0."""
  value = base.column(row, name)
  try:
    array = np.array(value, float)
    array = array.reshape(shape) if array.size == 0 else array
  except (TypeError, ValueError):
    array = None
  if array is None or array.shape != shape or not np.isfinite(array).all():
    raise errors.DataError(
      f"column {name!r} holds {str(value)[:80]!r}; expected numbers of the shape {list(shape)},"
      " one entry per label."
    )
  return array


IOUS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
AREAS: Mapping[str, tuple[float, float]] = {  # Of true boxes, in square pixels.
  "all": (0.0, 1e10),
  "small": (0.0, 32.0**2),
  "medium": (32.0**2, 96.0**2),
  "large": (96.0**2, 1e10),
}
MOST = (1, 10, 100)  # Detections per image and class.


class GroundTruth(NamedTuple):
  """The true boxes of one class in one image.

  boxes: float64[G, 4], (x_min, y_min, width, height) in pixels.
  crowd: bool[G].
  areas: float64[G], of the objects (for COCO of their masks, not of their boxes).
  """

  boxes: np.ndarray
  crowd: np.ndarray
  areas: np.ndarray


class Detections(NamedTuple):
  """The predictions of one class in one image: boxes float64[D, 4] as above, scores [D]."""

  boxes: np.ndarray
  scores: np.ndarray


def mean_average_precision(
  images: Sequence[Mapping[str, tuple[GroundTruth, Detections]]],
  *,
  by_class: bool = False,
) -> dict[str, float]:
  """The twelve numbers of the COCO evaluation; -1 where there is nothing to measure.

  Of the true and the predicted boxes of each class of each image, whose order resolves ties between
  scores: map (mean over IoUs 0.5 to 0.95), map50, map75, map_small, map_medium, map_large, and the
  recalls ar1, ar10, ar100 (by the number of detections per image and class), ar_small, ar_medium,
  ar_large; with `by_class` ap/<class> and ap50/<class> of each true class, of all areas.
  """
  classes = sorted({name for image in images for name in image})
  areas, num_t = list(AREAS), len(IOUS)
  # -1 marks classes without a true box, which no mean includes.
  precision = np.full((num_t, len(RECALLS), len(classes), len(areas)), -1.0)
  recall = np.full((num_t, len(classes), len(areas), len(MOST)), -1.0)
  for k, name in enumerate(classes):
    matched = [_match(*image[name]) for image in images if name in image]
    num_true = np.sum([counted for *_, counted in matched], axis=0)
    for m, most in enumerate(MOST):
      scores, hit, ignored = (
        np.concatenate([x[..., :most] for x in column], axis=-1)
        for column in list(zip(*matched, strict=True))[:3]
      )
      order = np.argsort(-scores, kind="stable")
      hit, ignored = hit[..., order], ignored[..., order]
      for a in np.flatnonzero(num_true):
        curve, recall[:, k, a, m] = _curve(hit[a], ignored[a], num_true[a])
        if most == MOST[-1]:
          precision[:, :, k, a] = curve
  at = {area: i for i, area in enumerate(areas)}
  fifty, three_quarters = (int(np.argmin(abs(IOUS - t))) for t in (0.5, 0.75))
  of_classes = {}
  if by_class:
    known = [k for k in range(len(classes)) if (precision[:, :, k, at["all"]] > -1).any()]
    of_classes = {
        f"{name}/{classes[k]}": _mean(precision[which, :, k, at["all"]])
        for name, which in (("ap", slice(None)), ("ap50", fifty)) for k in known
    }  # fmt: skip
  return {
    "map": _mean(precision[..., at["all"]]),
    "map50": _mean(precision[fifty, ..., at["all"]]),
    "map75": _mean(precision[three_quarters, ..., at["all"]]),
    **{f"map_{area}": _mean(precision[..., at[area]]) for area in areas[1:]},
    **{f"ar{most}": _mean(recall[..., at["all"], m]) for m, most in enumerate(MOST)},
    **{f"ar_{area}": _mean(recall[..., at[area], -1]) for area in areas[1:]},
    **of_classes,
  }


def _match(
  target: GroundTruth, found: Detections
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
  """Of one image and class, for A areas, T IoUs, and D detections in the order of their scores.

  The scores float64[D], hit and ignored bool[A, T, D], and int[A], the true boxes that count.
  """
  order = np.argsort(-found.scores, kind="stable")[: MOST[-1]]
  boxes, scores = found.boxes[order], found.scores[order]
  low, high = (np.array(side)[:, None] for side in zip(*AREAS.values(), strict=True))
  areas = boxes[:, 2] * boxes[:, 3]
  hit = np.zeros((len(AREAS), len(IOUS), len(boxes)), bool)
  ignored = np.zeros_like(hit)
  outside = target.crowd | (target.areas < low) | (target.areas > high)  # [A, G]
  overlaps = _overlaps(boxes, target.boxes, target.crowd)
  if (overlaps >= IOUS[0]).any():  # Most predicted classes have no match in an image.
    for a, skip in enumerate(outside):
      # True boxes that count come first; the others match only what they leave.
      first = np.argsort(skip, kind="stable")
      hit[a], ignored[a] = _assign(overlaps[:, first], target.crowd[first], skip[first])
  ignored |= ~hit & ((areas < low) | (areas > high))[:, None]
  return scores, hit, ignored, (~outside).sum(axis=1)


def _assign(
  overlaps: np.ndarray, crowd: np.ndarray, skip: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """(hit, ignored), bool[T, D] each; `skip` is sorted, False first."""
  num_found, num_true = overlaps.shape
  num_counted = int((~skip).sum())
  needed = np.minimum(IOUS, 1 - 1e-10)
  taken = np.zeros((len(IOUS), num_true), bool)
  hit = np.zeros((len(IOUS), num_found), bool)
  ignored = np.zeros_like(hit)
  for d in np.flatnonzero((overlaps >= needed[0]).any(axis=1)):
    free = (~taken | crowd) & (overlaps[d] >= needed[:, None])  # [T, G]
    done = np.zeros(len(IOUS), bool)
    for part in (slice(0, num_counted), slice(num_counted, num_true)):
      usable = free[:, part] & ~done[:, None]
      if not usable.any():
        continue
      value = np.where(usable, overlaps[d, part], -1.0)
      best = value.shape[1] - 1 - value[:, ::-1].argmax(axis=1)  # The last of a tie.
      found = usable.any(axis=1)
      best += part.start
      hit[found, d] = True
      ignored[found, d] = skip[best[found]]
      taken[found, best[found]] = True
      done |= found
  return hit, ignored


def _overlaps(boxes: np.ndarray, target: np.ndarray, crowd: np.ndarray) -> np.ndarray:
  """float64[D, G]: IoU; of a crowd the fraction of the detection inside it."""
  if not len(boxes) or not len(target):
    return np.zeros((len(boxes), len(target)))
  a, b = boxes[:, None], target[None]
  sides = np.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:])
  sides = sides - np.maximum(a[..., :2], b[..., :2])
  common = np.where((sides > 0).all(axis=-1), sides[..., 0] * sides[..., 1], 0.0)
  own, other = a[..., 2] * a[..., 3], b[..., 2] * b[..., 3]
  either = np.where(crowd, own, own + other - common)
  return np.divide(common, either, out=np.zeros_like(common), where=common > 0)


def _curve(hit: np.ndarray, ignored: np.ndarray, num_true: int) -> tuple[np.ndarray, np.ndarray]:
  """Precision float64[T, 101] at RECALLS, and the final recall, float64[T]."""
  true = np.cumsum(hit & ~ignored, axis=1, dtype=np.float64)
  false = np.cumsum(~hit & ~ignored, axis=1, dtype=np.float64)
  curve = np.zeros((len(IOUS), len(RECALLS)))
  if not true.shape[1]:
    return curve, np.zeros(len(IOUS))
  recall = true / num_true
  precision = true / (true + false + np.spacing(1))
  precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
  for t, (reached, values) in enumerate(zip(recall, precision, strict=True)):
    at = np.searchsorted(reached, RECALLS, side="left")
    curve[t] = np.append(values, 0.0)[at]
  return curve, recall[:, -1]


def _mean(values: np.ndarray) -> float:
  known = values[values > -1]
  return float(known.mean()) if known.size else -1.0
