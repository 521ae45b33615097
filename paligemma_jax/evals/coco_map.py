"""Average precision of boxes by the rules of the COCO evaluation (cocodataset.org), in NumPy.

What those rules say beyond the textbook, and is kept here: a detection is matched in the order of
its score to the free true box it overlaps most; a crowd can be matched any number of times, and
what is matched to it counts neither for nor against; so do true boxes outside the range of areas,
and unmatched detections outside of it. 100 detections per image and class count. Precision is
made monotone and read off at 101 recalls.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

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
