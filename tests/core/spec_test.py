"""Specs: frozen, checked when made, and equal after a trip through JSON or pickle."""

import dataclasses
import json
import pickle
import sys

import pytest

from paligemma_jax.core import errors
from paligemma_jax.core import spec


@spec.spec
class Point:
  x: int
  y: float = 0.5
  tags: tuple = ()
  inner: object = None


class NotASpec:
  pass


POINT = Point(3, tags=("a", ("b", 1)), inner=Point(x=4, tags=({"k": (1, None)},)))


def test_a_misspelt_field_names_the_spec_the_field_and_the_near_match():
  with pytest.raises(errors.ConfigError, match=r"Point has no field 'tagz'. Did you mean 'tags'"):
    Point(1, tagz=())
  with pytest.raises(errors.ConfigError, match=r"'tagz'.*'tags'"):
    POINT.replace(tagz=())


def test_a_missing_or_surplus_argument_is_a_config_error_that_lists_the_fields():
  with pytest.raises(errors.ConfigError, match=r"Point missing 1 required .*'x'.*Fields: x, y"):
    Point()
  with pytest.raises(errors.ConfigError, match="Fields: x, y, tags, inner"):
    Point(1, 2.0, (), None, 5)


def test_specs_are_frozen_and_replace_makes_a_copy():
  with pytest.raises(dataclasses.FrozenInstanceError):
    POINT.x = 4
  assert POINT.replace(x=9).x == 9
  assert POINT.x == 3


def test_lists_become_tuples_at_every_depth():
  assert Point(1, tags=["a", ["b"]]).tags == ("a", ("b",))


@pytest.mark.parametrize(
  "value", [object(), NotASpec(), lambda: 0, {1, 2}, b"bytes", (NotASpec(),)]
)
def test_a_field_holds_only_plain_values_and_specs(value):
  with pytest.raises(errors.ConfigError, match=r"Point\.inner is a"):
    Point(1, inner=value)


def test_json_and_pickle_give_back_an_equal_spec():
  assert spec.from_json(json.loads(json.dumps(spec.to_json(POINT)))) == POINT
  assert pickle.loads(pickle.dumps(POINT)) == POINT


def test_json_refuses_what_it_could_not_give_back():
  with pytest.raises(errors.ConfigError, match="NotASpec"):
    spec.to_json({"a": NotASpec()})


@pytest.mark.parametrize(
  "path",
  ["os:system", "no.such.module:X", "tests.core.spec_test:NotASpec", "x", "", ":", "a:b:c"],
)
def test_only_declared_specs_are_constructed(path):
  with pytest.raises(errors.ConfigError):
    spec.from_json({"__spec__": path})


def test_a_subclass_is_a_spec_only_when_declared():
  class Child(Point):
    pass

  assert spec.is_spec(POINT)
  assert not spec.is_spec(Child(1))


@pytest.mark.parametrize(
  "fields, says",
  [
    ({"path": 7}, "sources.jsonl.Jsonl.path must be a text, not 7"),
    ({"path": "a", "columns": 5}, "Jsonl.columns must be a tuple, not 5"),
    ({"path": "a", "columns": "image"}, "Jsonl.columns must be a tuple, not 'image'"),
    ({"path": "a", "images": [1]}, r"Jsonl.images must be a text, not \(1,\)"),
    ({"path": "a", "image_column": None}, "image_column must be a text or a tuple, not None"),
  ],
)
def test_a_field_of_our_own_specs_has_the_type_that_it_is_declared_with(fields, says):
  with pytest.raises(errors.ConfigError, match=says):
    spec.from_json({"__spec__": "paligemma_jax.sources.jsonl:Jsonl", **fields})


@pytest.mark.parametrize(
    "path", [5, None, ["a"], ".x:y", "paligemma_jax.core.errors:run_main", "json:JSONDecoder",
             "paligemma_jax.core.spec:spec", "paligemma_jax.sources.jsonl:parse_line"]
)  # fmt: skip
def test_a_name_in_a_file_finds_specs_and_nothing_else(path):
  with pytest.raises(errors.ConfigError):
    spec.from_json({"__spec__": path, "a": 1})
  kept = spec.from_json([{"__spec__": path, "a": [1]}], keep_unknown=True)
  assert kept == ({"__spec__": path, "a": (1,)},)


def test_only_ours_or_what_is_loaded_is_looked_up_without_consent():
  assert "antigravity" not in sys.modules
  with pytest.raises(errors.ConfigError, match="--allow_code"):
    spec.resolve("antigravity:X")
  assert "antigravity" not in sys.modules
  with pytest.raises(errors.ConfigError, match="is code outside of paligemma_jax"):
    spec.resolve("paligemma_jaxx.sources:X")


@pytest.mark.parametrize(
  "saved, now",
  [
    ("paligemma_jax.pp.drawing:DrawBox", "paligemma_jax.pp.boxes"),
    ("paligemma_jax.core.constraints:OneOf", "paligemma_jax.regions.answer_forms"),
  ],
)
def test_a_spec_of_ours_that_was_saved_under_another_module_is_found(saved, now):
  assert spec.resolve(saved).__module__ == now
  with pytest.raises(errors.ConfigError):
    spec.resolve(saved + "x")
