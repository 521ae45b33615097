"""TensorBoard's copy of the numbers: never a reason for a run to end or to hang."""

import logging

from paligemma_jax.trainer import metrics
from paligemma_jax.trainer import workdir
from tests import small_disk


def _log(place):
  return metrics.MetricsLog(place, resume_step=-1, tensorboard="on", main=True)


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
      log.add(step, {f"metric/{i}": 1.0 for i in range(20)})
      log.flush()
    log.close()
  assert [line["step"] for line in metrics.read(place.metrics)] == list(range(1, 200))
  logged = [r.getMessage() for r in caplog.records if "TensorBoard" in r.getMessage()]
  assert len(logged) == 1 and "No space left on device" in logged[0]


def test_a_folder_that_cannot_be_made_is_said_once_and_metrics_go_on(tmp_path, caplog):
  place = workdir.Workdir(tmp_path)
  place.tensorboard.write_text("a file")
  with caplog.at_level(logging.ERROR):
    log = _log(place)
    log.add(1, {"loss": 1.0})
    log.close()
  assert [line["step"] for line in metrics.read(place.metrics)] == [1]
  assert sum("TensorBoard" in r.getMessage() for r in caplog.records) == 1
