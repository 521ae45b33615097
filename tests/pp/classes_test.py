"""Only the asked classes stay, and every column of the objects loses the same places."""

import numpy as np
import pytest

from paligemma_jax import pp
from paligemma_jax.core import errors

RNG = np.random.default_rng(0)
ROW = {"labels": ["cat", "dog", "cat"], "boxes": [1, 2, 3], "crowd": [False, True, False], "n": 3}


def test_objects_of_other_classes_are_left_out_of_all_columns():
  row = pp.KeepClasses(("cat", "cow"))(ROW, RNG)
  assert row == {"labels": ["cat", "cat"], "boxes": [1, 3], "crowd": [False, False], "n": 3}
  assert pp.KeepClasses(("cow",))(ROW, RNG)["boxes"] == []
  named = {"o/c": np.array(["a", "b"]), "o/b": np.array([[1], [2]])}
  row = pp.KeepClasses(("b",), labels="o/c", along=("o/b",))(named, RNG)
  assert (row["o/c"], [v.tolist() for v in row["o/b"]]) == (["b"], [[2]])


def test_columns_of_another_length_and_no_classes_are_errors():
  with pytest.raises(errors.DataError, match="different lengths: 'labels' 3, 'boxes' 1"):
    pp.KeepClasses(("cat",))({**ROW, "boxes": [1]}, RNG)
  for classes in ((), (3,)):
    with pytest.raises(errors.ConfigError, match="expected labels"):
      pp.KeepClasses(classes)
