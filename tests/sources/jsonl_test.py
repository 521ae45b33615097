"""JSON lines: strict, with line numbers; file names in rows cannot lead anywhere else."""

import json
import os
import pickle
import sys
import threading

import hypothesis
import pytest
from hypothesis import strategies as st

from paligemma_jax import sources
from paligemma_jax.core import bucket
from paligemma_jax.core import errors
from paligemma_jax.core import spec as spec_lib
from paligemma_jax.sources import files
from paligemma_jax.sources import jsonl
from tests.hostile import images
from tests.hostile import lines


def rows_of(tmp_path, data, **options):
  path = tmp_path / "rows.jsonl"
  path.write_bytes(data)
  return sources.Jsonl(str(path), **options).open()


@pytest.mark.parametrize("name", sorted(lines.MALFORMED))
def test_a_malformed_line_is_rejected_with_file_line_and_reason(name, tmp_path):
  line, reason = lines.MALFORMED[name]
  rows = rows_of(tmp_path, b'{"ok": 1}\n' + line.replace(b"\n", b" ") + b'\n{"ok": 3}\n')
  assert len(rows) == 3
  with pytest.raises(errors.DataError, match=reason) as found:
    rows[1]
  assert str(found.value).startswith(f"{tmp_path}/rows.jsonl:2: ")
  assert rows[0] == {"ok": 1}
  assert rows[2] == {"ok": 3}


def test_lines_split_at_newlines_only_and_blank_ones_are_counted(tmp_path):
  data = '\ufeff{"a": "\u2028 \u0085"}\r\n\n   \n{"a": 2}\n\t\r\n{"a": 3}'.encode()
  rows = rows_of(tmp_path, data)
  assert [rows[i]["a"] for i in range(len(rows))] == ["\u2028 \u0085", 2, 3]
  assert [rows.where(i).rsplit(":", 1)[1] for i in range(3)] == ["1", "4", "6"]


@pytest.mark.parametrize("data", [b"", b"\n\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n  \n"])
def test_a_file_without_rows_has_length_zero(data, tmp_path):
  assert len(rows_of(tmp_path, data)) == 0


def test_a_line_of_any_length_costs_one_row(tmp_path):
  rows = rows_of(tmp_path, b'{"a":1}\n' + b"x" * (5 << 20) + b'\n{"a":3}')
  assert [rows.where(i)[-1] for i in range(len(rows))] == ["1", "2", "3"]
  with pytest.raises(errors.DataError, match="5242881 bytes"):
    rows[1]
  assert rows[2] == {"a": 3}


def test_numbers_and_unicode_come_through(tmp_path):
  row = {"a": [1, 2.5, -3, True, None], "ü": "🐯", "deep": {"x": [[["y"]]]}, "n": 10**299}
  flat = {"deep/x": [[["y"]]]}
  assert rows_of(tmp_path, json.dumps(row).encode())[0] == {**row, **flat}


@pytest.mark.parametrize("row", [{"a": 1}, {"a": 1, "b": None}])
def test_a_missing_or_null_column_is_named(row, tmp_path):
  rows = rows_of(tmp_path, json.dumps(row).encode(), columns=("a", "b"))
  with pytest.raises(errors.DataError, match=r"rows.jsonl:1: column 'b' is missing"):
    rows[0]


def test_images_become_bytes_and_keep_their_path(tmp_path):
  (tmp_path / "pics").mkdir()
  (tmp_path / "pics" / "a.png").write_bytes(b"A")
  (tmp_path / "pics" / "b.png").write_bytes(b"B")
  data = b'{"image": "a.png"}\n{"image": ["a.png", "b.png"]}\n{"left": "b.png"}'
  rows = rows_of(tmp_path, data, images=str(tmp_path / "pics"), image_column=("image", "left"))
  assert rows[0] == {"image": b"A", "image_path": "a.png"}
  assert rows[1]["image"] == [b"A", b"B"]
  assert rows[2]["left"] == b"B"
  assert sources.Jsonl("x", columns=("image", "q")).makes() == ("image", "q", "image_path")


def test_images_lie_beside_the_file_unless_said_otherwise(tmp_path):
  (tmp_path / "a.png").write_bytes(b"A")
  assert rows_of(tmp_path, b'{"image": "./a.png"}')[0]["image"] == b"A"


def test_rows_can_be_sent_to_other_processes_and_read_from_many_threads(tmp_path):
  data = b"\n".join(b'{"i": %d, "pad": "%s"}' % (i, b"x" * (i % 97)) for i in range(300))
  rows = pickle.loads(pickle.dumps(rows_of(tmp_path, data)))
  wrong = []

  def read(start):
    wrong.extend(i for i in range(start, 300, 3) if rows[i]["i"] != i)

  threads = [threading.Thread(target=read, args=(k,)) for k in range(3)]
  [t.start() for t in threads]
  [t.join() for t in threads]
  assert not wrong


@pytest.mark.parametrize(
  "change",
  [
    lambda d: d + b'{"a":3}\n',
    lambda d: d.replace(b"1", b"7"),
    lambda d: b"".join(sorted(d.splitlines(True), reverse=True)),
    lambda d: d[:8],
  ],
)
def test_an_edited_added_reordered_or_dropped_row_changes_the_fingerprint(change, tmp_path):
  data = b'{"a":1}\n{"a":2}\n'
  before = rows_of(tmp_path, data).fingerprint()
  assert rows_of(tmp_path, data).fingerprint() == before
  assert rows_of(tmp_path, change(data)).fingerprint() != before


def test_a_missing_file_is_a_config_error(tmp_path):
  with pytest.raises(errors.ConfigError, match=r"nothing.jsonl"):
    sources.Jsonl(str(tmp_path / "nothing.jsonl")).open()


def test_web_addresses_are_refused_and_buckets_need_a_package(tmp_path, monkeypatch):
  with pytest.raises(errors.ConfigError, match="copy it to one of these"):
    sources.Jsonl("https://example.com/a.jsonl").open()
  with pytest.raises(errors.ConfigError, match="copy it to one of these"):
    rows_of(tmp_path, b"{}", images="http://example.com")
  monkeypatch.setitem(bucket._PACKAGES, "s3", "not_installed")
  with pytest.raises(errors.ConfigError, match=r"pip install 'paligemma-jax\[s3\]'"):
    sources.Jsonl("s3://bucket/a.jsonl").open()


def test_rows_and_images_are_read_from_a_bucket(gcs):
  root = bucket.path("gs://test-bucket/rows")
  lines = b'{"image": "x.png"}\n{"image": "gs://test-bucket/rows/pics/x.png"}\n'
  lines += b'{"image": "gs://other/x.png"}\n{"image": "../a.jsonl"}'
  bucket.write(root / "a.jsonl", lines)
  bucket.write(root / "pics/x.png", b"X")
  rows = sources.Jsonl(f"{root}/a.jsonl", images=f"{root}/pics").open()
  assert rows[0]["image"] == rows[1]["image"] == b"X"
  for i, reason in ((2, "no addresses"), (3, "relative")):
    with pytest.raises(errors.DataError, match=reason):
      rows[i]


def test_an_image_that_a_bucket_does_not_give_is_told_in_a_sentence_alone(gcs, caplog):
  root = bucket.path("gs://test-bucket/refused")
  bucket.write(root / "a.jsonl", b'{"image": "x.png"}')
  bucket.write(root / "x.png", b"X")
  rows = sources.Jsonl(f"{root}/a.jsonl").open()
  gcs.plan(dict(method="GET", path="x.png", status=403, skip=1))  # After its size is known.
  with pytest.raises(PermissionError, match="The store refuses it"):
    rows[0]
  gcs.plan(dict(method="GET", path="x.png", status=404, skip=1))
  with pytest.raises(errors.DataError, match="does not exist"):
    rows[0]
  gcs.plan()
  assert rows[0]["image"] == b"X" and not caplog.records


OUTSIDE = "secret"


@pytest.fixture
def tree(tmp_path):
  """A root with good files, and every way out of it that a data set could try."""
  root = tmp_path / "root"
  (root / "sub").mkdir(parents=True)
  (tmp_path / OUTSIDE).write_bytes(b"S")
  (tmp_path / "rootless").mkdir()
  (tmp_path / "rootless" / "f").write_bytes(b"S")
  (root / "good").write_bytes(b"G")
  (root / "sub" / "inner").write_bytes(b"I")
  (root / "link_inside").symlink_to("sub/inner")
  (root / "link_file").symlink_to(tmp_path / OUTSIDE)
  (root / "link_relative").symlink_to("../secret")
  (root / "link_folder").symlink_to(tmp_path)
  (root / "link_zero").symlink_to("/dev/zero")
  (root / "link_loop").symlink_to("link_loop")
  (root / "link_sibling").symlink_to("../rootless")
  os.mkfifo(root / "fifo")
  with open(root / "big", "wb") as f:
    f.truncate(files.MAX_IMAGE_BYTES + 1)
  return root


ESCAPES = [
  "../secret",
  "sub/../../secret",
  "/etc/passwd",
  "/dev/zero",
  "link_file",
  "link_relative",
  "link_folder/secret",
  "link_zero",
  "link_loop",
  "link_sibling/f",
  "fifo",
  "sub",
  "big",
  "",
  "a\0b",
  "http://example.com/x",
  "file:///etc/passwd",
  "gs://bucket/x",
  "..\\secret",
  "\ud800",
  7,
  None,
  ["good"],
]


@pytest.mark.parametrize("name", ESCAPES, ids=repr)
def test_a_name_that_leads_elsewhere_is_refused_and_nothing_is_opened(name, tree, opened):
  with pytest.raises(errors.DataError):
    files.read_under(str(tree), name)
  assert not opened


@pytest.mark.parametrize(
  "name, content", [("good", b"G"), ("sub/inner", b"I"), ("link_inside", b"I"), ("./good", b"G")]
)
def test_files_under_the_root_are_read(name, content, tree):
  assert files.read_under(str(tree), name) == content


@hypothesis.settings(
  deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@hypothesis.given(
  name=st.lists(
    st.sampled_from(
      [
        "..",
        ".",
        "/",
        "sub",
        "link_folder",
        "link_file",
        "good",
        "secret",
        "\\",
        "fifo",
        "\0",
        "inner",
        "root",
        "link_sibling",
        "f",
      ]
    ),
    max_size=6,
  ).map("/".join)
)
def test_no_path_reads_a_file_outside_the_root(name, tree):
  try:
    assert files.read_under(str(tree), name) in (b"G", b"I")
  except errors.DataError:
    pass


_WATCHED = []


def _watch(event, args):
  for seen in _WATCHED:
    if event == "open" and isinstance(args[0], (str, bytes)):
      seen.append(args[0])


@pytest.fixture
def opened():
  """The paths that are opened while the test runs."""
  if not getattr(_watch, "installed", False):
    sys.addaudithook(_watch)  # Cannot be removed: it listens only while a test wants it.
    _watch.installed = True
  seen = []
  _WATCHED.append(seen)
  yield seen
  _WATCHED.remove(seen)


@hypothesis.settings(deadline=None, max_examples=300)
@hypothesis.given(
  line=st.one_of(
    st.binary(max_size=200),
    st.recursive(
      st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
      lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
      max_leaves=20,
    ).map(lambda v: json.dumps(v).encode()),
    st.tuples(st.integers(0, 60), st.binary(max_size=3)).map(
      lambda e: b'{"a": [1, {"b": "\\u00fc"}], "c": null, "d": 1.5e3}'[: e[0]] + e[1]
    ),
  )
)
def test_any_bytes_are_a_row_or_a_data_error(line):
  try:
    row = jsonl.parse_line(line)
  except errors.DataError:
    return
  assert isinstance(row, dict)
  json.dumps(row, allow_nan=False).encode()


def test_a_row_in_the_config_is_a_source():
  source = sources.InMemory(({"a": 1, "b": [1]}, {"a": 2}))
  rows = source.open()
  assert [rows[i]["a"] for i in range(len(rows))] == [1, 2]
  assert source.makes() == ("a",)
  assert spec_lib.from_json(spec_lib.to_json(source)) == source
  assert rows.fingerprint() != sources.InMemory(({"a": 1}, {"a": 2})).open().fingerprint()


def test_the_picture_of_a_row_is_what_lies_on_disk(tmp_path):
  data = images.rgb("PNG")
  (tmp_path / "a.png").write_bytes(data)
  assert rows_of(tmp_path, b'{"image": "a.png"}')[0]["image"] == data


@pytest.mark.parametrize(
  ("content", "hint"),
  [
    (json.dumps([{"a": 1}, {"a": 2}], indent=2), r"one JSON array.*convert_data json"),
    (json.dumps([{"a": 1}, {"a": 2}]), r"one JSON array.*convert_data json"),
    (json.dumps({"a": 1}, indent=2) * 2, r"objects over several lines.*convert_data json"),
    (json.dumps({"images": [], "annotations": []}, indent=1), r"as COCO has it.*sources\.Coco"),
    ("version https://git-lfs.github.com/spec/v1\noid", r"git-lfs pointer.*git lfs pull"),
    ("<!DOCTYPE html>\n<html>", r"an HTML page"),
    ("image,prefix\na.jpg,what?\n", r"a table \(CSV\).*sources\.Csv"),
  ],
)
def test_what_is_not_one_object_a_line_is_said_at_once_with_the_remedy(content, hint, tmp_path):
  with pytest.raises(errors.DataError, match=f"(?s){hint}"):
    rows_of(tmp_path, content.encode())
  with pytest.raises(errors.DataError, match=f"(?s){hint}"):
    rows_of(tmp_path, b"\xef\xbb\xbf\n" + content.encode())


def test_a_chat_is_named_where_a_column_is_missing_and_read_where_none_is(tmp_path):
  line = b'{"messages": [{"role": "user", "content": "x"}], "images": ["a.jpg"]}\n'
  (tmp_path / "a.jsonl").write_bytes(line)
  source = sources.Jsonl(str(tmp_path / "a.jsonl"), columns=("image", "suffix"))
  with pytest.raises(errors.DataError, match=r"'messages' is of a chat format.*convert_data chat"):
    source.open()
  assert source.replace(columns=("messages",)).open()[0]["images"] == ["a.jpg"]
