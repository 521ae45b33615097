"""Constraints on the form of an answer: specs for `constraint` of evaluators and of `generate`.

Decoding turns them into masks on the device (decoding.constraints), so that it produces only tokens
of the described language.
"""

from __future__ import annotations

from paligemma_jax.core import errors
from paligemma_jax.core import spec


@spec.spec
class OneOf:
  """The answer is one of these texts.

  Attributes:
    texts: the possible answers, as in the suffixes of the training rows.
  """

  texts: tuple[str, ...]

  def __post_init__(self):
    _check_texts("constraints.OneOf: texts", self.texts)
    if not self.texts:
      raise errors.ConfigError("constraints.OneOf: texts is empty; name the possible answers.")


@spec.spec
class Boxes:
  """The answer is objects joined by ' ; ', each four loc tokens, no minimum above its maximum, and
  a label.

  Attributes:
    labels: the possible labels; () allows any text without ';' and '<'.
    min_objects: 0 allows the empty answer.
    max_objects: 0 is any number.
  """

  labels: tuple[str, ...] = ()
  min_objects: int = 1
  max_objects: int = 0

  def __post_init__(self):
    where = f"constraints.{type(self).__name__}"
    _check_texts(f"{where}: labels", self.labels)
    for label in self.labels:
      if not label or label != label.strip() or ";" in label or "<" in label:
        raise errors.ConfigError(
          f"{where}: the label {label!r} must be text without ';' and '<', not empty, and without"
          " spaces at its ends."
        )
    for name, count in (("min_objects", self.min_objects), ("max_objects", self.max_objects)):
      if count < 0:
        raise errors.ConfigError(
          f"{where}: {name} must be a whole number from 0 on, not {count!r}."
        )
    if 0 < self.max_objects < self.min_objects:
      raise errors.ConfigError(
        f"{where}: min_objects={self.min_objects} is more than max_objects={self.max_objects}."
      )


@spec.spec
class Segments(Boxes):
  """The answer is objects joined by ' ; ', each four loc tokens with minima below maxima, 16 seg
  tokens, and a label.

  Attributes: as of `Boxes`.
  """


CONSTRAINTS = {"Boxes": Boxes, "OneOf": OneOf, "Segments": Segments}


def _check_texts(where: str, texts: tuple[str, ...]) -> None:
  if not all(isinstance(text, str) for text in texts):
    raise errors.ConfigError(f"{where} must be a tuple of texts, not {texts!r}.")
  if len(set(texts)) < len(texts):
    twice = next(t for i, t in enumerate(texts) if t in texts[:i])
    raise errors.ConfigError(f"{where} has {twice!r} twice.")
