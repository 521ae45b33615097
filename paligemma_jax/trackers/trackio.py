"""Trackio: local, or a Space of the Hugging Face hub."""

from __future__ import annotations

import contextlib
import json
import pathlib
import sys
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from paligemma_jax.core import spec
from paligemma_jax.trackers import base

if TYPE_CHECKING:
  import numpy as np


@spec.spec
class Trackio:
  """A run of Trackio, which `trackio show` shows; a resumed run goes on with it. Extra `trackio`.

  Attributes:
    project: '': 'paligemma_jax'.
    name: of the run; '': that of the workdir and some letters.
    space: a Space of the hub that gets the run, as 'me/runs'; '': TRACKIO_SPACE_ID, else none.
  """

  project: str = ""
  name: str = ""
  space: str = ""

  def make(self, workdir: pathlib.Path) -> TrackioRun:
    """Starts the run, or goes on with that of the workdir."""
    trackio = base.package("trackio")
    known = base.run_id(workdir, "trackio")
    name = known or self.name or f"{workdir.name}-{uuid.uuid4().hex[:6]}"
    with contextlib.redirect_stdout(sys.stderr):  # Stdout is for results.
      run = trackio.init(
        project=self.project or base.PROJECT,
        name=name,
        space_id=self.space or None,
        resume="allow",
        embed=False,
      )
    base.keep_run_id(workdir, "trackio", name)
    return TrackioRun(trackio, run)


class TrackioRun:
  """The tracker of one run."""

  def __init__(self, trackio: Any, run: Any):
    self._trackio, self._run = trackio, run

  def log(self, step: int, metrics: Mapping[str, float]) -> None:
    self._run.log(dict(metrics), step=step)

  def text(self, step: int, texts: Mapping[str, str]) -> None:
    del step
    # It goes with the first metrics.
    self._run.config.update(base.flat(json.loads(texts["config"])))

  def predictions(self, step: int, tables: Mapping[str, str]) -> None:
    self._run.log({k: self._trackio.Markdown(table) for k, table in tables.items()}, step=step)

  def images(self, step: int, images: Mapping[str, tuple[np.ndarray, str]]) -> None:
    shown = {k: self._trackio.Image(image, caption=text) for k, (image, text) in images.items()}
    self._run.log(shown, step=step)

  def close(self) -> None:
    with contextlib.redirect_stdout(sys.stderr):
      self._run.finish()
