"""Mixtures: each part's rows with its own ops, in shares that hold exactly, whatever the step."""

import collections
import pickle

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from paligemma_jax import pp
from paligemma_jax import sources
from paligemma_jax.config import load
from paligemma_jax.core import errors
from paligemma_jax.data import order
from tests.data import loading


def numbered(n, name="a", **columns):
  return sources.InMemory(tuple({"text": f"{name}{i}", **columns} for i in range(n)))


def mixture(sizes, weights=()):
  weights = weights or [0] * len(sizes)
  names = "abcdefgh"
  return sources.Mixture(
    tuple(
      sources.Part(numbered(n, names[i]), weight=w)
      for i, (n, w) in enumerate(zip(sizes, weights, strict=True))
    )
  )


def seen(rows, num_epochs, *, batch_size=0, seed=0, shuffle=True):
  """[(mixture's epoch, part's epoch, row)] in order."""
  n = len(rows)
  batch_size = batch_size or n
  found = []
  for step in range(num_epochs * n // batch_size):
    slots = order.rows_of_step(
      step, num_rows=n, batch_size=batch_size, seed=seed, shuffle=shuffle, mix=rows.mix()
    )
    found += slots
  return [(k // n, epoch, row) for k, (epoch, row) in enumerate(found)]


def test_rows_stand_one_part_after_the_other_and_keep_their_names():
  rows = mixture((2, 3)).open()
  assert [rows[i]["text"] for i in range(len(rows))] == ["a0", "a1", "b0", "b1", "b2"]
  with pytest.raises(IndexError):
    rows[5]
  assert rows.where(3) == "row 1 of InMemoryRows"


def test_without_weights_it_is_as_if_all_rows_stood_in_one_file():
  rows = mixture((30, 7, 13)).open()
  whole = numbered(50).open()
  assert rows.mix() == ()
  assert len(rows) == len(whole)
  for epoch in range(3):
    of_epoch = [row for e, _, row in seen(rows, 3) if e == epoch]
    assert sorted(of_epoch) == list(range(50))


@hypothesis.settings(deadline=None, max_examples=40)
@hypothesis.given(
  parts=st.lists(st.tuples(st.integers(5, 60), st.integers(1, 9)), min_size=2, max_size=5),
  seed=st.integers(0, 2**40),
  shuffle=st.booleans(),
)
def test_every_epoch_has_the_shares_and_no_row_comes_twice_before_all_came_once(
  parts, seed, shuffle
):
  sizes, weights = zip(*parts, strict=True)
  rows = mixture(sizes, weights).open()
  n = len(rows)
  starts = np.cumsum((0, *sizes))
  found = seen(rows, 4, seed=seed, shuffle=shuffle)
  by_part = collections.defaultdict(lambda: collections.defaultdict(collections.Counter))
  per_epoch = collections.Counter()
  for mixture_epoch, epoch, row in found:
    part = int(np.searchsorted(starts, row, side="right")) - 1
    by_part[part][epoch][row - starts[part]] += 1
    per_epoch[mixture_epoch, part] += 1
  for (_, part), count in per_epoch.items():
    assert abs(count - n * weights[part] / sum(weights)) < 1  # Whole rows, so less than one off.
  for part, epochs in by_part.items():
    last = max(epochs)
    for epoch in range(last + 1):
      counts = epochs[epoch]
      assert set(counts.values()) == {1}
      if epoch < last:
        assert sorted(counts) == list(range(sizes[part]))


def test_a_small_part_with_a_large_weight_comes_round_many_times():
  rows = mixture((2, 18), (1, 1)).open()
  counts = collections.Counter(row for _, _, row in seen(rows, 9))
  assert [counts[row] for row in range(20)] == [45, 45, *[5] * 18]
  assert {epoch for _, epoch, row in seen(rows, 9) if row == 0} == set(range(45))


def test_the_parts_are_well_mixed():
  rows = mixture((500, 500), (3, 1)).open()
  parts = [row // 500 for _, _, row in seen(rows, 2)]
  windows = [sum(parts[k : k + 100]) for k in range(0, 2000, 100)]
  # 25 expected of the second part in 100 rows, sigma is below 4.4: five sigmas for 20 windows.
  assert all(3 < w < 47 for w in windows)


def test_the_order_is_a_function_of_seed_and_step_alone():
  rows = mixture((7, 20, 3), (1, 2, 1)).open()
  assert seen(rows, 3, batch_size=1) == seen(rows, 3, batch_size=15) == seen(rows, 3)
  assert seen(rows, 1, seed=1) != seen(rows, 1, seed=2)
  # A run that is resumed with a newer version must go on in its own order.
  assert [(epoch, row) for _, epoch, row in seen(mixture((3, 5), (3, 1)).open(), 1)] == FROZEN


FROZEN = [(0, 1), (1, 0), (0, 0), (0, 5), (0, 2), (1, 2), (1, 1), (0, 6)]


def test_part_ops_come_before_the_others_and_answers_are_chosen_by_the_rounds_of_the_part():
  answers = ("x", "y", "z")
  source = sources.Mixture(
    (
      sources.Part(
        numbered(2, "a", answers=answers),
        (pp.Format("ask {text}"), pp.Choice("answers")),
        weight=3,
      ),
      sources.Part(
        numbered(6, "b"), (pp.Format("say {text}"), pp.Copy("text", "suffix")), weight=1
      ),
    )
  )
  rows = source.open()
  ops = [rows.ops(i) for i in range(len(rows))]
  assert ops[0] == ops[1] == source.parts[0].pp and ops[2] == ops[7] == source.parts[1].pp
  chosen = collections.defaultdict(list)
  for epoch, row in [(e, r) for _, e, r in seen(rows, 3)]:
    columns = {**rows[row], "_seed": 0, "_row": row, "_epoch": epoch}
    for op in rows.ops(row):
      columns = op(columns, order.row_rng(0, epoch, row))
    assert columns["prefix"].startswith("ask a" if row < 2 else "say b")
    chosen[row].append((epoch, columns["suffix"]))
  for row in (0, 1):
    logged = [text for _, text in sorted(chosen[row])]
    assert len(logged) == 9
    assert all(set(logged[k : k + 3]) == set(answers) for k in (0, 3, 6))


def test_a_loader_applies_the_ops_of_the_part_and_starts_at_any_step():
  image = np.zeros((4, 4, 3), np.uint8)
  tokenizer = loading.read_tokenizer()

  class Rows:  # In-memory rows hold no arrays.
    def __init__(self, source):
      self._rows = source.open()

    def __len__(self):
      return len(self._rows)

    def __getitem__(self, i):
      return {**self._rows[i], "image": image}

    def __getattr__(self, name):
      return getattr(self._rows, name)

  source = sources.Mixture(
    (
      sources.Part(numbered(9, "a"), (pp.Format("one"), pp.Copy("text", "suffix")), weight=1),
      sources.Part(numbered(4, "b"), (pp.Format("two"), pp.Copy("text", "suffix")), weight=2),
    )
  )
  make = lambda: loading.make(tokenizer, Rows(source), (), batch_size=3)  # noqa: E731
  run = loading.take(make(), 12)
  for step in (1, 5, 11):
    loading.assert_same(loading.take(make(), 1, start_step=step), run[step : step + 1])
  for batch in run:
    for row, text in zip(batch["_row"], batch["text"], strict=True):
      assert tokenizer.decode(text.tolist()).startswith("one" if row < 9 else "two")


def test_mixtures_may_be_nested_and_keep_their_shares():
  inner = sources.Mixture(
    (
      sources.Part(numbered(4, "a"), (pp.Copy("text", "x"),), weight=1),
      sources.Part(numbered(4, "b"), weight=3),
    )
  )
  outer = sources.Mixture(
    (
      sources.Part(inner, (pp.Copy("text", "y"),), weight=1),
      sources.Part(numbered(8, "c"), weight=1),
    )
  )
  rows = outer.open()
  assert rows.mix() == ((4, 2), (4, 6), (8, 8))
  assert rows.ops(0) == (pp.Copy("text", "x"), pp.Copy("text", "y"))
  assert rows.ops(4) == (pp.Copy("text", "y"),) and rows.ops(8) == ()
  natural = sources.Mixture((sources.Part(mixture((3, 2))), sources.Part(numbered(6)))).open()
  assert natural.mix() == ()


def test_rows_survive_pickling_and_the_fingerprint_sees_every_change():
  source = mixture((2, 4), (1, 2))
  rows = source.open()
  again = pickle.loads(pickle.dumps(rows))
  assert again[5] == rows[5] and again.mix() == rows.mix()
  assert again.fingerprint() == rows.fingerprint()
  part = source.parts[1]
  others = [
    source.replace(parts=(source.parts[0], changed))
    for changed in (
      part.replace(weight=1.0),
      part.replace(pp=(pp.Lower("text"),)),
      part.replace(source=numbered(4, "z")),
    )
  ]
  assert len({s.open().fingerprint() for s in (source, *others)}) == 4


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda: sources.Mixture(()), "at least one Part"),
    (lambda: sources.Mixture((numbered(2),)), r"write sources\.Part"),
    (lambda: mixture((2, 2), (1, 0)), r"parts\[1\] has none"),
    (lambda: sources.Part(numbered(2), weight=-1.0), "weight of a part is -1"),
    (lambda: sources.Part(numbered(2), weight=float("nan")), "weight of a part is nan"),
    (lambda: sources.Part("rows.jsonl"), "no source"),
    (lambda: sources.Part(numbered(2), pp.Lower("text")), "Part.pp must be a tuple"),
    (lambda: sources.Part(numbered(2), wieght=1), "Did you mean 'weight'"),
    (lambda: mixture((5, 5), (1000, 1)).open(), "so small that it has none of the 10 rows"),
  ],
)
def test_what_is_wrong_with_a_mixture_is_said(make, message):
  with pytest.raises(errors.ConfigError, match=message):
    make()


def test_a_part_without_rows_is_named():
  with pytest.raises(errors.DataError, match="Part 1 of the mixture has no rows"):
    mixture((2, 0)).open()


def test_the_columns_of_a_mixture_are_those_of_all_parts():
  one = sources.Part(numbered(2, "a", x=1), (pp.Format("{x}"),))
  two = sources.Part(numbered(2, "b", y=1), (pp.Copy("text", "prefix"),))
  assert sources.Mixture((one, two)).makes() == ("prefix", "text")
  unknown = sources.Part(sources.Jsonl("rows.jsonl"))
  assert sources.Mixture((one, unknown)).makes() == ()


def test_validation_follows_the_columns_of_each_part():
  c = load.default_config()
  one = sources.Part(numbered(2, "a", image="", x="1"), (pp.Format("{x}"),))
  two = sources.Part(numbered(2, "b", image=""), (pp.Format("{x}"),))
  c.train.update(source=sources.Mixture((one, two)), pp=(pp.Resize(112),), total="1 epochs")
  c.train.pp = (pp.Resize(112), pp.Copy("text", "suffix"))
  c.optim.lr = 1.0
  with pytest.raises(errors.ConfigError, match=r"train: parts\[1\]: .*reads the column 'x'"):
    load.validate(c)
  c.train.source = sources.Mixture((one, one))
  load.validate(c)
