"""Some classes of a detection set: the objects with other labels are left out."""

from __future__ import annotations

from typing import Any

import numpy as np

from paligemma_jax.core import errors
from paligemma_jax.core import spec as spec_lib
from paligemma_jax.pp import columns


@spec_lib.spec
class KeepClasses:
  """Leaves out the objects whose label is none of those asked for.

  Attributes:
    classes: the labels to keep, as texts.
    labels: the column with one label per object.
    along: the columns with one value per object, which lose the same places; those that a row does
      not have are passed over.
  """

  classes: tuple
  labels: str = "labels"
  along: tuple = ("boxes", "areas", "crowd", "masks")

  def __post_init__(self):
    if not self.classes or not all(isinstance(name, str) for name in self.classes):
      raise errors.ConfigError(
          f"KeepClasses.classes is {self.classes!r}; expected labels, as in ('cat', 'dog')."
      )

  def needs(self) -> tuple[str, ...]:
    return (self.labels,)

  def makes(self) -> tuple[str, ...]:
    return (self.labels,)

  def __call__(self, row: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    labels = columns.entries(columns.get(row, self.labels), self.labels)
    kept = [i for i, label in enumerate(labels) if label in self.classes]
    out = {**row, self.labels: [labels[i] for i in kept]}
    for name in self.along:
      if row.get(name) is None:
        continue
      values = columns.entries(row[name], name)
      if len(values) != len(labels):
        raise errors.DataError(
            f"column {name!r} has {len(values)} values, but there are {len(labels)} labels in"
            f" {self.labels!r}."
        )
      out[name] = [values[i] for i in kept]
    return out
