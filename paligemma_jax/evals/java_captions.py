"""METEOR and SPICE, which exist as Java programs alone: those that pycocoevalcap brings along."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

from paligemma_jax.core import errors


def meteor(captions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
  """METEOR of each tokenized caption."""
  module = _module("meteor")
  _, scores = module.Meteor().compute_score(*_as_official(captions, references))
  return [float(score) for score in scores]


def spice(captions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
  """SPICE of each tokenized caption; the tool downloads language models at first use."""
  module = _module("spice")
  try:
    _, scores = module.Spice().compute_score(*_as_official(captions, references))
  except OSError as e:
    raise errors.ConfigError(
        f"SPICE could not get its language models ({e}); it needs the network at first use."
    ) from None
  return [float(score["All"]["f"]) for score in scores]


SCORERS: dict[str, Callable[..., list[float]]] = {"meteor": meteor, "spice": spice}


def _module(name: str) -> Any:
  """The module of pycocoevalcap, or a ConfigError that says what to install."""
  try:
    if name == "meteor":
      from pycocoevalcap.meteor import meteor as module
    else:
      from pycocoevalcap.spice import spice as module
  except ImportError:
    raise errors.ConfigError(
        f"{name.upper()} needs pycocoevalcap: pip install pycocoevalcap (and Java)."
    ) from None
  if shutil.which("java") is None:
    raise errors.ConfigError(f"{name.upper()} needs Java: no program 'java' was found on the path.")
  return module


def _as_official(
    captions: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
  """(references, captions) by number, as the tool takes them."""
  return dict(enumerate(map(list, references))), {i: [c] for i, c in enumerate(captions)}
