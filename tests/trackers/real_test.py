"""Each tracker with its own package, where that is installed: what it holds after a resumed run."""

import contextlib
import json
import math
import pathlib
import struct

import numpy as np
import pytest

from paligemma_jax import trackers
from paligemma_jax.core import errors
from paligemma_jax.trackers import base
from paligemma_jax.trainer import metrics
from paligemma_jax.trainer import workdir

pytestmark = pytest.mark.slow  # Seconds each, for the packages' own processes and databases.

_CONFIG = {"seed": 3, "optim": {"lr": 0.5, "freeze": []}, "train": {"source": {"path": "x.jsonl"}}}


def _run(folder, tracker, first, last, *, fails=False):
  """Steps of a run, as the trainer logs them."""
  folder.mkdir(exist_ok=True)
  with contextlib.suppress(ValueError), contextlib.ExitStack() as parts:
    log = metrics.MetricsLog(
      workdir.Workdir(folder),
      resume_step=first - 1 if first > 1 else -1,
      tensorboard=False,
      trackers=(tracker,),
      main=True,
    )
    parts.enter_context(log)
    log.text(first - 1, {"config": json.dumps(_CONFIG)})
    for step in range(first, last + 1):
      log.write(step, {"loss": 1 / step, "val/acc": math.nan if step == 2 else 0.5})
    log.predictions(last, {"val/predictions": "| prompt | text |\n|---|---|\n| what? | a cat |"})
    log.images(last, {"example/0": (np.full((8, 8, 3), 200, np.uint8), "what? -> a cat")})
    if fails:
      raise ValueError("no more")


@pytest.fixture
def no_errors(caplog):
  yield
  assert not [r.getMessage() for r in caplog.records if r.levelname in ("ERROR", "CRITICAL")]


def _records(path):
  """The records of a W&B file: its header, then blocks of 32 KiB as LevelDB's logs have them."""
  pb = pytest.importorskip("wandb.proto.wandb_internal_pb2")
  data, at, part, found = path.read_bytes(), 7, b"", []
  while at + 7 <= len(data):
    if (left := 32768 - at % 32768) < 7:
      at += left
      continue
    _, size, kind = struct.unpack("<IHB", data[at : at + 7])
    part += data[at + 7 : at + 7 + size]
    at += 7 + size
    if kind in (1, 4):  # A whole record, or the last part of one.
      record = pb.Record()
      record.ParseFromString(part)
      found.append(record)
      part = b""
  return found


def _wandb_history(files):
  lines = []
  for file in files:
    for record in _records(file):
      if record.HasField("history"):
        items = {".".join(i.nested_key) or i.key: i.value_json for i in record.history.item}
        lines.append({key: json.loads(value) for key, value in items.items() if value})
  return lines


def test_wandb_offline_has_the_run_and_a_resumed_one_is_the_same(tmp_path, monkeypatch, no_errors):
  pytest.importorskip("wandb")
  monkeypatch.setenv("WANDB_SILENT", "true")
  tracker = trackers.Wandb(project="cats", mode="offline")
  _run(tmp_path / "run", tracker, 1, 3, fails=True)
  _run(tmp_path / "run", tracker, 3, 4)
  known = base.run_id(tmp_path / "run", "wandb")
  files = sorted((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
  assert [file.name for file in files] == [f"run-{known}.wandb"] * 2
  lines = _wandb_history(files)
  losses = [(x["train_step"], x["loss"]) for x in lines if "loss" in x]
  assert losses == [(step, pytest.approx(1 / step)) for step in (1, 2, 3, 3, 4)]
  assert [x["example/0.caption"] for x in lines if "example/0.width" in x] == ["what? -> a cat"] * 2
  records = [record for file in files for record in _records(file)]
  runs = [r.run for r in records if r.HasField("run")]
  assert {(run.run_id, run.project, run.display_name) for run in runs} == {(known, "cats", "run")}
  assert [r.exit.exit_code for r in records if r.HasField("exit")] == [1, 0]


def test_wandb_without_a_login_is_a_config_error(tmp_path, monkeypatch):
  pytest.importorskip("wandb")
  for name in ("WANDB_API_KEY", "WANDB_MODE"):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setenv("HOME", str(tmp_path))
  monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
  monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
  with pytest.raises(errors.ConfigError, match=r"wandb login.*WANDB_MODE=offline"):
    trackers.Wandb().make(tmp_path)


def test_wandb_that_is_not_reached_records_offline(tmp_path, monkeypatch, caplog, no_errors):
  pytest.importorskip("wandb")
  monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
  monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
  monkeypatch.setenv("WANDB_INIT_TIMEOUT", "3")
  monkeypatch.setenv("WANDB_SILENT", "true")
  _run(tmp_path / "run", "wandb", 1, 2)
  (file,) = (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")
  assert [x["loss"] for x in _wandb_history([file]) if "loss" in x] == [1.0, 0.5]
  assert sum("records offline" in r.getMessage() for r in caplog.records) == 1


def test_trackio_has_the_run_and_a_resumed_one_is_the_same(tmp_path, monkeypatch, no_errors):
  monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # Read when it is imported.
  trackio = pytest.importorskip("trackio")
  storage = pytest.importorskip("trackio.sqlite_storage").SQLiteStorage
  tracker = trackers.Trackio(project="cats")
  _run(tmp_path / "run", tracker, 1, 3)
  _run(tmp_path / "run", tracker, 3, 4)
  (run,) = trackio.Api().runs("cats")
  assert run.name == base.run_id(tmp_path / "run", "trackio")
  logs = storage.get_logs("cats", run.name)
  losses = [(x["step"], x["loss"]) for x in logs if "loss" in x]
  assert losses == [(step, pytest.approx(1 / step)) for step in (1, 2, 3, 3, 4)]
  assert [x["example/0"]["caption"] for x in logs if "example/0" in x] == ["what? -> a cat"] * 2
  assert any("a cat" in json.dumps(x.get("val/predictions", "")) for x in logs)
  assert storage.get_run_config("cats", run.name)["optim.lr"] == 0.5


def test_mlflow_has_the_run_and_a_resumed_one_is_the_same(tmp_path, monkeypatch, no_errors):
  mlflow = pytest.importorskip("mlflow")
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/mlruns")
  monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
  tracker = trackers.Mlflow(experiment="cats")
  _run(tmp_path / "run", tracker, 1, 3, fails=True)
  client = mlflow.MlflowClient()
  known = base.run_id(tmp_path / "run", "mlflow")
  assert client.get_run(known).info.status == "FAILED"
  _run(tmp_path / "run", tracker, 3, 4)
  experiment = client.get_experiment_by_name("cats")
  (run,) = client.search_runs([experiment.experiment_id])
  assert (run.info.run_id, run.info.run_name, run.info.status) == (known, "run", "FINISHED")
  history = sorted((m.step, m.value) for m in client.get_metric_history(known, "loss"))
  assert history == [(step, pytest.approx(1 / step)) for step in (1, 2, 3, 3, 4)]
  assert run.data.params["optim.lr"] == "0.5"
  folder = pathlib.Path(client.download_artifacts(known, "", str(tmp_path)))
  assert json.loads((folder / "config.json").read_text()) == _CONFIG
  assert "a cat" in (folder / "val" / "predictions-4.md").read_text()
  assert (folder / "example" / "0-4.png").stat().st_size > 0


def test_mlflow_begins_a_new_run_where_the_store_has_not_the_old_one(tmp_path, monkeypatch):
  mlflow = pytest.importorskip("mlflow")
  monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
  tracker = trackers.Mlflow(uri=f"file:{tmp_path}/one")
  tracker.make(tmp_path).close()
  old = base.run_id(tmp_path, "mlflow")
  tracker.replace(uri=f"file:{tmp_path}/two").make(tmp_path).close()
  new = base.run_id(tmp_path, "mlflow")
  assert old != new
  assert mlflow.MlflowClient(f"file:{tmp_path}/two").get_run(new).info.status == "FINISHED"


def test_lines_that_mlflow_did_not_get_are_counted_and_the_run_goes_on(
  tmp_path, monkeypatch, caplog
):
  mlflow = pytest.importorskip("mlflow")
  monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
  tracker = trackers.Mlflow(uri=f"file:{tmp_path}/store")
  run = tracker.make(tmp_path)
  for step in (1, 2, 3):
    run.log(step, {"loss" if step == 2 else "no name; \0": 1.0})
  with pytest.raises(OSError, match="2 lines did not arrive: "):
    run.close()
  known = base.run_id(tmp_path, "mlflow")
  client = mlflow.MlflowClient(f"file:{tmp_path}/store")
  assert [m.step for m in client.get_metric_history(known, "loss")] == [2]


def test_a_server_of_mlflow_that_is_not_there_ends_nothing(tmp_path, monkeypatch, caplog):
  pytest.importorskip("mlflow")
  monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
  _run(tmp_path / "run", trackers.Mlflow(uri="http://127.0.0.1:9"), 1, 3)
  assert [line["step"] for line in metrics.read(tmp_path / "run" / "metrics.jsonl")] == [1, 2, 3]
  told = [r.getMessage() for r in caplog.records if "Mlflow" in r.getMessage()]
  assert len(told) == 2 and told[1] == "Mlflow lacks 3 lines of metrics.jsonl"
