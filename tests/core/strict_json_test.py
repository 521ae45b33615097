"""JSON of strangers is a value that everything can hold, or one exception that says why."""

import json

import hypothesis
import pytest
from hypothesis import strategies as st

from paligemma_jax.core import strict_json
from tests.hostile import lines


@pytest.mark.parametrize("name", sorted(set(lines.MALFORMED) - {"too long"}))
def test_what_is_no_line_of_json_lines_is_refused_with_a_reason(name):
  line, _ = lines.MALFORMED[name]
  with pytest.raises(strict_json.Malformed) as e:
    strict_json.parse_object(line)
  assert 5 < len(str(e.value)) < 200 and not str(e.value).endswith(".")


@pytest.mark.parametrize("data", [b"[" * 10**6, b"9" * 5000, b"\xff", "{'a'", b"", b'{"a":' * 9999])
def test_large_files_fail_in_one_way_too(data):
  with pytest.raises(strict_json.Malformed):
    strict_json.parse_large(data)


@hypothesis.settings(deadline=None)
@hypothesis.given(
  st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
  )
)
def test_a_value_comes_through_as_it_is_or_not_at_all(value):
  try:
    found = strict_json.parse(json.dumps(value))
  except strict_json.Malformed:
    return
  assert found == value


def test_a_file_is_read_with_a_bound(tmp_path):
  path = tmp_path / "a.json"
  path.write_text('{"a": 1}')
  assert strict_json.read_object(path, max_bytes=8) == {"a": 1}
  with pytest.raises(OSError, match="the limit is 7") as e:
    strict_json.read_object(path, max_bytes=7)
  assert strict_json.reason(e.value) == "It has 8 bytes, the limit is 7"
