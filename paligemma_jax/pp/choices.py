"""Multiple choice: the choices with their letters, and the letter of the right one."""

from __future__ import annotations

import string
from typing import Any

import numpy as np

from paligemma_jax.core import errors
from paligemma_jax.core import spec as spec_lib
from paligemma_jax.pp import columns

_ORDERS = ("given", "shuffled")


@spec_lib.spec
class LetterChoices:
  """'(A) red, (B) green' from a list of choices, and 'B' from the number of the right one.

  Attributes:
    order: "given", as the row has them, for evaluation; "shuffled" in an order of its own whenever
      the row is seen, for training, so that places are not learned.
    key: the column with the list of choices.
    index_key: the column with the number of the right one, counted from 0; -1 where it is not
      known, which gives an empty letter.
    out: the columns of the lettered choices and of the letter.
  """

  order: str
  key: str = "choices"
  index_key: str = "answer"
  out: tuple = ("indexed_choices", "indexed_answer")

  def __post_init__(self):
    errors.pick(dict.fromkeys(_ORDERS), self.order, "order of LetterChoices")
    if len(self.out) != 2:
      raise errors.ConfigError(f"LetterChoices: out is {self.out!r}: expected two columns.")

  def needs(self) -> tuple[str, ...]:
    return (self.key, self.index_key)

  def makes(self) -> tuple[str, ...]:
    return tuple(self.out)

  def __call__(self, row: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    choices = [columns.as_text(v, self.key) for v in columns.options(row, self.key)]
    right = columns.get(row, self.index_key)
    if isinstance(right, bool) or not isinstance(right, (int, np.integer)):
      raise columns.wrong(self.index_key, "a whole number", right)
    if not -1 <= right < len(choices) <= len(string.ascii_uppercase):
      raise errors.DataError(
          f"column {self.index_key!r} is {right}, but {self.key!r} has {len(choices)} values."
      )
    places = rng.permutation(len(choices)) if self.order == "shuffled" else range(len(choices))
    pairs = list(zip(string.ascii_uppercase, places, strict=False))
    lettered = ", ".join(f"({letter}) {choices[place]}" for letter, place in pairs)
    letter = next((letter for letter, place in pairs if place == right), "")
    return {**row, self.out[0]: lettered, self.out[1]: letter}
