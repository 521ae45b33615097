"""Ops on text columns: templates, copies, lower case, choosing among several answers."""

from __future__ import annotations

import collections
import re
import string
from typing import Any

import numpy as np

from paligemma_jax.core import errors
from paligemma_jax.core import prng
from paligemma_jax.core import spec as spec_lib
from paligemma_jax.pp import columns

_COLUMN = re.compile(r"[A-Za-z_][\w/-]*")


@spec_lib.spec
class Format:
  """Text from a template: Format("answer en {question}").

  A field names a column and nothing else: no attributes, indices, conversions or format specs, so
  neither a template nor a row can reach into objects. A brace is written twice: {{.

  Attributes:
    template: the text with {column} in it.
    out: the column of the result.
  """

  template: str
  out: str = "prefix"

  def __post_init__(self):
    parse_template(self.template)

  def needs(self) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for _, name in parse_template(self.template) if name))

  def makes(self) -> tuple[str, ...]:
    return (self.out,)

  def __call__(self, row: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    parts = parse_template(self.template)
    text = "".join(literal + (columns.text(row, name) if name else "") for literal, name in parts)
    return {**row, self.out: text}


@spec_lib.spec
class Copy:
  """The value of one column under another name.

  Attributes:
    key: the column.
    out: the name of the copy.
  """

  key: str
  out: str

  def needs(self) -> tuple[str, ...]:
    return (self.key,)

  def makes(self) -> tuple[str, ...]:
    return (self.out,)

  def __call__(self, row: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    return {**row, self.out: columns.get(row, self.key)}


@spec_lib.spec
class Lower:
  """Text, or each text of a list, in lower case.

  Attributes:
    key: the column.
  """

  key: str = "suffix"

  def needs(self) -> tuple[str, ...]:
    return (self.key,)

  def makes(self) -> tuple[str, ...]:
    return (self.key,)

  def __call__(self, row: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    value = columns.get(row, self.key)
    if isinstance(value, (list, tuple)):
      return {**row, self.key: [columns.as_text(v, self.key).lower() for v in value]}
    return {**row, self.key: columns.as_text(value, self.key).lower()}


@spec_lib.spec
class Choice:
  """One of the values of a list, another one in another epoch.

  Attributes:
    key: the column with the list; or several columns with lists of equal length, of which the same
      entry is taken.
    out: the column of the result, or as many as there are keys.
    each_once: True takes each value of the row once before any a second time, in an order of its
      own for every row; False draws anew in every epoch.
  """

  key: str | tuple
  out: str | tuple = "suffix"
  each_once: bool = True

  def __post_init__(self):
    if len(_names(self.key)) != len(_names(self.out)):
      raise errors.ConfigError(f"Choice: {self.key!r} and {self.out!r} are not equally many.")

  def needs(self) -> tuple[str, ...]:
    return _names(self.key)

  def makes(self) -> tuple[str, ...]:
    return _names(self.out)

  def __call__(self, row: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    lists = [columns.options(row, key) for key in _names(self.key)]
    n = len(lists[0])
    if any(len(values) != n for values in lists):
      lengths = ", ".join(f"{k!r} {len(v)}" for k, v in zip(_names(self.key), lists, strict=True))
      raise errors.DataError(f"lists of different lengths: {lengths}.")
    if self.each_once:
      i = prng.choice_index(row["_seed"], row["_row"], row["_epoch"], n)
    else:
      i = int(rng.integers(n))
    chosen = {out: values[i] for out, values in zip(_names(self.out), lists, strict=True)}
    return {**row, **chosen}


@spec_lib.spec
class Join:
  """The texts of a list as one text.

  Attributes:
    key: the column with the list.
    glue: what stands between two.
    out: the column of the result; '' is `key`.
  """

  key: str
  glue: str = ", "
  out: str = ""

  def needs(self) -> tuple[str, ...]:
    return (self.key,)

  def makes(self) -> tuple[str, ...]:
    return (self.out or self.key,)

  def __call__(self, row: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    texts = [columns.as_text(v, self.key) for v in columns.options(row, self.key)]
    return {**row, self.out or self.key: self.glue.join(texts)}


@spec_lib.spec
class Split:
  """The parts of a text as a list; empty ones are left out.

  Attributes:
    key: the column with the text.
    glue: what stands between two parts.
    out: the column of the result; '' is `key`.
  """

  key: str
  glue: str = "\n"
  out: str = ""

  def __post_init__(self):
    if not self.glue:
      raise errors.ConfigError("Split.glue is empty; name what stands between two parts.")

  def needs(self) -> tuple[str, ...]:
    return (self.key,)

  def makes(self) -> tuple[str, ...]:
    return (self.out or self.key,)

  def __call__(self, row: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    parts = columns.text(row, self.key).split(self.glue)
    return {**row, self.out or self.key: [part for part in parts if part]}


@spec_lib.spec
class GetIndex:
  """One value of a list, by a number that another column holds.

  Attributes:
    key: the column with the list.
    index_key: the column with the number, counted from 0.
    out: the column of the result.
  """

  key: str
  index_key: str
  out: str = "suffix"

  def needs(self) -> tuple[str, ...]:
    return (self.key, self.index_key)

  def makes(self) -> tuple[str, ...]:
    return (self.out,)

  def __call__(self, row: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    values = columns.options(row, self.key)
    index = columns.whole(columns.get(row, self.index_key), self.index_key)
    if not 0 <= index < len(values):
      raise errors.DataError(
        f"column {self.index_key!r} is {index}, but {self.key!r} has {len(values)} values."
      )
    return {**row, self.out: values[index]}


@spec_lib.spec
class Majority:
  """The most frequent text of a list, of equally frequent ones the first.

  Attributes:
    key: the column with the list.
    out: the column of the result.
  """

  key: str
  out: str = "suffix"

  def needs(self) -> tuple[str, ...]:
    return (self.key,)

  def makes(self) -> tuple[str, ...]:
    return (self.out,)

  def __call__(self, row: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    texts = [columns.as_text(v, self.key) for v in columns.options(row, self.key)]
    return {**row, self.out: collections.Counter(texts).most_common(1)[0][0]}


def parse_template(template: str) -> list[tuple[str, str]]:
  """(literal text, column name or '') pairs of a template.

  Raises:
    ConfigError: a field that is more than the name of a column, or braces that do not match.
  """
  try:
    fields = list(string.Formatter().parse(template))
  except (ValueError, TypeError) as e:
    raise errors.ConfigError(
      f"The template {template!r}: {e} (a brace is written twice: {{{{)."
    ) from None
  parts = []
  for literal, name, format_spec, conversion in fields:
    if name is not None and (not _COLUMN.fullmatch(name) or format_spec or conversion):
      raise errors.ConfigError(
        f"The template {template!r}: a field is a column's name in braces, as in {{question}};"
        f" found {name!r}{' with a format' if format_spec or conversion else ''}."
      )
    parts.append((literal, name or ""))
  return parts


def _names(key: str | tuple) -> tuple[str, ...]:
  return (key,) if isinstance(key, str) else tuple(key)


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
