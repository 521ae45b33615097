"""Masks made on the spot: the same every time, tight, and of the classes asked for."""

import pickle

import numpy as np
import pytest

from paligemma_jax import sources
from paligemma_jax.core import errors
from paligemma_jax.core import spec
from paligemma_jax.sources import scenes


def _rows(num=120, **fields):
  rows = sources.Masks(num_rows=num, **fields).open()
  return [rows[i] for i in range(num)]


def test_a_row_depends_on_spec_and_number_alone():
  first = sources.Masks(num_rows=9).open()
  again = pickle.loads(pickle.dumps(sources.Masks(num_rows=10**7).open()))
  for i in (8, 0, 3):
    np.testing.assert_array_equal(first[i]["mask"], again[i]["mask"])
  assert (first[0]["mask"].shape, first[0]["mask"].sum()) != (
    sources.Masks(num_rows=9, seed=1).open()[0]["mask"].shape,
    sources.Masks(num_rows=9, seed=1).open()[0]["mask"].sum(),
  )
  with pytest.raises(IndexError):
    first[9]


def test_masks_touch_all_four_sides_and_are_not_tiny():
  for row in _rows():
    mask = row["mask"]
    assert mask.dtype == bool and min(mask.shape) >= 8
    assert mask[0].any() and mask[-1].any() and mask[:, 0].any() and mask[:, -1].any()
    assert tuple(row) == sources.Masks().makes()


def test_drawings_are_those_of_the_split_and_simple_shapes_their_share():
  labels = [row["label"] for row in _rows(400)]
  simple = [label in ("polygon", "ellipse") for label in labels]
  assert 0.17 < np.mean(simple) < 0.33
  assert set(labels) <= {*scenes.names("base"), "polygon", "ellipse"}
  plain = _rows(24, classes="heldout", simple=0.0, vary=False)
  assert [row["label"] for row in plain] == list(scenes.names("heldout")) * 2


@pytest.mark.parametrize(
  "fields, hint",
  [
    (dict(classes="held_out"), "'heldout'"),
    (dict(simple=2.0), "simple"),
    (dict(num_rows=-1), "-1"),
  ],
)
def test_a_wrong_field_is_named(fields, hint):
  with pytest.raises(errors.ConfigError, match=hint):
    sources.Masks(**fields)


def test_the_spec_survives_json_and_its_fingerprint_follows_it():
  source = sources.Masks("held_out", classes="heldout", simple=0.0)
  assert spec.from_json(spec.to_json(source)) == source
  assert source.open().fingerprint() == source.open().fingerprint()
  assert source.open().fingerprint() != sources.Masks().open().fingerprint()
