"""Outputs of a finished run: scores, gallery, report and exported weights."""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from PIL import Image

from paligemma_jax import evals
from paligemma_jax.checkpoint import export
from paligemma_jax.checkpoint import load
from paligemma_jax.checkpoint import manifest
from paligemma_jax.checkpoint import opening
from paligemma_jax.core import atomic_io
from paligemma_jax.core import protocols
from paligemma_jax.data import loader
from paligemma_jax.report import report
from paligemma_jax.trainer import bad_rows
from paligemma_jax.trainer import metrics as metrics_lib
from paligemma_jax.trainer import notebook
from paligemma_jax.trainer import progress
from paligemma_jax.trainer import setup as setups
from paligemma_jax.trainer import workdir as workdirs

_NUM_EXAMPLES = 24  # In the gallery, shared out among the evaluators that write predictions.
_NUM_SHOWN = 8  # In a notebook, during the run.
_MAX_SIDE = 448  # In trackers.


def write(
  setup: setups.Setup,
  params: Mapping[str, jax.Array],
  workdir: workdirs.Workdir,
  *,
  main: bool,
  note: Callable[[str], None],
  log: metrics_lib.MetricsLog,
  view: notebook.View | None = None,
) -> None:
  """Exports the weights if asked for; prints the table of scores, writes gallery and report.

  The gallery's images go to the run's trackers and to the notebook's view, too. The pages come from
  the workdir, so a run that is started again when it is complete writes the same once more. Only
  process 0 writes pages.
  """
  if setup.config.ckpt.export and not _is_exported(workdir):
    published = load.published(setup.model_config, params)  # Adapters are in its matrices.
    path = export.save_npz(workdir.export, published, sizes=opening.sizes_of(setup.model_config))
    note(f"weights: {path}")
  if not main:
    return
  lines = metrics_lib.read(workdir.metrics)
  names = [evaluator.name for evaluator in setup.config.evals]
  table = scores(lines, names)
  title = f"{setup.config.model.variant}, {workdir.path.name}"
  tables = [t for t in (table, bad_rows.table(lines), times(lines)) if t]
  if table:
    note("\n" + report.text(table) + "\n")
  curves = [{k: v for k, v in line.items() if k not in progress.TIMES} for line in lines]
  report.write_report(workdir.report, title, tables=tables, lines=curves)
  step = int(lines[-1]["step"]) if lines else 0
  items = _examples(setup, workdir, step, _NUM_EXAMPLES, operator.methodcaller("open"))
  if items:
    page = report.gallery(items, title, tables=[table] if table else [], codec=_codec(setup))
    atomic_io.write_atomically(workdir.gallery, page)
    note(f"gallery: {workdir.gallery}")
    captions = [_caption(item) for item in items]
    log.images(
      step, {f"example/{i}": (_small(items[i].image), text) for i, text in enumerate(captions)}
    )
    if view:
      view.images(report.gallery(items, title, codec=_codec(setup)), captions)
  note(f"report:  {workdir.report}")


def _small(image: np.ndarray) -> np.ndarray:
  """uint8[H, W, 3], what trackers get of an image or a video."""
  picture = Image.fromarray(report.frames(image))
  picture.thumbnail((_MAX_SIDE, _MAX_SIDE))
  return np.asarray(picture)


def show(
  setup: setups.Setup,
  workdir: workdirs.Workdir,
  step: int,
  view: notebook.View,
  open_rows: Callable[[protocols.Source], protocols.Rows],
) -> None:
  """Shows some predictions of a step in a notebook, if there are any."""
  items = _examples(setup, workdir, step, _NUM_SHOWN, open_rows)
  if items:
    page = report.gallery(items, f"Predictions at step {step}", codec=_codec(setup))
    view.images(page, [_caption(item) for item in items])


def scores(lines: list[dict[str, Any]], names: list[str]) -> report.Table | None:
  """Baseline, first and last value of every metric of these evaluators; None without any."""
  columns: dict[str, dict[str, float]] = {"baseline": {}, "before": {}, "after": {}}
  for line in lines:
    for key, value in line.items():
      name = next((n for n in names if key.startswith(f"{n}/")), None)
      metric = key.removeprefix(f"{name}/")
      bare = metric.removeprefix("baseline/")
      # Counts are no scores; they stay in metrics.jsonl.
      if name is None or bare.startswith(("num", "invalid", "total")):
        continue
      when = "before" if line["step"] == 0 else "after"
      columns["baseline" if bare != metric else when][f"{name}/{bare}"] = value
  if not columns["after"]:
    return None
  return report.scores_table("Scores", {title: found for title, found in columns.items() if found})


def times(lines: list[dict[str, Any]]) -> report.Table | None:
  """Where the time of the run went, up to its last line; None where it was not measured."""
  rows = progress.shares(lines[-1]) if lines else []
  shown = tuple((what, round(secs, 1), f"{part:.1f} %") for what, secs, part in rows)
  return report.Table("Time", ("part", "seconds", "share"), shown) if shown else None


def _is_exported(workdir: workdirs.Workdir) -> bool:
  """Whether the weights were written after the newest state was sealed."""
  folders = [workdir.checkpoints / str(step) for step in manifest.steps_in(workdir.checkpoints)]
  newest = max((atomic_io.modified(p / manifest.SEAL) for p in folders), default=0.0)
  return workdir.export.exists() and atomic_io.modified(workdir.export) >= newest


def _codec(setup: setups.Setup) -> str:
  """Of seg tokens: the one they are scored with."""
  found = (e.codec for e in setup.config.evals if isinstance(e, protocols.CanReadMasks))
  return next(found, "")


def _caption(item: report.GalleryItem) -> str:
  return f"{item.prompt} -> {item.prediction} (target: {item.target})"


def _examples(
  setup: setups.Setup,
  workdir: workdirs.Workdir,
  step: int,
  limit: int,
  open_rows: Callable[[protocols.Source], protocols.Rows],
) -> list[report.GalleryItem]:
  """Some rows of each evaluator with their predictions at `step` and, if later, at step 0."""
  writers = [e for e in setup.config.evals if isinstance(e, evals.WritePredictions)]
  items = []
  for evaluator in writers:
    after = _predictions(workdir, evaluator.name, step)
    before = _predictions(workdir, evaluator.name, 0) if step else {}
    share = max(1, limit // len(writers))
    batches = loader.eval_batches(
      open_rows(evaluator.source),
      evaluator.pp,
      setup.tokenizer,
      encoding="decode",
      batch_size=share,
      text_len=evaluator.text_len,
      keep=evaluator.columns(),
      limit=share,
      bad_rows=share,
      stall_secs=setup.config.train.stall_secs,
    )
    for batch, kept in batches:
      for image, row in zip(batch["image"][batch["_mask"]], kept, strict=True):
        if (i := row["_row"]) in after:
          target = _target(row, evaluator.keep)
          items.append(
            report.GalleryItem(image, row["prefix"], target, after[i], before=before.get(i))
          )
  return items


def _predictions(workdir: workdirs.Workdir, name: str, step: int) -> dict[int, str]:
  """{row: text} of an evaluator's prediction file; {} when it wrote none at that step."""
  lines, _ = atomic_io.read_lines(workdir.predictions / f"{name}-{step}.jsonl")
  ours = [line for line in lines if type(line.get("row")) is int]
  return {line["row"]: line["text"] for line in ours if isinstance(line.get("text"), str)}


def _target(row: Mapping[str, Any], keep: tuple[str, ...]) -> str:
  """The first kept column, as text."""
  value = row[keep[0]] if keep else ""
  return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
