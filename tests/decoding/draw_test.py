"""Drawing on a pocket model: which answers, and which of several is kept."""

import jax
import numpy as np

from paligemma_jax.decoding import constraints
from paligemma_jax.decoding import search
from tests.decoding import pocket_model

_EOS = pocket_model.EOS


_categorical = jax.jit(jax.random.categorical)


def _by_hand(model, row, key, num_new):
  answer = ()
  while len(answer) < num_new and _EOS not in answer:
    step_key = jax.random.fold_in(key, len(answer))
    token = _categorical(step_key, model.logprobs(row, answer).astype(np.float32))
    answer = (*answer, int(token))
  return answer


def test_of_several_answers_the_most_probable_is_kept():
  best_of, num_new, num_rows = 4, 6, 3
  model = pocket_model.PocketModel(0, num_rows, peak=1.0)
  find = search.by_sampling(constraints.Rules(), _EOS, best_of, search.sampler("temperature(1)"))
  prompt = model.start(best_of, num_new)
  tokens, logprobs = jax.jit(lambda p: find(p, model.extend, num_new))(prompt)
  places = []
  for row in range(num_rows):
    keys = [jax.random.fold_in(prompt.keys_B[row], i) for i in range(best_of)]
    answers = [_by_hand(model, row, key, num_new) for key in keys]
    assert len(set(answers)) > 1
    best = max(answers, key=lambda answer: model.logprob(row, answer))
    places.append(answers.index(best))
    assert tuple(tokens[row, : len(best)].tolist()) == best
    assert not tokens[row, len(best) :].any()
    np.testing.assert_allclose(logprobs[row].sum(), model.logprob(row, best), rtol=0, atol=1e-4)
  assert len(set(places)) > 1


def test_rows_that_only_fill_up_the_batch_are_empty():
  model = pocket_model.PocketModel(0, num_rows=3)
  find = search.by_sampling(constraints.Rules(), _EOS, 2, search.sampler("temperature(1)"))
  prompt = model.start(2, 5, real=[True, False, True])
  tokens, logprobs = jax.jit(lambda p: find(p, model.extend, 5))(prompt)
  assert logprobs[0].any() and logprobs[2].any()
  assert not tokens[1].any() and not logprobs[1].any()
