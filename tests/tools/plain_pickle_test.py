"""Plain data comes out of a pickle as it went in; nothing that could run anything does."""

import os
import pickle

import pytest

from paligemma_jax.core import errors
from tools.prepare import plain_pickle

_VALUE = [
  {"a": 1, "b": [1.5, "xé", None, True, False, (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), ()]},
  {"c": {"k": -3, 5: 2**70, "long": "x" * 300}, "d": 300, "e": 70_000},
] * 2  # The second time from the memo.


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_is_read_in_every_protocol(protocol):
  assert plain_pickle.loads(pickle.dumps(_VALUE, protocol), "refs.p") == _VALUE


def test_texts_of_python_2_are_read():
  data = b"(lp0\n(dp1\nS'sent'\np2\nS'left dog'\np3\nsS'ann_id'\np4\nI17\nsa."
  assert plain_pickle.loads(data, "refs.p") == [{"sent": "left dog", "ann_id": 17}]


class _Touch:
  def __init__(self, path):
    self.path = str(path)

  def __reduce__(self):
    return os.mkdir, (self.path,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_what_names_code_is_refused_and_not_run(protocol, tmp_path):
  data = pickle.dumps([{"a": 1}, _Touch(tmp_path / "made")], protocol)
  with pytest.raises(errors.DataError, match=r"refs\.p: byte \d+: the instruction (STACK_)?GLOBAL"):
    plain_pickle.loads(data, "refs.p")
  assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
  "data", [b"", b"(", b"a.", b"(lp0\n", b"0.", b"\x80\x02]q\x00", b"h\x07.", b"junk", b"t."]
)
def test_a_damaged_file_is_an_error(data):
  with pytest.raises(errors.DataError, match=r"refs\.p"):
    plain_pickle.loads(data, "refs.p")
