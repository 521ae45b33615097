"""Objects in a bucket against a server that speaks the store's API and fails as it is told to."""

import errno
import io
import os
import pathlib
import re
import time

import numpy as np
import pytest

from paligemma_jax.core import bucket
from paligemma_jax.core import errors


@pytest.fixture
def root(gcs, request):
  return bucket.path("gs://test-bucket/" + re.sub(r"\W", "-", request.node.name))


def test_what_is_written_is_read_and_listed_with_its_checksum(root):
  bucket.write(root / "a/x.txt", b"one")
  bucket.write(root / "a/x.txt", b"two!")
  bucket.write(root / "b.txt", b"")
  assert bucket.read(root / "a/x.txt", max_bytes=4) == b"two!"
  found = bucket.listing(root)
  assert {name: stat.size for name, stat in found.items()} == {"a/x.txt": 4, "b.txt": 0}
  assert found["a/x.txt"].checksum == "md5:n1ttmgNNF1hov1k4hbfcTg=="
  bucket.remove(root / "a")
  assert list(bucket.listing(root)) == ["b.txt"]
  with pytest.raises(FileNotFoundError):
    bucket.read(root / "a/x.txt", max_bytes=4)
  with pytest.raises(OSError, match="the limit is 2"):
    bucket.write(root / "c", b"abc")
    bucket.read(root / "c", max_bytes=2)


@pytest.mark.parametrize("content", [b"", b"\r", b"x\r", b"x\n", b"\r\n\r\n", b"\n\nx\r\n"])
def test_line_ends_are_bytes_like_others(root, content):
  bucket.write(root / "x", content)
  assert bucket.read(root / "x", max_bytes=10) == content


def test_of_two_creators_one_wins_and_a_version_is_replaced_once(root):
  version = bucket.create(root / "x", b"mine")
  with pytest.raises(FileExistsError):
    bucket.create(root / "x", b"theirs")
  newer = bucket.replace(root / "x", b"mine 2", version)
  with pytest.raises(FileExistsError):
    bucket.replace(root / "x", b"theirs", version)
  assert bucket.stat(root / "x").version == newer
  assert bucket.read(root / "x", max_bytes=9) == b"mine 2"


def test_a_lost_answer_is_no_conflict(root, gcs):
  gcs.plan(dict(method="POST", path=root.name, status=503, lost=True, times=1))
  version = bucket.create(root / "x", b"mine")
  gcs.plan(dict(method="POST", path=root.name, status=503, lost=True, times=1))
  bucket.replace(root / "x", b"mine 2", version)
  assert bucket.read(root / "x", max_bytes=9) == b"mine 2"


@pytest.mark.parametrize("status", [429, 503, 500])
def test_a_busy_store_is_asked_again(root, gcs, status):
  gcs.plan(dict(path=root.name, status=status, times=2))
  bucket.write(root / "x", b"1")
  assert bucket.read(root / "x", max_bytes=9) == b"1"


def test_a_broken_connection_is_asked_again(root, gcs):
  bucket.write(root / "x", b"12345678")
  gcs.plan(dict(method="GET", path=root.name, cut=True, times=1))
  assert bucket.read(root / "x", max_bytes=9) == b"12345678"


@pytest.mark.parametrize(
  "status, kind, words",
  [(403, PermissionError, "refuses"), (401, PermissionError, "refuses"), (507, OSError, "507")],
)
def test_a_refusal_is_told_at_once(root, gcs, status, kind, words):
  gcs.plan(dict(method="POST", path=root.name, status=status))
  begin = time.monotonic()
  with pytest.raises(kind, match=words) as e:
    bucket.write(root / "x", b"1")
  assert time.monotonic() - begin < 5 and e.value.strerror
  assert e.value.filename == f"{root}/x"


@pytest.mark.parametrize(
  "text, words",
  [
    ("ftp://host/run", "gs:// and s3://"),
    ("gs://", "no name of a bucket"),
    ("gs://b/run", "no name of a bucket"),
    ("gs:///run", "no name of a bucket"),
  ],
)
def test_a_path_that_is_none_of_a_bucket(text, words):
  with pytest.raises(errors.ConfigError, match=words):
    bucket.path(text)


def test_lines_survive_their_writer_and_are_one_file_in_the_end(root):
  path = root / "metrics.jsonl"
  lines = bucket.Lines(path, b"0\n")
  for i in range(1, 5):
    lines.append(b"%d\n" % i)
  assert bucket.read(path, max_bytes=99) == b"0\n"
  assert bucket.read_growing(path) == b"0\n1\n2\n3\n4\n"
  again = bucket.Lines(path, b"0\n1\n")  # A restart that goes back.
  assert bucket.read_growing(path) == b"0\n1\n"
  again.append(b"x\n")
  again.close()
  assert bucket.read(path, max_bytes=99) == b"0\n1\nx\n"
  assert list(bucket.listing(root)) == ["metrics.jsonl"]
  again.append(b"y\n")
  assert bucket.read_growing(path) == b"0\n1\nx\ny\n"


def test_lines_of_many_parts_and_a_death_between_the_whole_file_and_the_parts(root, monkeypatch):
  monkeypatch.setattr(bucket.Lines, "_PART_BYTES", 10)
  path = root / "metrics.jsonl"
  lines = bucket.Lines(path, b"")
  written = b"".join(b"%05d\n" % i for i in range(9))
  for i in range(9):
    lines.append(b"%05d\n" % i)
  assert len(bucket.listing(root)) == 6 and bucket.read_growing(path) == written
  bucket.write(path, written)
  assert bucket.read_growing(path) == written
  bucket.write(path, written[:24])
  assert bucket.read_growing(path) == written


def test_an_append_that_fails_leaves_the_lines_before_it(root, gcs):
  path = root / "metrics.jsonl"
  lines = bucket.Lines(path, b"")
  lines.append(b"1\n")
  gcs.plan(dict(method="POST", path="parts", status=403, times=1))
  with pytest.raises(PermissionError):
    lines.append(b"2\n")
  lines.append(b"3\n")
  assert bucket.read_growing(path) == b"1\n3\n"


def test_what_is_moved_keeps_its_checksums(root):
  bucket.write(root / "a/x", b"1")
  bucket.write(root / "a/b/y", b"2")
  before = bucket.listing(root / "a")
  bucket.move(root / "a", root / "c")
  after = bucket.listing(root)
  assert {f"c/{n}": s.checksum for n, s in before.items()} == {
    n: s.checksum for n, s in after.items()
  }


def test_parts_of_a_file_are_read_wherever_they_are(root, gcs, monkeypatch):
  monkeypatch.setattr(bucket, "_BLOCK_BYTES", 5000)
  monkeypatch.setattr(bucket, "_PIECE_BYTES", 1000)
  content = np.random.default_rng(0).bytes(20_001)
  bucket.write(root / "x", content)
  with bucket.open_read(root / "x") as file:
    raw, local = file.raw, io.BytesIO(content)
    for offset, whence, size in [
      *((0, os.SEEK_CUR, 700) for _ in range(5)),
      (17_000, os.SEEK_SET, 3),
      (-10, os.SEEK_END, 100),
      (3000, os.SEEK_SET, 12_345),
      (-40, os.SEEK_CUR, 20),
      (30_000, os.SEEK_SET, 5),
    ]:
      found, expected = bytearray(size), bytearray(size)
      raw.seek(offset, whence), local.seek(offset, whence)
      assert raw.readinto(found) == local.readinto(expected) and found == expected
      assert raw.tell() == local.tell()
    with pytest.raises(OSError, match="Invalid argument"):
      raw.seek(-30_000, os.SEEK_END)
    assert raw.read(10) == local.read(10)  # Where it was.


def _num_fetched(gcs, path):
  return sum(method == "GET" and name.endswith(path) for method, name in gcs.requests())


def test_small_reads_in_order_fetch_ahead_and_a_large_one_fetches_its_pieces_together(
  root, gcs, monkeypatch
):
  monkeypatch.setattr(bucket, "_BLOCK_BYTES", 5000)
  monkeypatch.setattr(bucket, "_PIECE_BYTES", 5000)
  bucket.write(root / "x", bytes(20_000))
  name = f"{root.name}/x"
  with bucket.open_read(root / "x") as file:
    before = _num_fetched(gcs, name)
    for num_fetched in [1] + 50 * [2]:  # The first read may be the only one.
      file.raw.readinto(bytearray(100))
      assert _num_fetched(gcs, name) == before + num_fetched
    gcs.plan(dict(method="GET", path=root.name, delay=0.5))
    begin = time.monotonic()
    assert file.raw.readinto(bytearray(14_900)) == 14_900
    assert 0.5 < time.monotonic() - begin < 1.2


def test_a_file_that_changes_while_it_is_read_is_told(root):
  bucket.write(root / "x", bytes(100))
  with bucket.open_read(root / "x") as file:
    bucket.write(root / "x", bytes(10))
    with pytest.raises(OSError, match="changed while it was read"):
      file.read(100)


def test_a_file_that_goes_while_it_is_read_is_said_to_be_missing(root):
  bucket.write(root / "x", bytes(100))
  with bucket.open_read(root / "x") as file:
    bucket.remove(root / "x")
    with pytest.raises(FileNotFoundError) as e:
      file.read(100)
  assert (e.value.strerror, e.value.filename) == ("No such file or directory", f"{root}/x")


class _S3Client:
  """Raises what s3fs raises for an answer of S3."""

  def __init__(self, code):
    self._code = code

  def split_path(self, name):
    return "abc", name, None

  def info(self, name):
    raise FileNotFoundError("The specified bucket does not exist")

  def call_s3(self, method, **arguments):
    answer = ValueError("no")
    answer.response = {"Error": {"Code": self._code}}
    raise OSError(errno.EINVAL, "At least one of the pre-conditions did not hold") from answer


def test_what_s3_answers_to_a_precondition_is_a_conflict(monkeypatch):
  path = pathlib.PurePosixPath("x")
  for code in ("PreconditionFailed", "ConditionalRequestConflict"):
    monkeypatch.setattr(bucket, "file_system", lambda path, code=code: _S3Client(code))
    with pytest.raises(FileNotFoundError) as missing:  # Of the question what is there now.
      bucket.replace(path, b"x", "version")
    assert missing.value.strerror == "The specified bucket does not exist"
    assert isinstance(missing.value.__context__.__context__, FileExistsError)
  monkeypatch.setattr(bucket, "file_system", lambda path: _S3Client("InvalidRequest"))
  with pytest.raises(OSError, match="pre-conditions") as other:
    bucket.replace(path, b"x", "version")
  assert other.value.errno == errno.EINVAL
