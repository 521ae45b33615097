"""The cheapest changes that make a run fit: those that change no number before those that do.

Compiling takes a minute, adding up a state takes none. So a change whose state and gradients alone
do not fit is never compiled, and the number of micro-batches follows from earlier measurements.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ml_collections

from paligemma_jax.config import load as configs
from paligemma_jax.core import errors

Override = tuple[str, str]
Found = dict[str, Any]

# Presets, nearest to training everything first, for a configuration that takes a `tune`. Those that
# it does not know are skipped.
_TUNES = ("adam8bit", "adafactor", "full_adam+freeze_vit", "lora", "sgd_attention", "qlora")

# The same for a configuration without `tune`.
_WITHOUT_TUNE: tuple[tuple[Override, ...], ...] = (
  (("optim.mu_dtype", "bfloat16"),),
  (("optim.freeze", "('img/.*',)"),),
  (("optim.name", "sgd"), ("optim.freeze", "()"), ("optim.train_only", "('llm/layers/attn/.*',)")),
)

_LESS_REMAT = ("none", "dots")  # Values of model.remat that keep more than "full".
_MARGIN = 0.97  # Of the memory; a change that is predicted to need more is not tried.


@dataclasses.dataclass(frozen=True)
class Change:
  """Another configuration to try: `path`, `overrides` and `allow_code` as on the command line.

  words: the changes, as in ('optim.name=sgd',).
  """

  path: str
  overrides: tuple[Override, ...]
  words: tuple[str, ...] = ()
  allow_code: bool = False

  def load(self) -> ml_collections.ConfigDict:
    return configs.load(self.path, self.overrides, allow_code=self.allow_code)

  def and_set(self, key: str, value: Any) -> Change:
    others = (pair for pair in self.overrides if pair[0] != key)
    words = (*self.words, f"{key}={value}")
    return dataclasses.replace(self, overrides=(*others, (key, str(value))), words=words)

  @property
  def flags(self) -> list[str]:
    return ["--config", self.path, *(f"--config.{key}={value}" for key, value in self.overrides)]


@dataclasses.dataclass(frozen=True)
class Suggestion:
  """A change that was compiled and fits; `found` is what `program.measure` found of it."""

  change: Change
  found: Found


def search(
  start: Change,
  found: Found,
  ask: Callable[[Sequence[Change], bool], list[Found]],
  *,
  want: int,
  tries: int,
  note: Callable[[str], None],
) -> list[Suggestion]:
  """Up to `want` changes that fit, the cheapest first.

  Args:
    start: the configuration that does not fit, and `found` its measurements.
    ask: (changes, compiled) -> `program.measure` of each; {"refused": why} for an invalid one.
    tries: the most programs to compile.
    note: called with a line for each try.
  """
  bases = [start, *_other_bases(start)]
  states = ask(bases, False)
  fitting: list[Suggestion] = []
  for base, state in zip(bases, states, strict=True):
    if "refused" in state or _least(state) > _MARGIN * state["memory_bytes"]:
      continue
    for change in _variants(base, start, found, state):
      if len(fitting) >= want or tries <= 0:
        return fitting
      tries -= 1
      note(f"  trying {', '.join(change.words)}")
      answer = ask([change], True)[0]
      if answer.get("fits"):
        fitting.append(Suggestion(change, answer))
        break
  return fitting


def remedies(start: Change, *, num_row_shards: int) -> list[str]:
  """The flags that `search` would try, in its order, where nothing can be measured.

  Args:
    num_row_shards: devices that a batch, and so each micro-batch, is sharded over.
  """
  config = start.load()
  batch_size, grad_accum_steps = config.train.batch_size, config.train.grad_accum_steps
  words = []
  if config.model.remat in _LESS_REMAT:
    words.append("--config.model.remat=full")
  if batch_size % (2 * grad_accum_steps * num_row_shards) == 0:
    words.append(f"--config.train.grad_accum_steps={2 * grad_accum_steps}")
  bases = list(_other_bases(start))
  words += [" ".join(map(_as_flag, b.words)) for b in bases if b.path == start.path]
  if tuned := [b for b in bases if b.path != start.path]:
    others = [word.removeprefix("tune=") for b in tuned[1:] for word in b.words]
    words.append(f"--config {tuned[0].path}" + (f" (then {', '.join(others)})" if others else ""))
  if batch_size % (2 * grad_accum_steps * num_row_shards) == 0:
    words.append(f"--config.train.batch_size={batch_size // 2}")
  return words


def _as_flag(word: str) -> str:
  flag = f"--config.{word}"
  return f'"{flag}"' if "(" in word else flag  # For the shell.


def _other_bases(start: Change) -> Iterator[Change]:
  """Other meshes and other presets, with the same batch and micro-batches."""
  config = start.load()
  if config.mesh.shape:
    yield start.and_set("mesh.shape", "()")
  path, _, text = start.path.partition(":")
  kept = [part for part in text.split(",") if part and not part.startswith("tune=")]
  has_tune = False
  for tune in _TUNES:
    word = f"tune={tune}"
    path_with = f"{path}:{','.join([*kept, word])}"
    change = dataclasses.replace(start, path=path_with, words=(word,))
    try:
      other = change.load()
    except errors.ConfigError:
      continue
    has_tune = True
    if any(other[s].to_dict() != config[s].to_dict() for s in ("optim", "model")):
      yield change
  if not has_tune:
    for pairs in _WITHOUT_TUNE:
      change = start
      for key, value in pairs:
        change = change.and_set(key, value)
      yield change


def _variants(base: Change, start: Change, found: Found, state: Found) -> Iterator[Change]:
  """The base, and variants of it that hold less in memory, as far as each is likely to fit."""
  config = base.load()
  batch_size, grad_accum_steps = config.train.batch_size, config.train.grad_accum_steps
  # Grows with the rows of a micro-batch.
  rows_bytes = max(found["bytes"]["temporaries"] - found["parts"]["gradients"], 0)
  room = _MARGIN * state["memory_bytes"] - _least(state)
  if base is not start and rows_bytes <= room:
    yield base
  if config.model.remat in _LESS_REMAT:
    base = base.and_set("model.remat", "full")
    yield base
  parts = [
    a
    for a in _powers(grad_accum_steps * 2, batch_size)
    if batch_size % (a * found["num_row_shards"]) == 0
  ]
  # Accumulated gradients are kept beside those of the current micro-batch.
  likely = [
    a for a in parts if rows_bytes * grad_accum_steps / a + state["parts"]["gradients"] <= room
  ]
  for a in likely[:2]:
    yield base.and_set("train.grad_accum_steps", a)
  if not likely:
    sizes = [
      s
      for s in (batch_size // p for p in _powers(2, batch_size))
      if s % (found["num_row_shards"] * grad_accum_steps) == 0
      and rows_bytes * s / batch_size <= room
    ]
    for size in sizes[:1]:
      yield base.and_set("train.batch_size", size)


def _least(state: Found) -> int:
  """The least bytes of any program with this state: its arguments and gradients."""
  return sum(state["parts"].values())


def _powers(first: int, last: int) -> Iterator[int]:
  while first <= last:
    yield first
    first *= 2
