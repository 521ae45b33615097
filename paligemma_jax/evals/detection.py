"""Detection as COCO scores it: mean average precision, with the model's own confidence."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from paligemma_jax.core import errors
from paligemma_jax.core import spec
from paligemma_jax.evals import base
from paligemma_jax.evals import coco_map
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
    ar_large: see `evals.coco_map`; -1 where there is nothing to measure. Rows are in the order of
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
      found = coco_map.Detections(_pixels(prediction.boxes, size), given)
      names = (*true_labels, *prediction.labels)
      true_at, predicted_at = _places(true_labels, names), _places(prediction.labels, names)
      pictures.append({
          name: (
              coco_map.GroundTruth(*(x[true_at[name]] for x in target)),
              coco_map.Detections(*(x[predicted_at[name]] for x in found)),
          )
          for name in true_at
      })  # fmt: skip
      num_invalid += prediction.num_invalid
      num_boxes += len(true_labels)
      predicted_labels += prediction.labels
    found = {
      **coco_map.mean_average_precision(pictures, by_class=self.by_class),
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

  def _target(self, row: base.Row) -> tuple[list[str], coco_map.GroundTruth, tuple[float, float]]:
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
    return names, coco_map.GroundTruth(pixels, crowd, areas), size

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
