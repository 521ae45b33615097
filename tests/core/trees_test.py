"""Parameter names: flat and nested, and rules by regex."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paligemma_jax.core import errors
from paligemma_jax.core import trees

NAMES = ["img/head/bias", "img/head/kernel", "llm/final_norm/scale", "llm/layers/attn/q_einsum/w"]

_KEYS = st.text("abc_", min_size=1, max_size=3)
_TREES = st.recursive(
  st.integers(), lambda leaf: st.dictionaries(_KEYS, leaf, min_size=1, max_size=3), max_leaves=8
).filter(lambda tree: isinstance(tree, dict))


@given(_TREES)
def test_flattening_and_back_is_the_same_tree(tree):
  flat = trees.flatten(tree)
  assert trees.unflatten(flat) == tree
  assert all(not isinstance(value, dict) for value in flat.values())


def test_flat_names_are_sorted_within_each_level():
  assert list(trees.flatten({"b": {"y": 1, "x": 2}, "a": 3})) == ["a", "b/x", "b/y"]


def test_a_regex_matches_whole_names():
  assert trees.matches(["img/.*"], NAMES, "optim.freeze") == set(NAMES[:2])
  with pytest.raises(errors.ConfigError, match=r"optim\.freeze: the regex 'img' matches no param"):
    trees.matches(["img"], NAMES, "optim.freeze")


def test_a_regex_that_matches_nothing_is_named_with_names_that_are_near():
  with pytest.raises(errors.ConfigError, match=r"'img/heads/\.\*'.*'img/head/"):
    trees.matches([".*", "img/heads/.*"], NAMES, "optim.freeze")


def test_a_broken_regex_is_named_with_its_key():
  with pytest.raises(errors.ConfigError, match=r"optim\.freeze: 'img/\(' is not a regular"):
    trees.matches(["img/("], NAMES, "optim.freeze")


def test_the_first_rule_that_matches_wins_and_the_rest_stays_absent():
  rules = [("img/head/bias", 1), ("img/.*", 2)]
  assert trees.first_match(rules, NAMES, "mults") == {NAMES[0]: 1, NAMES[1]: 2}


def test_a_rule_hidden_behind_others_is_legal_one_that_matches_nothing_is_not():
  assert trees.first_match([(".*", 1), ("img/.*", 2)], NAMES, "mults") == dict.fromkeys(NAMES, 1)
  with pytest.raises(errors.ConfigError, match="mults"):
    trees.first_match([(".*", 1), ("vit/.*", 2)], NAMES, "mults")
