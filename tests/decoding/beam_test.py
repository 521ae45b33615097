"""Beam search on a pocket model, where every answer can be looked at, and on a real one."""

import functools
import itertools

import jax
import numpy as np
import pytest

from paligemma_jax.core import errors
from paligemma_jax.decoding import constraints
from paligemma_jax.decoding import generate
from paligemma_jax.decoding import search
from tests.decoding import pocket_model
from tests.decoding import small_model

_EOS, _V = pocket_model.EOS, pocket_model.VOCAB


def _search(model, beam_size, num_new, banned=(), real=None):
  find = search.by_beams(constraints.Rules(banned), _EOS, beam_size)
  run = jax.jit(lambda prompt: find(prompt, model.extend, num_new))
  tokens, logprobs = run(model.start(beam_size, num_new, real))
  jax.effects_barrier()
  return np.asarray(tokens), np.asarray(logprobs)


def _by_hand(logprobs, beam_size, num_new, banned=()):
  """The rules of the search on lists of tokens: the answer and its score.

  Args:
    logprobs: answer so far -> [V], of the next token.
  """
  beams, best = [((), 0.0)], (None, -np.inf)
  for _ in range(num_new):
    longer = []
    for answer, score in beams:
      logprob = logprobs(answer)
      for token in set(range(len(logprob))) - set(banned):
        longer.append(((*answer, token), score + logprob[token]))
    ended = [b for b in longer if b[0][-1] == _EOS]
    best = max([best, *ended], key=lambda b: b[1])
    going_on = [b for b in longer if b[0][-1] != _EOS]
    beams = sorted(going_on, key=lambda b: -b[1])[:beam_size]
    if beams[0][1] <= best[1]:
      break
  return best if best[0] else beams[0]


def _answer(tokens):
  ids = tokens.tolist()
  return tuple(ids[: ids.index(_EOS) + 1] if _EOS in ids else ids)


@pytest.mark.parametrize("beam_size, num_new", [(2, 1), (2, 6), (3, 5), (5, 8)])
@pytest.mark.parametrize("banned", [(), (3,), (_EOS,)], ids=["any", "banned", "no_eos"])
def test_it_is_the_search_by_hand(beam_size, num_new, banned):
  model = pocket_model.PocketModel(beam_size, num_rows=6)
  tokens, logprobs = _search(model, beam_size, num_new, banned)
  lengths = set()
  for row in range(model.num_rows):
    want, score = _by_hand(
      lambda answer, row=row: model.logprobs(row, answer), beam_size, num_new, banned
    )
    assert _answer(tokens[row]) == want
    assert not tokens[row, len(want) :].any() and not logprobs[row, len(want) :].any()
    each = [model.logprobs(row, want[:i])[token] for i, token in enumerate(want)]
    # float32 against float64.
    np.testing.assert_allclose(logprobs[row, : len(want)], each, rtol=0, atol=1e-4)
    np.testing.assert_allclose(logprobs[row].sum(), score, rtol=0, atol=1e-4)
    lengths.add(len(want))
  assert len(lengths) > 1 or num_new == 1 or _EOS in banned


def test_beams_enough_for_every_answer_find_the_most_probable_one():
  num_new = 4
  model = pocket_model.PocketModel(1, num_rows=4)
  tokens, logprobs = _search(model, _V ** (num_new - 1), num_new)
  for row in range(model.num_rows):
    words = set(range(_V)) - {_EOS}
    answers = [(*text, _EOS) for n in range(num_new) for text in itertools.product(words, repeat=n)]
    assert len(answers) == 1 + 6 + 36 + 216
    best = max(answers, key=lambda answer: model.logprob(row, answer))
    assert _answer(tokens[row]) == best
    greedy = ()
    while len(greedy) < num_new and _EOS not in greedy:
      greedy = (*greedy, int(model.logprobs(row, greedy).argmax()))
    if _EOS in greedy:
      assert logprobs[row].sum() >= model.logprob(row, greedy) - 1e-4


def test_it_stops_when_no_beam_of_a_real_row_can_win_any_more():
  model = pocket_model.PocketModel(0, num_rows=5)
  lengths = {}

  def logprobs(answer, row):
    lengths[row] = len(answer)
    return model.logprobs(row, answer)

  for row in range(model.num_rows):
    _by_hand(functools.partial(logprobs, row=row), 2, 12)
  everyone, _ = _search(model, 2, 12)
  assert model.num_calls == max(lengths.values()) == 11
  model.num_calls = 0
  real = np.array([True, False, False, True, True])
  tokens, logprobs = _search(model, 2, 12, real=real)
  assert model.num_calls == max(lengths[row] for row in np.flatnonzero(real)) < 11
  np.testing.assert_array_equal(tokens[real], everyone[real])
  assert not tokens[~real].any() and not logprobs[~real].any()


@pytest.mark.parametrize("name", ["gemma", "gemma2"])
def test_on_a_real_model_it_is_the_search_by_hand_over_forward_passes(name):
  model_config, batch = small_model.config(name), small_model.batch()
  how = generate.Options(small_model.N, beam_size=3)
  run = generate.make_generate(model_config, how, eos_id=_EOS)
  got = {k: np.asarray(v) for k, v in run(small_model.params(model_config), batch).items()}
  for row in range(small_model.B):

    def logprobs(answer, row=row):
      new = np.zeros((small_model.B, small_model.N), np.int32)
      new[row, : len(answer)] = answer
      logits = small_model.forward(model_config, batch, new)[row, len(answer)]
      return np.asarray(jax.nn.log_softmax(logits))

    want, score = _by_hand(logprobs, 3, small_model.N)
    length = got["lengths"][row]
    assert tuple(got["tokens"][row, :length].tolist()) == want
    # Cached and uncached attention sum in another order.
    np.testing.assert_allclose(got["logprob"][row], score, rtol=0, atol=2e-4)


def test_one_beam_is_greedy():
  model_config, batch = small_model.config("gemma"), small_model.batch()
  params = small_model.params(model_config)
  how = generate.Options(small_model.N, beam_size=1)
  run = generate.make_generate(model_config, how, eos_id=-1)
  tokens = np.asarray(run(params, batch)["tokens"])
  np.testing.assert_array_equal(small_model.forward(model_config, batch, tokens).argmax(-1), tokens)


@pytest.mark.parametrize(
  "options, logged",
  [
    (dict(beam_size=0), "beam_size=0 must be"),
    (dict(best_of=2.0), "best_of=2.0 must be"),
    (dict(beam_size=2, best_of=2), "choose one"),
    (dict(beam_size=2, sampler="temperature(1)"), "choose one"),
    (dict(best_of=2), "greedy answers are all the same"),
    (dict(best_of=2, sampler="gready"), "Did you mean 'greedy'"),
  ],
)
def test_options_that_exclude_each_other_are_refused(options, logged):
  with pytest.raises(errors.ConfigError, match=logged):
    generate.make_generate(small_model.config("gemma"), generate.Options(3, **options))
