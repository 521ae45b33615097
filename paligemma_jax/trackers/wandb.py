"""Weights & Biases."""

from __future__ import annotations

import json
import os
import pathlib
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from absl import logging

from paligemma_jax.core import bucket
from paligemma_jax.core import errors
from paligemma_jax.core import spec
from paligemma_jax.trackers import base

if TYPE_CHECKING:
  import numpy as np

_FINISH_SECS = 60  # For what is not uploaded at the end; it stays on disk.


@spec.spec
class Wandb:
  """A run at Weights & Biases; a resumed run goes on with it. Extra `wandb`.

  Where the server cannot be reached when the run starts, it is recorded offline, in the workdir.

  Attributes:
    project: '': WANDB_PROJECT, else 'paligemma_jax'.
    entity: the user or team; '': WANDB_ENTITY, else yours.
    name: as it is shown; '': that of the workdir.
    group: of runs that belong together; '': none.
    tags: texts.
    mode: 'online', 'offline'; '': WANDB_MODE, else 'online'.
  """

  project: str = ""
  entity: str = ""
  name: str = ""
  group: str = ""
  tags: tuple = ()
  mode: str = ""

  def __post_init__(self):
    errors.pick(dict.fromkeys(("", "online", "offline")), self.mode, "mode of trackers.Wandb")

  def make(self, workdir: pathlib.Path) -> WandbRun:
    """Starts the run, or goes on with that of the workdir; ConfigError without a login."""
    wandb = base.package("wandb")
    # It would wait without end; the run in the workdir is complete in any case.
    os.environ.setdefault("WANDB_FINISH_TIMEOUT", str(_FINISH_SECS))
    run_id = base.run_id(workdir, "wandb") or os.environ.get("WANDB_RUN_ID")
    run_id = run_id or uuid.uuid4().hex[:12]
    local = not (bucket.is_bucket(workdir) or os.environ.get("WANDB_DIR"))
    options: dict[str, Any] = dict(
      id=run_id,
      project=self.project or os.environ.get("WANDB_PROJECT") or base.PROJECT,
      entity=self.entity or None,
      name=self.name or workdir.name,
      group=self.group or None,
      tags=list(self.tags) or None,
      dir=str(workdir) if local else None,
      # The log is the terminal's; it would be changed to be recorded.
      settings=wandb.Settings(console="off"),
    )
    try:
      run = wandb.init(mode=self.mode or None, resume="allow", **options)
    except wandb.errors.UsageError as e:
      raise errors.ConfigError(
        f"log.trackers: wandb: {str(e).rstrip('.')}. `wandb login`, or WANDB_MODE=offline, helps."
      ) from e
    except wandb.errors.CommError as e:
      wandb.teardown()  # It still holds the id.
      run = wandb.init(mode="offline", **options)
      logging.warning(
        "wandb is not reached, so that this process records offline, in %s: %s", run.dir, e
      )
    base.keep_run_id(workdir, "wandb", run_id)
    # Steps of ours: those of theirs cannot be repeated when a run goes on from an earlier one.
    run.define_metric("train_step", hidden=True)
    run.define_metric("*", step_metric="train_step")
    return WandbRun(wandb, run)


class WandbRun:
  """The tracker of one run."""

  def __init__(self, wandb: Any, run: Any):
    self._wandb, self._run = wandb, run
    self._exit_code = 0

  def log(self, step: int, metrics: Mapping[str, float]) -> None:
    self._run.log({"train_step": step, **metrics})

  def text(self, step: int, texts: Mapping[str, str]) -> None:
    del step
    self._run.config.update(json.loads(texts["config"]), allow_val_change=True)

  def predictions(self, step: int, tables: Mapping[str, str]) -> None:
    shown = {name: self._wandb.Html(f"<pre>{table}</pre>") for name, table in tables.items()}
    self._run.log({"train_step": step, **shown})

  def images(self, step: int, images: Mapping[str, tuple[np.ndarray, str]]) -> None:
    shown = {k: self._wandb.Image(image, caption=text) for k, (image, text) in images.items()}
    self._run.log({"train_step": step, **shown})

  def fail(self, reason: str) -> None:
    del reason
    self._exit_code = 1

  def close(self) -> None:
    self._run.finish(exit_code=self._exit_code)
