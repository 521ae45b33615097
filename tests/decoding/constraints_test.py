"""Constraints: the rules let every answer of the language through, and no other."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paligemma_jax.core import errors
from paligemma_jax.data import tokenizer as tokenizers
from paligemma_jax.decoding import constraints
from paligemma_jax.regions import answer_forms as specs
from paligemma_jax.regions import loc
from paligemma_jax.trainer import setup
from tests import golden_files

_EOS = tokenizers.EOS_ID
_SEGMENT = re.compile("".join([r"(?:<loc\d{4}>){4}", r"(?:<seg\d{3}>){16}", r" (?P<label>[^;<]+)"]))
_FILES = {"demo": setup.DEMO_TOKENIZER, "golden": golden_files.path("bv/tok4k.model")}


@functools.cache
def _tokenizer(name="demo"):
  return tokenizers.Tokenizer(_FILES[name])


class _Follower:
  """Steps through answers under the rules of a constraint."""

  def __init__(self, constraint, tokenizer, max_new_tokens=200, banned=()):
    automaton = constraints.automaton(
      constraint, tokenizer, max_new_tokens=max_new_tokens, banned=banned
    )
    self.rules = constraints.Rules(banned, automaton)
    self.tokenizer = tokenizer
    self._vocab_size = tokenizer.vocab_size + 5  # Tables of models have spare rows.
    self._mask = jax.jit(self._masked_zeros)
    self._advance = jax.jit(self.rules.advance)

  def _masked_zeros(self, state):
    return self.rules.mask(jnp.zeros((len(state), self._vocab_size)), state)

  def walk(self, seed, num_answers, max_new_tokens=200, eager=0.3):
    """Random answers; EOS is taken with probability `eager` where it may come. None: cut."""
    rng = np.random.default_rng(seed)
    state, answers = self.rules.start(num_answers), [[] for _ in range(num_answers)]
    for _ in range(max_new_tokens):
      allowed = np.asarray(self._mask(state)) == 0
      tokens = np.zeros(num_answers, np.int32)
      for i, answer in enumerate(answers):
        if answer and answer[-1] == _EOS:
          continue
        choices = np.flatnonzero(allowed[i])
        assert choices.size, f"nothing may follow {self.tokenizer.decode(answer)!r}"
        tokens[i] = rng.choice(choices)
        if allowed[i, _EOS] and rng.random() < eager:
          tokens[i] = _EOS
        answer.append(int(tokens[i]))
      state = self._advance(state, tokens)
    return [self.tokenizer.decode(a) if a[-1] == _EOS else None for a in answers]

  def accepts(self, text):
    """Whether the text's own tokens and EOS may come."""
    state = self.rules.start(1)
    for token in [*self.tokenizer.encode(text), _EOS]:
      if np.asarray(self._mask(state))[0, token] != 0:
        return False
      state = self._advance(state, np.array([token]))
    return True


@pytest.mark.parametrize("name", _FILES)
def test_one_of_some_texts_is_any_of_them_and_nothing_else(name):
  texts = ("yes", "no", "not sure", "no dog", "red", "", "<loc0012> ; x", "12")
  follower = _Follower(specs.OneOf(texts), _tokenizer(name))
  assert set(follower.walk(0, 200, 12)) == set(texts)
  assert all(map(follower.accepts, texts))
  assert not any(map(follower.accepts, ("ye", "yes no", "not", "1", "maybe")))


@pytest.mark.parametrize("name", _FILES)
@pytest.mark.parametrize("labels", [(), ("cat", "a red dog", "a red", "teddy bear")])
def test_boxes_can_always_be_read_and_readable_boxes_can_be_written(name, labels):
  follower = _Follower(specs.Boxes(labels, max_objects=3), _tokenizer(name))
  counts = set()
  for text in follower.walk(1, 60, 60, eager=0.5):
    if text is None:  # An open label may go on and on.
      assert not labels
      continue
    logged = loc.parse_boxes(text, bins=1024)
    assert logged.num_invalid == 0 and 1 <= len(logged.boxes) <= 3
    assert all(label in labels if labels else label for label in logged.labels)
    counts.add(len(logged.boxes))
  assert counts == {1, 2, 3} or not labels
  boxes = [(0, 0, 1, 1), (0.25, 0.25, 0.25, 0.25), (0.1, 0.9, 0.2, 0.95), (1, 1, 1, 1)]
  for count, shift in ((1, 0), (1, 1), (2, 2), (3, 3)):
    chosen = (boxes * 2)[shift : shift + count]
    text = loc.format_boxes(chosen, ["a red dog", "cat", "a red"][:count], bins=1024)
    assert follower.accepts(text)
  wrong = [
    "",
    "cat",
    "<loc0001><loc0002><loc0003> cat",
    "<loc0005><loc0000><loc0004><loc0009> cat",  # Upside down.
    "<loc0000><loc0005><loc0004><loc0004> cat",
    "<loc0000><loc0000><loc0004><loc0004>",
    "<loc0000><loc0000><loc0004><loc0004> cat ; ",
    "<loc0000><loc0000><loc0004><loc0004> cat<loc0004>",
    loc.format_boxes([(0, 0, 1, 1)] * 4, ["cat"] * 4, bins=1024),
  ]
  assert not any(map(follower.accepts, wrong))
  assert follower.accepts("<loc0000><loc0000><loc0004><loc0004> bus") == (not labels)


def test_as_many_boxes_as_asked_for():
  def counts(**numbers):
    follower = _Follower(specs.Boxes(("cat",), **numbers), _tokenizer())
    texts = follower.walk(2, 40, 60, eager=0.6)
    return {len(loc.parse_boxes(text, bins=1024).boxes) for text in texts if text is not None}

  assert counts(min_objects=0, max_objects=1) == {0, 1}
  assert counts(min_objects=2, max_objects=2) == {2}
  assert {2, 3, 4} <= counts(min_objects=2) <= set(range(2, 30))


def test_without_eos_boxes_go_on_until_the_answer_is_cut():
  follower = _Follower(specs.Boxes(("cat",)), _tokenizer(), banned=(_EOS,))
  assert follower.walk(3, 5, 50) == [None] * 5


@pytest.mark.parametrize("name", _FILES)
@pytest.mark.parametrize("labels", [(), ("cat", "a red dog")])
def test_segments_have_a_box_with_an_area_and_sixteen_codes(name, labels):
  follower = _Follower(specs.Segments(labels, max_objects=2), _tokenizer(name))
  num_ended = 0
  for text in follower.walk(4, 40, 80, eager=0.7):
    if text is None:
      continue
    num_ended += 1
    for part in text.split(" ; "):
      match = _SEGMENT.fullmatch(part)
      assert match, part
      y_min, x_min, y_max, x_max = map(int, re.findall(r"<loc(\d+)>", part))
      assert y_min < y_max and x_min < x_max
      assert match["label"].strip() in labels or not labels
  assert num_ended > 20
  codes = "".join(f"<seg{i:03d}>" for i in range(0, 128, 8))
  good = f"<loc0000><loc1022><loc0001><loc1023>{codes} cat"
  assert follower.accepts(good) and follower.accepts(f"{good} ; {good}")
  wrong = (
    f"<loc0000><loc0000><loc0000><loc0001>{codes} cat",
    f"<loc0000><loc0000><loc0001><loc0001>{codes}<seg000> cat",
    f"<loc0000><loc0000><loc0001><loc0001>{codes[:-8]} cat",
    f"{good} ; {good} ; {good}",
  )
  assert not any(map(follower.accepts, wrong))


@pytest.mark.parametrize(
  "make, logged",
  [
    (lambda: specs.OneOf(()), "texts is empty"),
    (lambda: specs.OneOf("yes"), "must be a tuple, not 'yes'; one alone needs a comma"),
    (lambda: specs.OneOf(("a", "b", "a")), "has 'a' twice"),
    (lambda: specs.Boxes(("a;b",)), "label 'a;b' must be text without ';'"),
    (lambda: specs.Boxes(("",)), "label '' must be"),
    (lambda: specs.Boxes(max_objects=-1), "max_objects must be a whole number"),
    (lambda: specs.Segments(min_objects=3, max_objects=2), "min_objects=3 is more than"),
  ],
)
def test_a_constraint_that_makes_no_sense_is_refused(make, logged):
  with pytest.raises(errors.ConfigError, match=re.escape(logged)):
    make()


@pytest.mark.parametrize(
  "constraint, options, logged",
  [
    ("boxes", {}, "constraint='boxes' is none: it must be one of constraints.Boxes, "),
    (specs.OneOf(("yes", "not sure")), {"max_new_tokens": 2}, "'not sure' of constraints.One"),
    (specs.OneOf(("yes",)), {"banned": (_EOS,)}, "needs the token '<eos>', which is banned"),
    (specs.Boxes(("cat",)), {"max_new_tokens": 4}, "1 objects of constraints.Boxes need more"),
    (specs.Boxes(max_objects=1), {"banned": (_EOS,)}, "needs the token '<eos>', which"),
    (specs.Boxes(), {"banned": (1030,)}, "needs the token '<loc"),
    (specs.Boxes(("cat",)), {"banned": (698,)}, "needs the token '▁cat', which is banned"),
  ],
)
def test_what_cannot_be_decoded_is_refused(constraint, options, logged):
  with pytest.raises(errors.ConfigError, match=re.escape(logged)):
    constraints.automaton(constraint, _tokenizer(), **{"max_new_tokens": 64, **options})
