"""Constraints on answers, compiled to a finite automaton whose rules mask the logits."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from paligemma_jax.core import errors
from paligemma_jax.data import tokenizer as tokenizers
from paligemma_jax.regions import answer_forms

_NUM_SEG_TOKENS = 16
_EOS = tokenizers.EOS_ID
_LOC = "<loc0000>"


def automaton(
  constraint: Any,
  tokenizer: tokenizers.Tokenizer,
  *,
  max_new_tokens: int,
  banned: Sequence[int] = (),
) -> Automaton:
  """The automaton of a spec of regions.answer_forms.

  Raises:
    ConfigError: no such constraint, an answer that needs more than `max_new_tokens` or a banned
      token.
  """
  make = _MAKERS.get(type(constraint))
  if make is None:
    raise errors.ConfigError(
      f"constraint={constraint!r} is none: it must be one of"
      f" {', '.join(f'constraints.{name}' for name in answer_forms.CONSTRAINTS)}."
    )
  graph = make(constraint, tokenizer, max_new_tokens, frozenset(banned))
  return graph.automaton(tokenizer.vocab_size)


@dataclasses.dataclass
class _Graph:
  """An automaton under construction; a token without a class passes no edge."""

  classes: dict[int, int] = dataclasses.field(default_factory=dict)
  num_classes: int = 0
  num_states: int = 1
  edges: list[tuple[int, ...]] = dataclasses.field(default_factory=list)
  steps: dict[tuple[int, int], int] = dataclasses.field(default_factory=dict)
  text_classes: tuple[int, ...] = ()

  def state(self) -> int:
    """A new state."""
    self.num_states += 1
    return self.num_states - 1

  def new_class(self, tokens: Iterable[int]) -> int:
    """A new class of these tokens, which have none yet."""
    self.num_classes += 1
    self.classes.update(dict.fromkeys(tokens, self.num_classes - 1))
    return self.num_classes - 1

  def class_of(self, token: int) -> int:
    """The token's class; a new one if it has none."""
    return self.classes[token] if token in self.classes else self.new_class([token])

  def edge(
    self, source: int, low: int, target: int, *, high=-1, register=-1, gap=0, store=-1
  ) -> None:
    """See Automaton; `high` is `low` when not given."""
    self.edges.append((source, low, low if high < 0 else high, target, register, gap, store))

  def automaton(self, vocab_size: int) -> Automaton:
    """The arrays."""
    class_of = np.full(vocab_size, self.num_classes, np.int32)
    class_of[list(self.classes)] = list(self.classes.values())
    return Automaton(class_of, *np.array(self.edges, np.int32).T)

  def path(self, source: int, ids: Sequence[int], target: int | None = None) -> int:
    """The state behind a path of single tokens, `target` at its end; paths share what they can."""
    for i, token in enumerate(ids):
      if (source, token) not in self.steps:
        following = self.state() if target is None or i + 1 < len(ids) else target
        self.edge(source, self.class_of(token), following)
        self.steps[source, token] = following
      source = self.steps[source, token]
    return source


def _one_of(constraint, tokenizer, max_new_tokens, banned):
  graph, end = _Graph(), None
  for text in constraint.texts:
    ids = tokenizer.encode(text)
    if len(ids) + 1 > max_new_tokens:
      raise errors.ConfigError(
        f"The answer {text!r} of constraints.OneOf needs {len(ids) + 1} tokens, EOS included;"
        f" only {max_new_tokens} are decoded."
      )
    _refuse_banned(constraint, tokenizer, banned, [*ids, _EOS])
    last = graph.path(0, ids)
    end = graph.state() if end is None else end
    graph.path(last, [_EOS], end)
  return graph


def _objects(constraint, tokenizer, max_new_tokens, banned):
  """Boxes and segments: each object has its own states up to the limits on their number."""
  segments = isinstance(constraint, answer_forms.Segments)
  first, last = constraint.min_objects, constraint.max_objects
  num_tokens = 4 + segments * _NUM_SEG_TOKENS + 1  # EOS included, the label not.
  if first and first * num_tokens > max_new_tokens:
    raise errors.ConfigError(
      f"{first} objects of constraints.{type(constraint).__name__} need more than the"
      f" {max_new_tokens} tokens that are decoded."
    )
  graph = _Graph()
  locs = [tokenizer.loc_id(i) for i in range(tokenizers.NUM_LOC)]
  segs = [tokenizer.seg_id(i) for i in range(tokenizers.NUM_SEG)]
  # Registers hold classes, so the class of a location must be its number.
  for token in locs + segs:
    graph.new_class([token])
  # Without EOS and without a limit, boxes go on.
  structure = [*locs, *(segs if segments else ()), *([] if not last else [_EOS])]
  _refuse_banned(constraint, tokenizer, banned, structure)
  ends = () if _EOS in banned else (graph.class_of(_EOS), graph.state())
  label = _closed_label if constraint.labels else _open_label
  starts = [0, *(graph.state() for _ in range(max(first, last, 1) - 1))]
  if ends and not first:
    graph.edge(0, *ends)
  for i, start in enumerate(starts):
    following = starts[i + 1] if i + 1 < len(starts) else None if last else start
    state = _box(graph, start, gap=int(segments))
    for _ in range(segments * _NUM_SEG_TOKENS):
      before, state = state, graph.state()
      graph.edge(before, len(locs), state, high=len(locs) + len(segs) - 1)
    label(graph, constraint, tokenizer, banned, state, following, ends if i + 1 >= first else ())
  return graph


def _box(graph, start, *, gap):
  """Four loc tokens from `start`; the state behind them."""
  y_min, x_min, y_max, x_max = (graph.state() for _ in range(4))
  top = tokenizers.NUM_LOC - 1
  # A minimum leaves room for the gap to its maximum.
  graph.edge(start, 0, y_min, high=top - gap, store=0)
  graph.edge(y_min, 0, x_min, high=top - gap, store=1)
  graph.edge(x_min, 0, y_max, high=top, register=0, gap=gap)
  graph.edge(y_max, 0, x_max, high=top, register=1, gap=gap)
  return x_max


def _closed_label(graph, constraint, tokenizer, banned, start, following, ends):
  """The labels, tokenized as behind a box."""
  for text in constraint.labels:
    ids = tokenizer.encode(f"{_LOC} {text}")[1:]
    joined = tokenizer.encode(f"{_LOC} {text} ; {_LOC}")[1:-1]
    _refuse_banned(constraint, tokenizer, banned, ids if following is None else ids + joined)
    last = graph.path(start, ids)
    if ends:
      graph.path(last, [_EOS], ends[1])
    if following is not None:
      graph.path(start, joined, following)


def _open_label(graph, constraint, tokenizer, banned, start, following, ends):
  """A space and text; then EOS, or ' ; ' and the next object."""
  del constraint, banned  # Banned text is masked anyway.
  space, spaced, text, semicolon = _text_classes(graph, tokenizer)
  behind_space, inside = graph.state(), graph.state()
  graph.edge(start, space, behind_space)
  graph.edge(start, spaced, inside)
  graph.edge(behind_space, spaced, inside, high=text)
  graph.edge(inside, space, inside, high=text)
  if ends:
    graph.edge(inside, *ends)
  if following is not None:
    between = graph.state()
    graph.edge(inside, semicolon, between)
    graph.edge(between, space, following)


def _text_classes(graph, tokenizer):
  """The classes of tokens that are a space, a space and text, text, a semicolon; made once."""
  if not graph.text_classes:
    texts = {i: tokenizer.text_of(i) for i in range(tokenizer.vocab_size)}
    texts = {i: t for i, t in texts.items() if t and i not in graph.classes and "<" not in t}
    plain = {i: t for i, t in texts.items() if t.strip() and ";" not in t}
    graph.text_classes = (
      graph.new_class(i for i, t in texts.items() if t == " "),
      graph.new_class(i for i, t in plain.items() if t[0] == " "),
      graph.new_class(i for i, t in plain.items() if t[0] != " "),
      graph.new_class(i for i, t in texts.items() if t.strip() == ";" and "\n" not in t),
    )
  return graph.text_classes


def _refuse_banned(constraint, tokenizer, banned, ids):
  hit = sorted(banned.intersection(ids))
  if hit:
    raise errors.ConfigError(
      f"constraints.{type(constraint).__name__} needs the token {tokenizer.piece(hit[0])!r},"
      " which is banned."
    )


_MAKERS = {
  answer_forms.Boxes: _objects,
  answer_forms.OneOf: _one_of,
  answer_forms.Segments: _objects,
}


NUM_REGISTERS = 2


class Automaton(NamedTuple):
  """A finite automaton over classes of tokens, with two registers for the corners of boxes.

  An edge lets every token of class `low` to `high` pass from `source` to `target`. Where `register`
  is not -1, the class must also be at least the number in that register plus `gap`; where `store`
  is not -1, the class goes into that register. Edges of one source never overlap. State 0 is the
  start; an answer that ended needs no edges.

  Shapes: class_of int32[V], from 0 to C - 1; all others int32[E].
  """

  class_of: np.ndarray
  source: np.ndarray
  low: np.ndarray
  high: np.ndarray
  target: np.ndarray
  register: np.ndarray
  gap: np.ndarray
  store: np.ndarray


@dataclasses.dataclass(frozen=True)
class Rules:
  """Which tokens may come next, given the state of each answer.

  A state is int32[R, 3], the automaton's state and its registers; without an automaton it is
  constant, and all that is not banned may come.
  """

  banned: Sequence[int] = ()
  automaton: Automaton | None = None

  def start(self, num_rows: int) -> jax.Array:
    """int32[num_rows, 3], the state of answers without a token."""
    return jnp.zeros((num_rows, 1 + NUM_REGISTERS), jnp.int32)

  def mask(self, logits_RV: jax.Array, state_R3: jax.Array) -> jax.Array:
    """The logits, -inf where a token may not come next."""
    if self.automaton is not None:
      logits_RV = jnp.where(
        _allowed(self.automaton, logits_RV.shape[1], state_R3), logits_RV, -jnp.inf
      )
    if len(self.banned):
      logits_RV = logits_RV.at[:, np.unique(np.asarray(self.banned, np.int32))].set(-jnp.inf)
    return logits_RV

  def advance(self, state_R3: jax.Array, token_R: jax.Array) -> jax.Array:
    """The state after one more token; unchanged where the token may not come."""
    a = self.automaton
    if a is None:
      return state_R3
    class_R1 = jnp.asarray(a.class_of)[token_R][:, None]
    is_open_RE = state_R3[:, :1] == a.source
    hit_RE = is_open_RE & (_low(a, state_R3) <= class_R1) & (class_R1 <= a.high)
    edge_R = jnp.argmax(hit_RE, axis=1)
    stored_R2 = jnp.where(
      jnp.asarray(a.store)[edge_R][:, None] == np.arange(NUM_REGISTERS), class_R1, state_R3[:, 1:]
    )
    moved_R3 = jnp.concatenate([jnp.asarray(a.target)[edge_R][:, None], stored_R2], axis=1)
    return jnp.where(jnp.any(hit_RE, axis=1)[:, None], moved_R3, state_R3)


def _allowed(a: Automaton, vocab_size: int, state_R3: jax.Array) -> jax.Array:
  """bool[R, V]."""
  low_RE = _low(a, state_R3)
  open_RE = ((state_R3[:, :1] == a.source) & (low_RE <= a.high)).astype(jnp.int32)
  num_classes = int(a.class_of.max()) + 1
  # Each open edge begins at its lowest class and ends behind its highest; the running sum is above
  # 0 inside of one. It costs E + C, however many classes an edge spans.
  rows = jnp.arange(state_R3.shape[0])[:, None]
  steps_RC = jnp.zeros((state_R3.shape[0], num_classes + 1), jnp.int32)
  steps_RC = steps_RC.at[rows, jnp.minimum(low_RE, num_classes)].add(open_RE)
  steps_RC = steps_RC.at[rows, a.high[None] + 1].add(-open_RE)
  inside_RC = jnp.cumsum(steps_RC, axis=1)[:, :-1] > 0
  allowed_RV = inside_RC[:, a.class_of]
  # The embedding table may have more rows than the tokenizer has tokens.
  return jnp.pad(allowed_RV, [(0, 0), (0, vocab_size - allowed_RV.shape[1])])


def _low(a: Automaton, state_R3: jax.Array) -> jax.Array:
  """int32[R, E], the lowest class that passes each edge."""
  bound_RE = state_R3[:, 1 + np.maximum(a.register, 0)] + a.gap
  return jnp.where(a.register >= 0, jnp.maximum(a.low, bound_RE), a.low)
