"""What is handed between processes arrives as it was, types included."""

import json

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from paligemma_jax.core import errors
from paligemma_jax.multihost import agreement

ARRAYS = hnp.arrays(
  st.sampled_from([np.uint8, np.int32, np.int64, np.float32, np.bool_]),
  hnp.array_shapes(min_dims=0, max_dims=3, max_side=3),
  elements={"allow_nan": False},
)
NUMBERS = st.booleans() | st.integers() | st.floats(allow_nan=False)
LEAVES = st.none() | NUMBERS | st.text() | st.binary()
VALUES = st.recursive(
  LEAVES,
  lambda inner: (
    st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text() | st.integers(), inner)
  ),
  max_leaves=12,
)


@hypothesis.settings(deadline=None)
@hypothesis.given(VALUES)
def test_plain_values_come_back_equal_and_of_equal_types(value):
  back = agreement.unpack(json.loads(json.dumps(agreement.pack(value))))
  assert repr(back) == repr(value)


@hypothesis.settings(deadline=None)
@hypothesis.given(ARRAYS)
def test_arrays_come_back_in_bits(array):
  back = agreement.unpack(json.loads(json.dumps(agreement.pack([array]))))[0]
  assert back.dtype == array.dtype and back.shape == array.shape
  assert back.tobytes() == array.tobytes()


def test_anything_else_is_refused_by_name():
  with pytest.raises(errors.ConfigError, match="function"):
    agreement.pack({"f": test_anything_else_is_refused_by_name})
