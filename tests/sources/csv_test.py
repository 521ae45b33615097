"""CSV: the rules of JSON lines for tables; and one source as training and validation rows."""

import pickle

import pytest

from paligemma_jax import sources
from paligemma_jax.core import bucket
from paligemma_jax.core import errors
from paligemma_jax.core import spec as spec_lib

TABLE = b"image,prefix,suffix\na.png,what?,a cat\nb.png,where?,there\n"


def rows_of(tmp_path, data, **options):
  path = tmp_path / "rows.csv"
  path.write_bytes(data)
  return sources.Csv(str(path), **{"image_column": "", **options}).open()


def test_columns_are_named_by_the_header_and_images_become_bytes(tmp_path):
  (tmp_path / "pics").mkdir()
  (tmp_path / "pics" / "a.png").write_bytes(b"A")
  columns = ("image", "prefix", "suffix")
  source = sources.Csv(str(tmp_path / "t.csv"), images=str(tmp_path / "pics"), columns=columns)
  (tmp_path / "t.csv").write_bytes(TABLE)
  rows = source.open()
  row = {"image": b"A", "image_path": "a.png", "prefix": "what?", "suffix": "a cat"}
  assert len(rows) == 2 and rows[0] == row
  assert source.makes() == ("image", "prefix", "suffix", "image_path")
  with pytest.raises(errors.DataError, match=r"t\.csv:3: column 'image': file 'b\.png'"):
    rows[1]
  assert spec_lib.from_json(spec_lib.to_json(source)) == source


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_what_people_and_their_programs_write_is_read(delimiter, end, tmp_path):
  text = '\ufefffile,  answer\n\n a.png,"x,\n ""y"" é"\n"b.png", \n\nc.png,z'
  data = text.replace(",", delimiter).encode().replace(b"\n", end)
  rows = rows_of(tmp_path, data)
  line = end.decode()
  expected = [("a.png", f'x{delimiter}{line} "y" é'), ("b.png", ""), ("c.png", "z")]
  assert [tuple(rows[i].values()) for i in range(len(rows))] == expected
  assert [rows.where(i).rsplit(":", 1)[1] for i in range(3)] == ["3", "5", "7"]
  assert list(rows[0]) == ["file", "answer"]


@pytest.mark.parametrize("name", ["../a.png", "/etc/passwd", "http://x/a.png", "", "a\0.png"])
def test_a_path_cannot_lead_out_of_the_folder(name, tmp_path):
  (tmp_path / "a.png").write_bytes(b"A")
  (tmp_path / "in").mkdir()
  images = str(tmp_path / "in")
  rows = rows_of(tmp_path, f"image,x\n{name},1\n".encode(), images=images, image_column="image")
  with pytest.raises(errors.DataError, match=r"rows\.csv:2: "):
    rows[0]


@pytest.mark.parametrize(
  ("row", "reason"),
  [
    (b"a.png,x,y,z", r"4 values, the header 3.*','"),
    (b"a.png,x", "2 values, the header 3"),
    (b"a.png,x,", "column 'suffix' is empty"),
    (b"a.png,x,caf\xe9", "not UTF-8 at byte 11 of the row: save the table as 'CSV UTF-8'"),
    (b"a.png,x,\0", "NUL"),
  ],
)
def test_a_bad_row_is_named_by_line_and_rejects_no_other(row, reason, tmp_path):
  rows = rows_of(tmp_path, TABLE + row + b"\nc.png,x,y\n", columns=("suffix",))
  with pytest.raises(errors.DataError, match=rf"rows\.csv:4: .*{reason}"):
    rows[2]
  assert rows[1]["suffix"] == "there" and rows[3]["suffix"] == "y"


@pytest.mark.parametrize(
  ("data", "reason"),
  [
    (b"", "is empty"),
    (b"\xef\xbb\xbf\n", "is empty"),
    (b'{"image": "a.png"}\n', r"is JSON.*sources\.Jsonl"),
    (b"PK\x03\x04....", r"\.xlsx.*CSV UTF-8"),
    ("image,suffix\n".encode("utf-16"), "UTF-16"),
    (b"<!DOCTYPE html>\n<html>", "an HTML page"),
    (b"image,answer\na,b\n", r"no column 'suffix'; the header has 'image', 'answer'"),
    (b"image,sufix\na,b\n", "Did you mean 'sufix'"),
    (b"image,suffix,image\n", "column 'image' twice"),
    (b'image,suffix\na,"b\nc,d\n', r"rows\.csv:2 is not CSV"),
    (b'image,suffix\na,"b"c\n', r"rows\.csv:2 is not CSV"),
    (b'image,suffix\na,"b' + b"x" * (1 << 20), r"rows\.csv:2: a row has more than"),
  ],
)
def test_what_is_no_table_is_said_at_once(data, reason, tmp_path):
  with pytest.raises(errors.DataError, match=f"(?s){reason}"):
    rows_of(tmp_path, data, columns=("image", "suffix"))


def test_a_missing_file_and_a_long_delimiter_are_config_errors(tmp_path):
  with pytest.raises(errors.ConfigError, match=r"nothing\.csv"):
    sources.Csv(str(tmp_path / "nothing.csv")).open()
  with pytest.raises(errors.ConfigError, match="one character"):
    sources.Csv("a.csv", delimiter="::")


def test_rows_know_their_content_and_can_be_sent_to_other_processes(tmp_path):
  rows = rows_of(tmp_path, TABLE)
  again = pickle.loads(pickle.dumps(rows))
  assert again[1] == rows[1] and again.fingerprint() == rows.fingerprint()
  changed = rows_of(tmp_path, TABLE.replace(b"a cat", b"a dog"))
  assert changed.fingerprint() != rows.fingerprint()
  assert changed.digests()[0] != rows.digests()[0] and changed.digests()[1] == rows.digests()[1]


def test_a_table_is_read_from_a_bucket(gcs):
  root = bucket.path("gs://test-bucket/table")
  bucket.write(root / "a.csv", TABLE)
  bucket.write(root / "a.png", b"A")
  assert sources.Csv(f"{root}/a.csv").open()[0]["image"] == b"A"


def _numbers(num, **options):
  rows = tuple({"n": i} for i in range(num))
  source = sources.InMemory(rows)
  both = [sources.Split(source, part, **options).open() for part in ("train", "val")]
  return [[rows[i]["n"] for i in range(len(rows))] for rows in both]


def test_a_split_has_each_row_once_and_validation_rows_from_everywhere():
  train, val = _numbers(100, every=5)
  assert sorted(train + val) == list(range(100)) and train == sorted(train)
  assert [n // 5 for n in val] == list(range(20))
  assert len({n % 5 for n in val}) > 1  # Not the same place in each five.
  longer = _numbers(117, every=5)
  assert longer[1][:20] == val and _numbers(100, every=5, seed=1)[1] != val


def test_a_split_tells_of_rows_as_its_source_does(tmp_path):
  data = b"image,n\n" + b"".join(b"x.png,%d\n" % i for i in range(20))
  rows_of(tmp_path, data)
  table = sources.Csv(str(tmp_path / "rows.csv"), columns=("n",), image_column="")
  split = sources.Split(table, "val", every=4)
  rows = split.open()
  assert rows.where(0) == f"{tmp_path}/rows.csv:{int(rows[0]['n']) + 2}"
  assert rows.digests()[2] == table.open().digests()[int(rows[2]["n"])]
  assert rows.fingerprint() != split.replace(part="train").open().fingerprint()
  assert split.makes() == ("n",)
  assert spec_lib.from_json(spec_lib.to_json(split)) == split
  with pytest.raises(IndexError):
    rows[len(rows)]


@pytest.mark.parametrize(
  ("options", "kind", "reason"),
  [
    ({"part": "test"}, errors.ConfigError, "'test'.*'train'"),
    ({"every": 1}, errors.ConfigError, "2 or more"),
    ({"source": "a.csv"}, errors.ConfigError, "no source"),
    ({"every": 1000}, errors.DataError, "too few"),
  ],
)
def test_a_wrong_split_is_refused(options, kind, reason):
  source = sources.InMemory(tuple({"n": i} for i in range(3)))
  with pytest.raises(kind, match=reason):
    sources.Split(**{"source": source, "part": "train", **options}).open()
