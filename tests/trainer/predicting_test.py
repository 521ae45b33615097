"""Answers row by row: in order, resumed without a trace, bad rows told and counted."""

import dataclasses
import json
import os

import pytest

from paligemma_jax import sources
from paligemma_jax.core import errors
from paligemma_jax.trainer import predicting
from tests import small_disk


@dataclasses.dataclass
class Answer:
  """As api.Prediction."""

  text: str
  logprob: float = -1.0


class Model:
  """Says what it was asked; `calls` are the rows of each call."""

  def __init__(self, broken=()):
    self.calls, self._broken = [], broken

  def generate(self, images, prompts, *, rows):
    self.calls.append(rows)
    for image in images:
      if image in self._broken:
        raise errors.DataError(f"no image {image!r}")
    return [
      Answer(f"{prompt} {image} #{row}")
      for image, prompt, row in zip(images, prompts, rows, strict=True)
    ]


def _ask(path, paths, model, prompt="what?", bad_rows=0, settings=None):
  notes = []
  with predicting.opened(path, settings or {"ckpt": "a"}) as answers:
    questions = predicting.from_images(paths[answers.num_done :], prompt)
    predicting.run(
      model.generate, questions, answers, batch_size=2, bad_rows=bad_rows, note=notes.append
    )
  return notes


def _lines(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


_PATHS = [f"{i}.png" for i in range(5)]


def test_each_image_has_its_line_in_order(tmp_path):
  path, model = tmp_path / "new" / "out.jsonl", Model()
  _ask(path, _PATHS, model)
  assert model.calls == [[0, 1], [2, 3], [4]]
  assert _lines(path)[3] == {
    "row": 3,
    "image": "3.png",
    "prompt": "what?",
    "text": "what? 3.png #3",
    "logprob": -1.0,
  }
  assert [line["row"] for line in _lines(path)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("cut", [0, 1, 60, 150, 200, -1])
def test_wherever_it_was_interrupted_the_file_ends_up_the_same(tmp_path, cut):
  path = tmp_path / "out.jsonl"
  _ask(path, _PATHS, Model())
  whole = path.read_bytes()
  path.write_bytes(whole[:cut])
  model = Model()
  _ask(path, _PATHS, model)
  assert path.read_bytes() == whole
  num_kept = whole[:cut].count(b"\n")
  assert [row for call in model.calls for row in call] == list(range(num_kept, 5))


def test_other_settings_and_other_files_are_refused(tmp_path):
  path = tmp_path / "out.jsonl"
  _ask(path, _PATHS[:3], Model())
  before = path.read_bytes()
  with pytest.raises(errors.ConfigError, match="3 answers that were made with another ckpt"):
    _ask(path, _PATHS, Model(), settings={"ckpt": "b"})
  path.write_bytes(b'{"my": "data"}\n')
  with pytest.raises(errors.ConfigError, match="jsonl:1: this is not the answer to row 0"):
    _ask(path, _PATHS, Model())
  assert path.read_bytes() == b'{"my": "data"}\n' and before


def test_a_second_writer_is_refused_and_named_the_first(tmp_path):
  path = tmp_path / "out.jsonl"
  with predicting.opened(path, {"ckpt": "a"}):
    told = rf"answers '{path}' is in use by process {os.getpid()} on "
    with pytest.raises(errors.WorkdirError, match=told):
      _ask(path, _PATHS, Model())
  _ask(path, _PATHS, Model())
  assert [line["row"] for line in _lines(path)] == [0, 1, 2, 3, 4]


def test_answers_go_to_a_regular_file_that_can_be_written(tmp_path):
  (tmp_path / "folder").mkdir()
  os.mkfifo(tmp_path / "fifo")
  (tmp_path / "file").write_text("")
  for name in ("folder", "fifo", "/dev/null"):
    with pytest.raises(errors.WorkdirError, match="is no regular file"):
      _ask(tmp_path / name, _PATHS, Model())
  with pytest.raises(errors.WorkdirError, match="cannot be made: a file is in its place"):
    _ask(tmp_path / "file" / "out.jsonl", _PATHS, Model())


def test_damaged_settings_beside_the_answers_are_other_settings(tmp_path):
  path = tmp_path / "out.jsonl"
  _ask(path, _PATHS[:3], Model())
  for damaged in (b"", b"[1]", b"\xff", b"[" * 100_000):
    (tmp_path / ".out.jsonl.settings.json").write_bytes(damaged)
    with pytest.raises(errors.ConfigError, match="3 answers that were made with another ckpt"):
      _ask(path, _PATHS, Model())


def test_a_full_disk_keeps_the_answers_that_are_there(tmp_path):
  with small_disk.mounted(tmp_path / "disk", size="64k") as disk:
    path = disk / "out.jsonl"
    _ask(path, _PATHS[:2], Model())
    with predicting.opened(path, {"ckpt": "a"}) as answers:
      small_disk.fill(disk)
      with pytest.raises(errors.StateError, match=r"No space left.*2 answers; the same command"):
        answers.append([{"row": 2, "text": "long " * 2000}])
    with pytest.raises(errors.WorkdirError, match="cannot be written: No space left"):
      _ask(path, _PATHS, Model())
    (disk / small_disk.FILLER).unlink()
    _ask(path, _PATHS, Model())
    assert [line["row"] for line in _lines(path)] == [0, 1, 2, 3, 4]


def test_a_bad_row_is_told_and_within_the_budget_the_others_are_answered(tmp_path):
  path = tmp_path / "out.jsonl"
  notes = _ask(path, _PATHS, Model(broken=("1.png", "4.png")), bad_rows=2)
  assert notes == ["row 1: no image '1.png'", "row 4: no image '4.png'"]
  lines = _lines(path)
  assert [line.get("error") for line in lines] == [
    None,
    "no image '1.png'",
    None,
    None,
    "no image '4.png'",
  ]
  assert [line["row"] for line in lines if "text" in line] == [0, 2, 3]


def test_beyond_the_budget_it_ends_and_keeps_what_came_before(tmp_path):
  path = tmp_path / "out.jsonl"
  with pytest.raises(errors.DataError, match=r"1 bad rows; --bad_rows allows 0\. no image '3"):
    _ask(path, _PATHS, Model(broken=("3.png",)))
  assert [line["row"] for line in _lines(path)] == [0, 1, 2]
  _ask(path, _PATHS, Model())
  assert [line["row"] for line in _lines(path)] == [0, 1, 2, 3, 4]


def test_rows_of_a_file_bring_prompt_and_columns(tmp_path):
  (tmp_path / "a.png").write_bytes(b"pixels")
  rows = [
    {"image": "a.png", "prefix": "count", "id": "x", "text": "ours wins"},
    {"image": "a.png", "id": "y"},
    {"image": "../a.png", "prefix": "count"},
    {"prefix": "count"},
  ]
  (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  opened = sources.Jsonl(str(tmp_path / "rows.jsonl")).open()
  first, second, third, fourth = predicting.from_rows(opened, "caption", start=0)
  assert (first.image, first.prompt) == (b"pixels", "count")
  assert first.kept == {"image": "a.png", "prefix": "count", "id": "x"}
  assert (second.prompt, second.kept["id"]) == ("caption", "y")
  for question, logged in ((third, "rows.jsonl:3"), (fourth, "rows.jsonl:4: there is no image")):
    assert isinstance(question.image, errors.DataError) and logged in str(question.image)
  (asked,) = predicting.from_rows(opened, "", start=3)
  assert isinstance(asked.image, errors.DataError)


@pytest.mark.parametrize("place", ["out.jsonl", ".out.jsonl.settings.json", "both"])
def test_answers_are_not_written_through_links(place, tmp_path):
  outside = tmp_path / "outside"
  outside.mkdir()
  run = tmp_path / "run"
  run.mkdir()
  names = ["out.jsonl", ".out.jsonl.settings.json"] if place == "both" else [place]
  for name in names:
    (run / name).symlink_to(outside / name)
    (outside / name).write_text("mine, cut")
  try:
    _ask(run / "out.jsonl", _PATHS, Model())
  except errors.WorkdirError as e:
    assert "out.jsonl' is a link" in str(e) and "out.jsonl" in names
  assert {p.name: p.read_text() for p in outside.iterdir()} == dict.fromkeys(names, "mine, cut")


@pytest.mark.parametrize("text", ["{bad", "[1]", "5", "\udcff", "", '{"ckpt": NaN}'])
def test_damaged_settings_are_other_settings(text, tmp_path):
  path = tmp_path / "out.jsonl"
  _ask(path, _PATHS, Model())
  (tmp_path / ".out.jsonl.settings.json").write_bytes(text.encode("utf-8", "surrogatepass"))
  with pytest.raises(errors.ConfigError, match=r"another ckpt\. Remove it"):
    _ask(path, _PATHS, Model())


@pytest.mark.parametrize("content", [b"\x89PNG\r", b"a text without an end", b"{", b'{"row": 1'])
def test_a_file_of_somebody_else_is_not_cut(content, tmp_path):
  path = tmp_path / "out.jsonl"
  path.write_bytes(content)
  if content == b"{":  # As far as that goes it is the beginning of ours.
    _ask(path, _PATHS, Model())
    assert len(_lines(path)) == len(_PATHS)
    return
  with pytest.raises(errors.ConfigError, match="no file of ours"):
    _ask(path, _PATHS, Model())
  assert path.read_bytes() == content
