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
  """Is everything found? Mean average precision; a box's confidence is the likelihood of its label.

  The confidence is what the model gave to the tokens of the label when it wrote them (PaliGemma 2's
  recipe, arXiv 2412.03555): give `banned` the tokens of noise and of the end, so that the model
  goes on naming boxes up to `max_len`; their probability is still missing from the labels'. Of
  ready texts it is what `scores` says, one number for each readable box of each prediction, or it
  falls from each box of a text to the next.

  Attributes:
    boxes: the column with the true boxes, (y_min, x_min, y_max, x_max) as shares of the image.
    labels: the column with a label per true box; labels are compared as texts.
    crowd: the column that says of each true box whether it is a crowd (or otherwise not to be
      counted); '' when there is none.
    areas: the column with the area of each true object in square pixels; '' takes the boxes'.
    height, width: the columns with the size of the image in pixels.
    bins: 1023 or 1024, how loc tokens become coordinates.
    by_class: also give the average precision of each label that is true of any box.
    image_id: the column that tells the images apart, for a results file as COCO's tools read it
      (image_id, category_id, bbox in pixels, score); '' writes none.
    categories: for that file, (label, id) of each class; a box with any other label is left out
      and counted as `unknown`. () gives no ids but the labels, as `category`.

  Metrics:
    map, map50, map75, map_small, map_medium, map_large, ar1, ar10, ar100, ar_small, ar_medium,
    ar_large: -1 where there is nothing to measure. Rows are in the order of
      their ids, which settles ties.
    ap/<label>, ap50/<label>: by class, if asked for; map is the mean of the ap/<label>.
    invalid: parts of texts that were not readable.
    num, num_boxes, num_predicted: rows, true boxes (crowds too) and predicted boxes.
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
    """The metrics above, and how many boxes have an `unknown` label.

    Raises:
      DataError: a true box, label, size, or a number of scores that does not fit.
    """
    pictures, num_boxes, num_invalid = [], 0, 0
    predicted_labels: list[str] = []
    for i, (row, out) in enumerate(zip(rows, outputs, strict=True)):
      with base.of_row(i):
        true_labels, target, size = self._target(row)
      prediction = loc.parse_boxes(out.text, bins=self.bins)
      given = np.array(self._confidences(out, len(prediction.boxes)), float)
      if given.shape != (len(prediction.boxes),):
        raise errors.DataError(
          f"Prediction {i} has {len(prediction.boxes)} readable boxes but {given.size} scores."
        )
      found = Detections(_pixels(prediction.boxes, size), given)
      names = (*true_labels, *prediction.labels)
      true_at, predicted_at = _places(true_labels, names), _places(prediction.labels, names)
      pictures.append({
          name: (
              GroundTruth(*(x[true_at[name]] for x in target)),
              Detections(*(x[predicted_at[name]] for x in found)),
          )
          for name in true_at
      })  # fmt: skip
      num_invalid += prediction.num_invalid
      num_boxes += len(true_labels)
      predicted_labels += prediction.labels
    found = {
      **mean_average_precision(pictures, by_class=self.by_class),
      "invalid": float(num_invalid),
      "num": float(len(pictures)),
      "num_boxes": float(num_boxes),
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
    for i, (row, out) in enumerate(zip(rows, outputs, strict=True)):
      with base.of_row(i):
        image_id, size = base.plain_id(row, self.image_id), self._size(row)
      prediction = loc.parse_boxes(out.text, bins=self.bins)
      scores = self._confidences(out, len(prediction.boxes))
      boxes = _pixels(prediction.boxes, size).tolist()
      for box, label, score in zip(boxes, prediction.labels, scores, strict=True):
        if not ids:
          category = {"category": label}
        elif label in ids:
          category = {"category_id": ids[label]}
        else:
          continue
        bbox = [round(v, 3) for v in box]
        results.append({"image_id": image_id, **category, "bbox": bbox, "score": score})
    return {f"{self.name}.json": json.dumps(results, ensure_ascii=False)}

  def _confidences(self, out: base.Output, num_boxes: int) -> Sequence[float]:
    """In each readable box of the text."""
    if out.scores is not None:
      return out.scores
    if not out.token_ends:  # A ready text.
      return [float(n) for n in range(num_boxes, 0, -1)]
    return label_likelihoods(out, bins=self.bins)

  def _target(self, row: base.Row) -> tuple[list[str], GroundTruth, tuple[float, float]]:
    """Labels, boxes and size of the image in a row to score."""
    size = self._size(row)
    names = [v.strip() for v in base.answers(row, self.labels)]
    corners = _numbers(row, self.boxes, (len(names), 4))
    for box in corners.tolist():
      try:
        loc.checked(box)
      except errors.DataError as e:
        raise errors.DataError(f"column {self.boxes!r}: {e}") from None
    pixels = _pixels(corners, size)
    crowd, areas = np.zeros(len(names), bool), pixels[:, 2] * pixels[:, 3]
    if self.crowd:
      crowd = _numbers(row, self.crowd, (len(names),)) != 0
    if self.areas:
      areas = _numbers(row, self.areas, (len(names),))
    return names, GroundTruth(pixels, crowd, areas), size

  def _size(self, row: base.Row) -> tuple[float, float]:
    """Height and width of the image."""
    height, width = (float(_numbers(row, name, ())) for name in (self.height, self.width))
    for name, number in ((self.height, height), (self.width, width)):
      if number <= 0:
        raise errors.DataError(f"column {name!r} holds {row[name]!r} pixels.")
    return height, width


def label_likelihoods(prediction: base.Output, *, bins: int) -> list[float]:
  """For each readable box of the text, how likely the model found the tokens of its label.

  A box without a label has the likelihood of the last token of its coordinates.
  """
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
  """Of the tokens that wrote any of `text[begin:end]`, together."""
  starts = (0, *prediction.token_ends[:-1])
  inside = [
    logprob
    for first, last, logprob in zip(
      starts, prediction.token_ends, prediction.token_logprobs, strict=True
    )
    if first < end and begin < last
  ]
  return math.exp(math.fsum(inside))


def _places(labels: Sequence[str], names: Sequence[str]) -> dict[str, np.ndarray]:
  """{name: the numbers of the labels that are it}."""
  places: dict[str, list[int]] = {name: [] for name in names}
  for i, label in enumerate(labels):
    places[label].append(i)
  return {name: np.array(found, np.int64) for name, found in places.items()}


def _pixels(boxes: Any, size: tuple[float, float]) -> np.ndarray:
  """float64[N, 4], (x_min, y_min, width, height) in pixels, of shares (y_min, x_min, …)."""
  height, width = size
  y_min, x_min, y_max, x_max = np.array(boxes, float).reshape(-1, 4).T
  sides = (x_min * width, y_min * height, (x_max - x_min) * width, (y_max - y_min) * height)
  return np.stack(sides, axis=1)


def _numbers(row: base.Row, name: str, shape: tuple[int, ...]) -> np.ndarray:
  """float64[shape] of a column; nothing at all is as good as an empty list of boxes."""
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
  """What was found of one class in one image: boxes float64[D, 4] as in Truth, scores [D]."""

  boxes: np.ndarray
  scores: np.ndarray


class _Matched(NamedTuple):
  """Of one image and class, A areas, T IoUs, D detections in the order of their scores.

  scores: float64[D].
  hit, ignored: bool[A, T, D].
  num_true: int[A], true boxes that count.
  """

  scores: np.ndarray
  hit: np.ndarray
  ignored: np.ndarray
  num_true: np.ndarray


def mean_average_precision(
  pictures: Sequence[Mapping[str, tuple[GroundTruth, Detections]]],
  *,
  by_class: bool = False,
) -> dict[str, float]:
  """The twelve numbers of the COCO evaluation; -1 where there is nothing to measure.

  Args:
    images: for each, in the order of their ids (ties between scores are settled by it), what is
      there and what was found of each class that is there or was found.
    by_class: also give the average precision of each class that is there.

  Returns:
    map (mean over IoUs 0.5 to 0.95), map50, map75, map_small, map_medium, map_large, and the
    recalls ar1, ar10, ar100 (by the number of detections per image and class), ar_small,
    ar_medium, ar_large; by class ap/<class> and ap50/<class>, of all areas.
  """
  classes = sorted({name for picture in pictures for name in picture})
  areas, num_t = list(AREAS), len(IOUS)
  # -1 marks classes without a true box; they are in no mean.
  precision = np.full((num_t, len(RECALLS), len(classes), len(areas)), -1.0)
  recall = np.full((num_t, len(classes), len(areas), len(MOST)), -1.0)
  for k, name in enumerate(classes):
    matched = [_match(*picture[name]) for picture in pictures if name in picture]
    num_true = sum(m.num_true for m in matched)
    for m, most in enumerate(MOST):
      scores = np.concatenate([x.scores[:most] for x in matched])
      order = np.argsort(-scores, kind="stable")
      hit = np.concatenate([x.hit[..., :most] for x in matched], axis=2)[..., order]
      ignored = np.concatenate([x.ignored[..., :most] for x in matched], axis=2)[..., order]
      for a in np.flatnonzero(num_true):
        curve, recall[:, k, a, m] = _curve(hit[a], ignored[a], num_true[a])
        if most == MOST[-1]:
          precision[:, :, k, a] = curve
  at = {area: i for i, area in enumerate(areas)}
  fifty, three_quarters = (int(np.argmin(abs(IOUS - t))) for t in (0.5, 0.75))
  of_classes = {}
  if by_class:
    there = [k for k in range(len(classes)) if (precision[:, :, k, at["all"]] > -1).any()]
    of_classes = {
        f"{name}/{classes[k]}": _mean(precision[which, :, k, at["all"]])
        for name, which in (("ap", slice(None)), ("ap50", fifty)) for k in there
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


def _match(target: GroundTruth, found: Detections) -> _Matched:
  order = np.argsort(-found.scores, kind="stable")[: MOST[-1]]
  boxes, scores = found.boxes[order], found.scores[order]
  low, high = (np.array(side)[:, None] for side in zip(*AREAS.values(), strict=True))
  areas = boxes[:, 2] * boxes[:, 3]
  hit = np.zeros((len(AREAS), len(IOUS), len(boxes)), bool)
  ignored = np.zeros_like(hit)
  outside = target.crowd | (target.areas < low) | (target.areas > high)  # [A, G]
  overlaps = _overlaps(boxes, target.boxes, target.crowd)
  if (overlaps >= IOUS[0]).any():  # Most classes that are found in an image are not there.
    for a, skip in enumerate(outside):
      # True boxes that count come first: the others are only looked at when none of them fits.
      first = np.argsort(skip, kind="stable")
      hit[a], ignored[a] = _assign(overlaps[:, first], target.crowd[first], skip[first])
  ignored |= ~hit & ((areas < low) | (areas > high))[:, None]
  return _Matched(scores, hit, ignored, (~outside).sum(axis=1))


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
      best = value.shape[1] - 1 - value[:, ::-1].argmax(axis=1)  # Of equal ones the last.
      found = usable.any(axis=1)
      best += part.start
      hit[found, d] = True
      ignored[found, d] = skip[best[found]]
      taken[found, best[found]] = True
      done |= found
  return hit, ignored


def _overlaps(boxes: np.ndarray, target: np.ndarray, crowd: np.ndarray) -> np.ndarray:
  """float64[D, G]: IoU, of a crowd the share of the detection that lies in it."""
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
  """Precision float64[T, 101] at RECALLS and the recall reached, float64[T]."""
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
