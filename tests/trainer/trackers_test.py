"""Trackers: TensorBoard's copy of the numbers and others, never a reason for a run to end."""

import logging

import numpy as np
import pytest

from paligemma_jax.core import errors
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


def _track(folder, *trackers, main=True):
  _CALLS.clear()
  log = metrics.MetricsLog(
    workdir.Workdir(folder), resume_step=-1, tensorboard=False, trackers=trackers, main=main
  )
  image = {"example/0": (np.zeros((2, 2, 3), np.uint8), "what? -> a cat")}
  log.text(0, {"config": "{}"})
  for step in (1, 2):
    log.write(step, {"loss": np.float32(0.1), "lr": 1})
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
    ("images", 2, image),
    ("close",),
  ] == _CALLS


def test_only_the_main_process_tracks(tmp_path):
  _track(tmp_path, Notes(), main=False)
  assert not _CALLS


@pytest.mark.parametrize("fails", ["make", "text", "log", "images", "close"])
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
