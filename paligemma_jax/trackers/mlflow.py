"""MLflow."""

from __future__ import annotations

import json
import os
import pathlib
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from paligemma_jax.core import spec
from paligemma_jax.trackers import base

if TYPE_CHECKING:
  import numpy as np

# Of a server that does not answer, so that a run starts without it after a minute, not ten.
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
_PENDING = 100  # Lines under way, at most.
_PARAM_CHARS = 500  # The least that a store takes.


@spec.spec
class Mlflow:
  """A run of MLflow; a resumed run goes on with it. Extra `mlflow`.

  Attributes:
    experiment: '': MLFLOW_EXPERIMENT_NAME, else 'paligemma_jax'.
    name: of the run; '': that of the workdir.
    uri: of the server or store; '': MLFLOW_TRACKING_URI, else MLflow's own.
  """

  experiment: str = ""
  name: str = ""
  uri: str = ""

  def make(self, workdir: pathlib.Path) -> MlflowRun:
    """Starts the run, or goes on with that of the workdir."""
    for name, value in _PATIENCE.items():
      os.environ.setdefault(name, value)
    mlflow = base.package("mlflow")
    client = mlflow.MlflowClient(self.uri or None)
    known = base.run_id(workdir, "mlflow")
    if known and _exists(mlflow, client, known):
      client.update_run(known, status="RUNNING")
      return MlflowRun(mlflow, client, known, is_new=False)
    name = self.experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or base.PROJECT
    experiment = client.get_experiment_by_name(name)
    experiment_id = experiment.experiment_id if experiment else client.create_experiment(name)
    run = client.create_run(experiment_id, run_name=self.name or workdir.name)
    base.keep_run_id(workdir, "mlflow", run.info.run_id)
    return MlflowRun(mlflow, client, run.info.run_id, is_new=True)


def _exists(mlflow: Any, client: Any, run_id: str) -> bool:
  try:
    return client.get_run(run_id).info.lifecycle_stage == "active"
  except mlflow.MlflowException as e:
    if e.error_code == "RESOURCE_DOES_NOT_EXIST":  # Of another store, or gone.
      return False
    raise


class MlflowRun:
  """The tracker of one run. Metrics are sent by threads of MLflow's."""

  def __init__(self, mlflow: Any, client: Any, run_id: str, *, is_new: bool):
    self._mlflow, self._client, self._run_id, self._is_new = mlflow, client, run_id, is_new
    self._status = "FINISHED"
    self._sent: list[Any] = []
    self._failures: list[Exception] = []

  def log(self, step: int, metrics: Mapping[str, float]) -> None:
    now = round(1000 * time.time())
    batch = [self._mlflow.entities.Metric(k, float(v), now, step) for k, v in metrics.items()]
    self._sent.append(self._client.log_batch(self._run_id, metrics=batch, synchronous=False))
    if len(self._sent) > _PENDING:
      self._take()

  def _take(self) -> None:
    """Waits for the oldest line that was sent; one that failed is kept in mind."""
    try:
      self._sent.pop(0).wait()
    except Exception as e:  # Of the store's client: any.
      self._failures.append(e)

  def text(self, step: int, texts: Mapping[str, str]) -> None:
    del step
    self._client.log_text(self._run_id, texts["config"], "config.json")
    if self._is_new:  # Parameters cannot be changed.
      values = base.flat(json.loads(texts["config"])).items()
      params = [self._mlflow.entities.Param(k, str(v)[:_PARAM_CHARS]) for k, v in values]
      self._client.log_batch(self._run_id, params=params)

  def predictions(self, step: int, tables: Mapping[str, str]) -> None:
    for name, table in tables.items():
      self._client.log_text(self._run_id, table, f"{name}-{step}.md")

  def images(self, step: int, images: Mapping[str, tuple[np.ndarray, str]]) -> None:
    for name, (image, text) in images.items():
      self._client.log_image(self._run_id, image, f"{name}-{step}.png")
      self._client.log_text(self._run_id, text, f"{name}-{step}.txt")

  def fail(self, reason: str) -> None:
    del reason
    self._status = "FAILED"

  def close(self) -> None:
    while self._sent:
      self._take()
    self._client.set_terminated(self._run_id, self._status)
    if self._failures:
      raise OSError(f"{len(self._failures)} lines did not arrive: {self._failures[0]}")
