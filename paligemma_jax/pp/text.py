"""Ops on text columns: templates, copies, lower case, one of several answers."""

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
class Format(columns.Op):
  """Text from a template: Format("answer en {question}").

  A field is the name of a column: no attributes, indices, conversions or format specs, so that
  neither a template nor a row can reach into objects. A literal brace is doubled: {{.
  """

  template: str
  out: str = "prefix"

  def __post_init__(self):
    parse_template(self.template)

  def needs(self) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for _, name in parse_template(self.template) if name))

  def __call__(self, row: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    parts = parse_template(self.template)
    text = "".join(literal + (columns.text(row, name) if name else "") for literal, name in parts)
    return {**row, self.out: text}


@spec_lib.spec
class Copy(columns.Op):
  """The value of the column `key` under the name `out`, too."""

  key: str
  out: str

  def __call__(self, row: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    return {**row, self.out: columns.get(row, self.key)}


@spec_lib.spec
class Lower(columns.Op):
  """The text in the column `key`, or each text of a list, in lower case."""

  key: str = "suffix"

  writes = ("key",)

  def __call__(self, row: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    value = columns.get(row, self.key)
    if isinstance(value, (list, tuple)):
      return {**row, self.key: [columns.as_text(v, self.key).lower() for v in value]}
    return {**row, self.key: columns.as_text(value, self.key).lower()}


@spec_lib.spec
class Choice(columns.Op):
  """One value of a list, a new choice in every epoch.

  Attributes:
    key: the column with the list; or several columns with lists of equal length, from which the
      same entry is taken.
    out: the column of the result, one for each key.
    each_once: True goes through a row's values, in a random order of its own, before any is
      repeated; False draws independently in every epoch.
  """

  key: str | tuple
  out: str | tuple = "suffix"
  each_once: bool = True

  def __post_init__(self):
    if len(columns.names(self.key)) != len(columns.names(self.out)):
      raise errors.ConfigError(f"Choice: {self.key!r} and {self.out!r} are not equally many.")

  def __call__(self, row: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    keys = columns.names(self.key)
    lists = columns.alike(row, keys)
    n = len(columns.options(row, keys[0]))
    if self.each_once:
      i = prng.choice_index(row["_seed"], row["_row"], row["_epoch"], n)
    else:
      i = int(rng.integers(n))
    chosen = {out: values[i] for out, values in zip(columns.names(self.out), lists, strict=True)}
    return {**row, **chosen}


@spec_lib.spec
class Join(columns.Op):
  """The texts of a list as one text, with `glue` between them; an `out` of '' is `key`."""

  key: str
  glue: str = ", "
  out: str = ""

  def __call__(self, row: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    return {**row, self.out or self.key: self.glue.join(columns.texts(row, self.key))}


@spec_lib.spec
class Split(columns.Op):
  """The non-empty parts of a text between `glue`, as a list; an `out` of '' is `key`."""

  key: str
  glue: str = "\n"
  out: str = ""

  def __post_init__(self):
    if not self.glue:
      raise errors.ConfigError("Split.glue is empty; give the separator.")

  def __call__(self, row: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    parts = columns.text(row, self.key).split(self.glue)
    return {**row, self.out or self.key: [part for part in parts if part]}


@spec_lib.spec
class GetIndex(columns.Op):
  """The value of a list at the index, from 0, in the column `index_key`."""

  key: str
  index_key: str
  out: str = "suffix"

  reads = ("key", "index_key")

  def __call__(self, row: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    values = columns.options(row, self.key)
    index = columns.whole(columns.get(row, self.index_key), self.index_key)
    if not 0 <= index < len(values):
      raise errors.DataError(
        f"column {self.index_key!r} is {index}, but {self.key!r} has {len(values)} values."
      )
    return {**row, self.out: values[index]}


@spec_lib.spec
class Majority(columns.Op):
  """The most frequent text of a list; the first one of a tie."""

  key: str
  out: str = "suffix"

  def __call__(self, row: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    counts = collections.Counter(columns.texts(row, self.key))
    return {**row, self.out: counts.most_common(1)[0][0]}


def parse_template(template: str) -> list[tuple[str, str]]:
  """(literal text, column name or '') pairs of a template.

  A ConfigError for a field that is not the name of a column, and for braces that do not match.
  """
  try:
    fields = list(string.Formatter().parse(template))
  except (ValueError, TypeError) as e:
    raise errors.ConfigError(
      f"The template {template!r}: {e} (a literal brace is doubled: {{{{)."
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


@spec_lib.spec
class LetterChoices(columns.Op):
  """'(A) red, (B) green' from a list of choices, and 'B' from the index of the correct one.

  Attributes:
    order: "given", the row's own order, for evaluation; "shuffled", a new order each time the row
      is read, for training, so that positions are not learned.
    key: the column with the list of choices.
    index_key: the column with the index of the correct choice, from 0; -1 where it is unknown,
      which gives an empty letter.
    out: the columns of the lettered choices and of the letter.
  """

  order: str
  key: str = "choices"
  index_key: str = "answer"
  out: tuple = ("indexed_choices", "indexed_answer")

  reads = ("key", "index_key")
  choices = (("order", ("given", "shuffled")),)

  def __post_init__(self):
    super().__post_init__()
    if len(self.out) != 2:
      raise errors.ConfigError(f"LetterChoices: out is {self.out!r}: expected two columns.")

  def __call__(self, row: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    choices = columns.texts(row, self.key)
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
