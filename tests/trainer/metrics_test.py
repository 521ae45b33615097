"""metrics.jsonl: each step exactly once, whatever happened to the file."""

import io
import json
import math
import os
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from PIL import Image
from tensorboardX.proto import event_pb2

from paligemma_jax.core import atomic_io
from paligemma_jax.core import errors
from paligemma_jax.trainer import bad_rows
from paligemma_jax.trainer import metrics
from paligemma_jax.trainer import workdir


def _log(path, *, resume_step, tensorboard=False, main=True):
  place = workdir.Workdir(path)
  return metrics.MetricsLog(place, resume_step=resume_step, tensorboard=tensorboard, main=main)


def _values(step):
  return {"loss": math.sin(step), "lr": step * 1e-5, "examples_per_second": 10.0}


def _write(path, resume_step, stop):
  """The steps after `resume_step` up to `stop`, with an evaluation at each fourth."""
  log = _log(path, resume_step=resume_step)
  for step in range(max(resume_step, 0) + 1, stop + 1):
    log.write(step, _values(step) | ({"val/acc": step / 100} if step % 4 == 0 else {}))
  log.close()
  return log


def test_evaluations_join_the_line_of_their_step_and_timing_comes_last(tmp_path):
  _write(tmp_path, -1, 4)
  lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
  assert [list(json.loads(line)) for line in lines[2:]] == [
    ["step", "loss", "lr", "examples_per_second"],
    ["step", "loss", "lr", "val/acc", "examples_per_second"],
  ]


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 1000), resume=st.integers(-1, 10), junk=st.binary(max_size=8))
def test_cut_at_any_byte_and_resumed_the_file_is_that_of_one_run(tmp_path, cut, resume, junk):
  path = tmp_path / "metrics.jsonl"
  path.unlink(missing_ok=True)
  _write(tmp_path, -1, 10)
  whole = path.read_bytes()
  assert len(whole) <= 1000
  # Lines up to the restored step are on disk, by the order of write and save; later ones may be cut
  # anywhere, with anything behind.
  lines = whole.splitlines(keepends=True)
  safe = sum(map(len, lines[: max(resume, 0)]))
  path.write_bytes(whole[: max(cut, safe)] + junk)
  steps = [line["step"] for line in metrics.read(path)]
  assert steps == sorted(set(steps)) and steps[: max(resume, 0)] == list(range(1, resume + 1))
  _write(tmp_path, resume, 10)
  assert path.read_bytes() == whole


def test_later_lines_and_torn_ones_are_cut(tmp_path):
  _write(tmp_path, -1, 5)
  path = tmp_path / "metrics.jsonl"
  path.write_bytes(path.read_bytes() + b'{"step": 6, "lo')
  log = _log(tmp_path, resume_step=3)
  assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3]
  log.close()


_KILLED = """
import sys
from paligemma_jax.trainer import metrics, workdir
log = metrics.MetricsLog(
    workdir.Workdir(__import__("pathlib").Path(sys.argv[1])), resume_step=-1, tensorboard=False,
    main=True)
for step in range(1, 9):
  log.write(step, {"loss": step / 7})
"""


@pytest.mark.parametrize(("when", "num_lines"), [("before_append", 4), ("after_append", 5)])
def test_a_process_that_dies_around_an_append_leaves_whole_lines(tmp_path, when, num_lines):
  run = subprocess.run(
    [sys.executable, "-c", _KILLED, str(tmp_path)],
    env={**os.environ, "PJ_FAULT": f"metrics.{when}:exit@5"},
  )
  assert run.returncode == 9
  lines, num_torn = atomic_io.read_lines(tmp_path / "metrics.jsonl")
  assert (len(lines), num_torn) == (num_lines, 0)


def test_a_full_disk_is_a_state_error(tmp_path, monkeypatch):
  log = _log(tmp_path, resume_step=-1)
  monkeypatch.setenv("PJ_FAULT", "metrics.before_append:enospc")
  with pytest.raises(errors.StateError, match=r"metrics\.jsonl cannot be written: no space left"):
    log.write(1, {"loss": 1.0})


def test_numbers_of_every_library_are_written_the_short_way(tmp_path):
  log = _log(tmp_path, resume_step=-1)
  values = {
    "a": np.float32(0.1),
    "b": jnp.float32(2.3),
    "c": np.int64(7),
    "d": 0.1,
    "e": jnp.bfloat16(1.5),
  }
  log.write(1, {**values, "f": float("nan"), "g": -np.float32(np.inf)})
  log.close()
  text = (tmp_path / "metrics.jsonl").read_text()
  assert text == (
    '{"step": 1, "a": 0.1, "b": 2.3, "c": 7, "d": 0.1, "e": 1.5, "f": "NaN", "g": "-Infinity"}\n'
  )
  (line,) = metrics.read(tmp_path / "metrics.jsonl")
  assert math.isnan(line["f"]) and line["g"] == -math.inf


@given(st.floats(width=32, allow_nan=False))
def test_the_short_way_loses_nothing(value):
  short = metrics.number(np.float32(value))
  assert np.float32(short) == np.float32(value) and len(repr(short)) <= 22


def test_a_metric_that_is_no_number_is_refused():
  with pytest.raises(errors.ConfigError, match=r"shape \[2\]"):
    metrics.number(np.zeros(2))


def test_the_other_processes_write_nothing(tmp_path):
  log = _log(tmp_path, resume_step=-1, tensorboard=True, main=False)
  log.write(1, {"loss": 1.0})
  log.close()
  assert not os.listdir(tmp_path)


def test_tensorboard_has_the_numbers_and_hides_what_is_written_again(tmp_path):
  for resume, steps in ((-1, (1, 2, 3)), (1, (2, 3))):
    log = _log(tmp_path, resume_step=resume, tensorboard=True)
    for step in steps:
      log.write(step, {"loss": step / 2})
    log.close()
  events = []
  for name in sorted(os.listdir(tmp_path / "tensorboard")):
    events += _events((tmp_path / "tensorboard" / name).read_bytes(), event_pb2.Event)
  shown = {}
  for event in events:  # In the order written, as TensorBoard reads them.
    if event.session_log.status == 1:  # START: hides all from this step on.
      shown = {step: value for step, value in shown.items() if step < event.step}
    for value in event.summary.value:
      assert value.tag == "loss" and event.step not in shown
      shown[event.step] = value.simple_value
  assert shown == {1: 0.5, 2: 1.0, 3: 1.5}
  assert [e.step for e in events if e.session_log.status == 1] == [2]


def test_tensorboard_has_images_texts_and_predictions(tmp_path):
  log = _log(tmp_path, resume_step=-1, tensorboard=True)
  log.text(0, {"config": '{\n  "seed": 0\n}'})
  log.predictions(4, {"val/predictions": "| text |\n| --- |\n| &lt;loc0001> |\n"})
  log.predictions(5, {})
  pixels = np.full((6, 9, 3), 200, np.uint8)
  log.images(5, {"example/0": (pixels, "detect -> <loc0001>")})
  log.close()
  (name,) = os.listdir(tmp_path / "tensorboard")
  events = _events((tmp_path / "tensorboard" / name).read_bytes(), event_pb2.Event)
  values = [(event.step, value) for event in events for value in event.summary.value]
  texts = {v.tag: (step, v.tensor.string_val[0].decode()) for step, v in values if v.tensor.dtype}
  assert texts == {
    "config/text_summary": (0, '    {\n      "seed": 0\n    }'),
    "val/predictions/text_summary": (4, "| text |\n| --- |\n| &lt;loc0001> |\n"),
    "example/0/text_summary": (5, "    detect -> <loc0001>"),
  }
  ((step, image),) = [(step, v) for step, v in values if v.HasField("image")]
  assert (step, image.tag, image.image.height, image.image.width) == (5, "example/0", 6, 9)
  shown = Image.open(io.BytesIO(image.image.encoded_image_string))
  np.testing.assert_array_equal(np.asarray(shown), pixels)


def _events(data, event_type):
  """The records of an event file: length, crc of it, data, crc of it."""
  position = 0
  while position < len(data):
    size = int.from_bytes(data[position : position + 8], "little")
    yield event_type.FromString(data[position + 12 : position + 12 + size])
    position += 12 + size + 4


def test_each_bad_row_is_noted_once_also_after_a_restart(tmp_path):
  place = workdir.Workdir(tmp_path)
  policy = bad_rows.BadRows(place)
  policy.add(3, "train.jsonl:4", "no image")
  policy.add(3, "train.jsonl:4", "no image")
  policy.close()
  with open(place.bad_rows, "ab") as f:
    f.write(b'{"row": 9')  # A killed process's last write.
  again = bad_rows.BadRows(place)
  assert again.of("") == {3}
  again.add(3, "train.jsonl:4", "no image")
  again.add(9, "train.jsonl:10", "half an image")
  again.add(3, "val.jsonl:4", "no image", evaluator="val/acc")
  again.close()
  third = bad_rows.BadRows(place)
  third.close()
  assert third.of("") == {3, 9} and third.of("val/acc") == {3}
  lines, num_torn = atomic_io.read_lines(place.bad_rows)
  assert num_torn == 0
  assert lines == [
    {"row": 3, "where": "train.jsonl:4", "reason": "no image"},
    {"row": 9, "where": "train.jsonl:10", "reason": "half an image"},
    {"row": 3, "where": "val.jsonl:4", "reason": "no image", "evaluator": "val/acc"},
  ]


def test_an_atomic_write_replaces_the_whole_and_leaves_nothing_beside(tmp_path, monkeypatch):
  path = tmp_path / "deep" / "file"
  atomic_io.write_atomically(path, "old")
  monkeypatch.setattr(os, "fsync", _fail)
  with pytest.raises(OSError, match="full"):
    atomic_io.write_atomically(path, "new")
  assert path.read_text() == "old" and os.listdir(path.parent) == ["file"]
  monkeypatch.undo()
  atomic_io.write_atomically(path, b"new")
  assert path.read_text() == "new" and path.stat().st_mode & 0o444 == 0o444 & ~_umask()


def _fail(descriptor):
  raise OSError("full")


def _umask():
  mask = os.umask(0)
  os.umask(mask)
  return mask


@pytest.mark.parametrize("value", [[1], "a", None, {"a": 1}, True, 10**299, "NaN"])
def test_a_line_that_was_edited_is_read_or_dropped(value, tmp_path):
  path = tmp_path / "metrics.jsonl"
  edited = json.dumps({"step": 2, "loss": value})
  path.write_text(f'{{"step": 1, "loss": 1.0}}\n{edited}\n{{"step": 3, "loss": 9{"0" * 400}}}\n')
  is_number = value == "NaN" or isinstance(value, int)
  assert [line["step"] for line in metrics.read(path)] == [1, 2][: 1 + is_number]
  _log(tmp_path, resume_step=3).close()
  assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == (
    [1, 2][: 1 + is_number]
  )


@pytest.mark.parametrize(
  "name", ["metrics.jsonl", "bad_rows.jsonl", "tensorboard", "tensorboard/a"]
)
def test_nothing_is_written_through_a_link_in_the_folder(name, tmp_path):
  outside = tmp_path / "outside"
  outside.mkdir()
  (outside / "mine").write_text('{"step": 1}\n')
  run = tmp_path / "run"
  (run / name).parent.mkdir(parents=True)
  (run / name).symlink_to(outside if name == "tensorboard" else outside / "mine")
  try:
    _write(run, -1, 4) if "jsonl" in name else _log(run, resume_step=-1, tensorboard=True).close()
    bad_rows.BadRows(workdir.Workdir(run)).add(1, "a:1", "bad")
  except errors.WorkdirError as e:
    assert "is a link" in str(e)
  assert [p.name for p in outside.iterdir()] == ["mine"]
  assert (outside / "mine").read_text() == '{"step": 1}\n'


def test_a_metrics_file_of_two_names_is_written_anew_under_one(tmp_path):
  (tmp_path / "mine").write_text('{"step": 1}\n')
  (tmp_path / "run").mkdir()
  os.link(tmp_path / "mine", tmp_path / "run" / "metrics.jsonl")
  _write(tmp_path / "run", 1, 2)
  assert (tmp_path / "mine").read_text() == '{"step": 1}\n'
  assert [line["step"] for line in metrics.read(tmp_path / "run" / "metrics.jsonl")] == [1, 2]


@pytest.mark.parametrize("name", ["metrics.jsonl", "bad_rows.jsonl"])
def test_a_pipe_or_a_folder_in_place_of_a_file_is_an_error(name, tmp_path):
  for make in (os.mkfifo, os.mkdir):
    make(tmp_path / name)
    with pytest.raises(errors.WorkdirError, match=name):
      _write(tmp_path, 0, 1)
      bad_rows.BadRows(workdir.Workdir(tmp_path))
    (tmp_path / name).rename(tmp_path / f"was {make.__name__}")
