"""Drawing on images: a box that says which part is meant."""

from __future__ import annotations

from typing import Any

import numpy as np

from paligemma_jax.core import errors
from paligemma_jax.core import spec as spec_lib
from paligemma_jax.pp import columns

_FAR = 1e4  # No box of an image is so far out of it.


@spec_lib.spec
class DrawBox:
  """The outline of a box on the image, one pixel wide; it stands after Resize.

  Pixels are those of TensorFlow's draw_bounding_boxes: corners are scaled by height - 1 and
  width - 1 and truncated, edges outside of the image are left away, and of a box that ends before
  it begins, or lies outside as a whole, nothing is drawn.

  Attributes:
    key: the column with the box: (y_min, x_min, y_max, x_max) as shares of height and width.
    color: red, green and blue, 0 to 255.
    image: the column of the image, of which all frames get the box.

  Notes: box_inverted, box_outside.
  """

  key: str = "bbox"
  color: tuple = (255, 0, 0)
  image: str = "image"

  def __post_init__(self):
    if len(self.color) != 3 or not all(isinstance(v, int) and 0 <= v <= 255 for v in self.color):
      raise errors.ConfigError(f"DrawBox: color is {self.color!r}: expected three of 0 to 255.")

  def needs(self) -> tuple[str, ...]:
    return (self.key, self.image)

  def makes(self) -> tuple[str, ...]:
    return (self.image,)

  def __call__(self, row: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    image = columns.image(row, self.image).copy()
    height, width = image.shape[-3:-1]
    top, left, bottom, right = self._corners(row, height, width)
    if top > bottom or left > right:
      return {**row, columns.NOTES: columns.with_notes(row, ("box_inverted",))}
    if bottom < 0 or right < 0 or top >= height or left >= width:
      return {**row, columns.NOTES: columns.with_notes(row, ("box_outside",))}
    ys = slice(max(top, 0), min(bottom, height - 1) + 1)
    xs = slice(max(left, 0), min(right, width - 1) + 1)
    for y in {top, bottom} & set(range(height)):
      image[..., y, xs, :] = self.color
    for x in {left, right} & set(range(width)):
      image[..., ys, x, :] = self.color
    return {**row, self.image: image}

  def _corners(self, row: dict[str, Any], height: int, width: int) -> list[int]:
    value = columns.get(row, self.key)
    try:
      y_min, x_min, y_max, x_max = (float(v) for v in value)
    except (TypeError, ValueError):
      raise columns.wrong(self.key, "a box of four numbers", value) from None
    box = np.array([y_min, x_min, y_max, x_max], np.float32)
    if not (np.abs(box) < _FAR).all():
      raise columns.wrong(self.key, "a box in shares of height and width", value)
    scale = np.array([height - 1, width - 1] * 2, np.float32)
    return (box * scale).astype(np.int64).tolist()
