"""What an answer with loc and seg tokens says, ready to be drawn: boxes, labels and masks."""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from paligemma_jax.evals import boxes
from paligemma_jax.regions import loc
from paligemma_jax.regions import mask_codec
from paligemma_jax.regions import seg

_CODES = re.compile(r"\s*(<seg[0-9]{3}>)+")


class Answer(NamedTuple):
  """The objects of a text.

  objects: boxes, labels (without seg tokens), and how many parts were not readable.
  mask: bool[H, W], all painted masks together; None where the text has no seg tokens.
  """

  objects: loc.Parsed
  mask: np.ndarray | None


def read(text: str, height: int, width: int, *, codec: str, bins: int) -> Answer | None:
  """The answer, or None where the text has no loc tokens. Never raises on any text.

  A part whose box is readable and whose seg tokens are not keeps its box and counts as unreadable.

  Args:
    height, width: of the image it is to be drawn on.
    codec: as in `regions.mask_codec.open_codec`.
    bins: 1023 or 1024, how loc tokens become coordinates (`regions.loc`).
  """
  if "<loc" not in text:
    return None
  said = loc.parse_boxes(text, bins=bins)
  if "<seg" not in text:
    return Answer(said, None)
  model = mask_codec.open_codec(codec)
  found = seg.text_to_masks(text, height, width, codec=model, bins=bins)
  mask = np.zeros((height, width), bool)
  for part in found:
    if part is not None:
      mask |= part.mask
  labels = tuple(_CODES.sub("", label, count=1).strip() for label in said.labels)
  num_invalid = max(said.num_invalid, sum(part is None for part in found))
  return Answer(loc.Parsed(said.boxes, labels, num_invalid), mask)


def overlaps(truth: Answer, said: Answer) -> list[float]:
  """IoUs with the truth: of the two masks where the truth has one, else of each true box."""
  if truth.mask is None:
    return boxes.match(truth.objects, said.objects)
  if said.mask is None:
    return [0.0]
  either = (truth.mask | said.mask).sum()
  return [float((truth.mask & said.mask).sum() / either) if either else 0.0]
