"""Detection of everything in an image: boxes in random order, filled up with boxes of noise.

A model that names all objects must not learn to stop early, nor in which order data sets list them.
So each epoch lists the objects in another order and then goes on with boxes that hold nothing,
whose label says so (arXiv 2109.10852, arXiv 2412.03555). Where such a box lies is no knowledge and
is not learned; that a box there is noise is. When the model is asked, the label of noise and the
end of the text are banned, and it names boxes as long as there is room; how likely it finds their
labels tells the good ones from the rest (`evals.CocoDetection`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from paligemma_jax.core import errors
from paligemma_jax.core import spec as spec_lib
from paligemma_jax.core import strict_json
from paligemma_jax.pp import columns
from paligemma_jax.regions import loc

# One token, which every PaliGemma tokenizer has and which detection has no other use for; a text as
# '<noise>' would be several, of which none could be banned alone.
NOISE = "<seg127>"

_SHIFT = 0.5  # Of a noise box made from a true one: its centre, in sides of the box.
_SCALES = (0.5, 2.0)  # Its sides.


@spec_lib.spec
class NoiseBoxes:
  """Box columns to '<loc…> cat ; <loc…> <seg127>', in pieces: where noise lies is not learned.

  The true objects come first, in a random order, then noise: half true boxes moved and scaled, half
  boxes of anywhere.

  Attributes:
    bins: 1023 or 1024, see `regions.loc`.
    total: objects of a text, noise included; an image with as many or more gets no noise.
    noise: the label of noise.
    key: the column with the boxes, (y_min, x_min, y_max, x_max) as shares of the image.
    labels: the column with a label per box.
    crowd: a column that says of each box whether to leave it out; '' leaves out none.
    out: the column of the result, pieces (text, supervised).
  """

  bins: int
  total: int
  noise: str = NOISE
  key: str = "boxes"
  labels: str = "labels"
  crowd: str = ""
  out: str = "suffix"

  def __post_init__(self):
    loc.check_bins(self.bins)
    if self.total < 0:
      raise errors.ConfigError(f"NoiseBoxes.total is {self.total!r}; expected 0 or more.")

  def needs(self) -> tuple[str, ...]:
    return tuple(name for name in (self.key, self.labels, self.crowd) if name)

  def makes(self) -> tuple[str, ...]:
    return (self.out,)

  def __call__(self, row: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    boxes = columns.entries(columns.get(row, self.key), self.key)
    labels = columns.entries(columns.get(row, self.labels), self.labels)
    labels = [columns.as_text(label, self.labels) for label in labels]
    if len(labels) != len(boxes):
      raise errors.DataError(f"{len(boxes)} boxes but {len(labels)} labels; each box needs one.")
    if self.crowd:
      crowd = columns.entries(columns.get(row, self.crowd), self.crowd)
      if len(crowd) != len(boxes):
        raise errors.DataError(f"{len(boxes)} boxes but {len(crowd)} marks of crowds.")
      kept = [i for i, skip in enumerate(crowd) if not strict_json.yes_no(skip, self.crowd)]
      boxes, labels = [boxes[i] for i in kept], [labels[i] for i in kept]
    order = rng.permutation(len(boxes))
    texts = [loc.format_boxes([boxes[i]], [labels[i]], bins=self.bins) for i in order]
    pieces = [(loc.SEPARATOR.join(texts), True)]
    for n in range(len(texts), self.total):
      box = _moved(boxes[int(rng.integers(len(boxes)))], rng) if boxes and n % 2 else _any(rng)
      pieces.append((loc.SEPARATOR if n else "", True))
      pieces.append((loc.format_boxes([box], [""], bins=self.bins), False))
      pieces.append((f" {self.noise}", True))
    return {**row, self.out: tuple(_joined(pieces))}


def _moved(box: Sequence[float], rng: np.random.Generator) -> tuple[float, ...]:
  """A box near a true one, cut at the image's edge; of anywhere if nothing is left of it."""
  low, high = np.array(box[:2], float), np.array(box[2:], float)
  sides = (high - low) * rng.uniform(*_SCALES, 2)
  centre = (low + high) / 2 + (high - low) * rng.uniform(-_SHIFT, _SHIFT, 2)
  low, high = np.clip(centre - sides / 2, 0, 1), np.clip(centre + sides / 2, 0, 1)
  return (*low.tolist(), *high.tolist()) if (high > low).all() else _any(rng)


def _any(rng: np.random.Generator) -> tuple[float, ...]:
  corners = np.sort(rng.random((2, 2)), axis=0)
  return (*corners[0].tolist(), *corners[1].tolist())


def _joined(pieces: Sequence[tuple[str, bool]]) -> list[tuple[str, bool]]:
  """The same text in as few pieces as can be."""
  out: list[tuple[str, bool]] = []
  for text, supervised in pieces:
    if out and out[-1][1] == supervised:
      out[-1] = (out[-1][0] + text, supervised)
    elif text:
      out.append((text, supervised))
  return out
