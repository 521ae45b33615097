"""Trackers: TensorBoard's copy of the numbers and others, never a reason for a run to end."""

import contextlib
import dataclasses
import logging
import pathlib
import re
import sys
import threading

import numpy as np
import pytest

import paligemma_jax as pj
from paligemma_jax import trackers
from paligemma_jax.config import schema
from paligemma_jax.config import validation
from paligemma_jax.core import errors
from paligemma_jax.core import protocols
from paligemma_jax.core import spec as specs
from paligemma_jax.trainer import metrics
from paligemma_jax.trainer import workdir
from tests import small_disk


def _log(place):
  return metrics.MetricsLog(place, resume_step=-1, tensorboard=True, main=True)


def test_a_full_disk_is_said_once_and_metrics_go_on(tmp_path, caplog):
  place = workdir.Workdir(tmp_path / "run")
  place.path.mkdir()
  with (
    small_disk.mounted(place.tensorboard, size="32k") as disk,
    caplog.at_level(logging.ERROR),
  ):
    log = _log(place)
    small_disk.fill(disk)
    for step in range(1, 200):
      log.write(step, {f"metric/{i}": 1.0 for i in range(20)})
    log.close()
  assert [line["step"] for line in metrics.read(place.metrics)] == list(range(1, 200))
  logged = [r.getMessage() for r in caplog.records if "TensorBoard" in r.getMessage()]
  assert len(logged) == 1 and "No space left on device" in logged[0]


def test_a_folder_that_cannot_be_made_is_said_once_and_metrics_go_on(tmp_path, caplog):
  place = workdir.Workdir(tmp_path)
  place.tensorboard.write_text("a file")
  with caplog.at_level(logging.ERROR):
    log = _log(place)
    log.write(1, {"loss": 1.0})
    log.close()
  assert [line["step"] for line in metrics.read(place.metrics)] == [1]
  assert sum("TensorBoard" in r.getMessage() for r in caplog.records) == 1


class _Notes:
  """A tracker whose method `fails` does; it notes what it was called with."""

  def __init__(self, calls, fails):
    self.calls, self.fails = calls, fails

  def _note(self, method, *args):
    self.calls.append((method, *args))
    if method == self.fails:
      raise RuntimeError(f"{method} is out of order")

  def log(self, step, metrics):
    self._note("log", step, dict(metrics))

  def text(self, step, texts):
    self._note("text", step, texts)

  def images(self, step, images):
    self._note("images", step, images)

  def predictions(self, step, tables):
    self._note("predictions", step, tables)

  def fail(self, reason):
    self._note("fail", reason)

  def close(self):
    self._note("close")


_CALLS = []


@specs.spec
class Notes:
  fails: str = ""

  def make(self, workdir):
    _CALLS.append(("make", workdir))
    if self.fails == "make":
      raise RuntimeError("make is out of order")
    if self.fails == "login":
      raise errors.ConfigError("log in first")
    return _Notes(_CALLS, self.fails)


@specs.spec
class LogOnly:
  def make(self, workdir):
    class Tracker:
      def log(self, step, metrics):
        _CALLS.append(("log only", step))

    return Tracker()


def _notes(folder, *made):
  place = workdir.Workdir(folder)
  return metrics.MetricsLog(
    place, resume_step=-1, tensorboard=False, trackers=made or (Notes(),), main=True
  )


def _track(folder, *given, main=True):
  _CALLS.clear()
  log = metrics.MetricsLog(
    workdir.Workdir(folder), resume_step=-1, tensorboard=False, trackers=given, main=main
  )
  image = {"example/0": (np.zeros((2, 2, 3), np.uint8), "what? -> a cat")}
  log.text(0, {"config": "{}"})
  for step in (1, 2):
    log.write(step, {"loss": np.float32(0.1), "lr": 1})
  log.predictions(2, {"val/predictions": "| text |"})
  log.images(2, image)
  log.close()
  return image


def test_trackers_get_the_numbers_of_metrics_jsonl_and_what_else_they_can_show(tmp_path):
  image = _track(tmp_path, Notes(), LogOnly())
  assert [
    ("make", tmp_path),
    ("text", 0, {"config": "{}"}),
    ("log", 1, {"loss": 0.1, "lr": 1}),
    ("log only", 1),
    ("log", 2, {"loss": 0.1, "lr": 1}),
    ("log only", 2),
    ("predictions", 2, {"val/predictions": "| text |"}),
    ("images", 2, image),
    ("close",),
  ] == _CALLS


def test_only_the_main_process_tracks(tmp_path):
  _track(tmp_path, Notes(), main=False)
  assert not _CALLS


def test_the_names_of_the_config_are_those_of_the_trackers():
  assert sorted(trackers.TRACKERS) == sorted(schema.TRACKERS)
  for name, cls in trackers.TRACKERS.items():
    assert specs.is_spec(cls()) and isinstance(cls(), protocols.TrackerSpec), name
    assert specs.from_json(specs.to_json(cls())) == cls()


def test_the_page_on_trackers_shows_legal_ones():
  page = (pathlib.Path(__file__).parents[2] / "docs" / "trackers.md").read_text("utf-8")
  (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
  lines = [line for line in block.splitlines() if line]
  assert len(lines) == 2
  for line in lines:
    c = pj.default_config()
    exec(line, {"c": c, "pj": pj})
    validation.check("trackers", "log.trackers", c.log.trackers)
  for name, cls in trackers.TRACKERS.items():
    fields = ", ".join(f"`{field.name}`" for field in dataclasses.fields(cls))
    assert re.search(rf"^\| `{name}` \|.*\| {re.escape(fields)} \|$", page, re.MULTILINE), fields


@pytest.mark.parametrize("name", schema.TRACKERS)
def test_a_tracker_whose_package_is_missing_refuses_the_run_and_names_the_extra(
  tmp_path, monkeypatch, name
):
  monkeypatch.setitem(sys.modules, name, None)
  with pytest.raises(errors.ConfigError, match=rf"pip install 'paligemma-jax\[{name}\]'"):
    _track(tmp_path, name)


def test_an_error_that_ends_the_run_is_told_before_a_tracker_is_closed(tmp_path):
  _CALLS.clear()
  with pytest.raises(RuntimeError), contextlib.ExitStack() as parts:
    parts.enter_context(_notes(tmp_path))
    raise RuntimeError("the disk is full")
  with contextlib.ExitStack() as parts:
    parts.enter_context(_notes(tmp_path))
  assert [call[0] for call in _CALLS] == ["make", "fail", "close", "make", "close"]
  assert _CALLS[1] == ("fail", "the disk is full")


def test_a_tracker_that_does_not_close_is_left_after_a_while(tmp_path, caplog, monkeypatch):
  monkeypatch.setattr(metrics, "_CLOSE_SECS", 0.05)
  released = threading.Event()
  monkeypatch.setattr(_Notes, "close", lambda self: released.wait(30))
  with caplog.at_level(logging.ERROR):
    _notes(tmp_path).close()
  released.set()
  assert "did not close within" in caplog.text


def test_the_lines_that_a_tracker_lacks_are_counted(tmp_path, caplog):
  log = _notes(tmp_path, Notes("log"))
  for step in (1, 2, 3):
    log.write(step, {"loss": 1.0})
  with caplog.at_level(logging.WARNING):
    log.close()
  assert "Notes lacks 3 lines of metrics.jsonl" in caplog.text


@pytest.mark.parametrize("fails", ["make", "text", "log", "predictions", "images", "close"])
def test_a_tracker_that_fails_is_logged_once_and_the_run_and_the_others_go_on(
  tmp_path, caplog, fails
):
  with caplog.at_level(logging.ERROR):
    _track(tmp_path, Notes(fails), LogOnly())
  assert [line["step"] for line in metrics.read(tmp_path / "metrics.jsonl")] == [1, 2]
  assert [call for call in _CALLS if call[0] == "log only"] == [("log only", 1), ("log only", 2)]
  assert sum(call[0] == fails for call in _CALLS) == 1
  (record,) = caplog.records
  assert f"logged to Notes: RuntimeError: {fails} is out of order;" in record.getMessage()
  assert record.exc_info


def test_a_tracker_may_refuse_the_run_when_it_begins(tmp_path):
  with pytest.raises(errors.ConfigError, match="log in first"):
    _track(tmp_path, Notes("login"))
