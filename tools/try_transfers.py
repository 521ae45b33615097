"""Runs every transfer at every resolution, small: two training steps, one evaluation, predictions.

    python tools/try_transfers.py                          # all, at 224, 448, 896; prints a table
    python tools/try_transfers.py --res 224 --only okvqa,gqa --out table.md

The data is a miniature of each benchmark's official download, converted by its own builder. The
model is the tiny variant at the real image size. Only the batch size, the length of the run and the
number of scored rows are reduced. Exits with 1 if any transfer failed.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import inspect
import os
import pathlib
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import ml_collections
import numpy as np

from paligemma_jax import evals
from paligemma_jax.config import load as configs
from paligemma_jax.core import atomic_io
from paligemma_jax.core import errors
from paligemma_jax.core import spec as specs
from paligemma_jax.models import variants
from paligemma_jax.sources import tfds as tfds_source
from tools.prepare import __main__ as prepare

_ROOT = pathlib.Path(__file__).resolve().parent.parent

RESOLUTIONS = (224, 448, 896)
_NO_BENCHMARKS = ("demo", "forkme")  # These run on embedded data, at 112 px.
_STEPS, _LIMIT = 2, 2
_BATCH_SIZES = {224: 2, 448: 2, 896: 1}  # A row of 4 096 image tokens takes seconds.
# The tiny tokenizer has 2 176 pieces, so texts have several times as many tokens as with Gemma's.
_TEXT_LEN = 256
_MAX_LEN = 8  # A model with random weights does not emit EOS.
_PREDICTIONS = "try/predictions"
_MANY_ROWS = re.compile(r"(?<=[\[:])(-?)\d{2,}(?=[\]:])")  # In 'train[:-10240]'.
# The recipes for videos are for 224 px; 16 frames of 896 px would be 65 536 image tokens.
_FRAMES_ABOVE_224 = 2


@specs.spec
class FirstFrames:
  """Keeps only the first frames of a row's video.

  Attributes:
    num: how many.
  """

  num: int

  def needs(self) -> tuple[str, ...]:
    return ("frames",)

  def makes(self) -> tuple[str, ...]:
    return ("frames",)

  def __call__(self, row: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    return {**row, "frames": row["frames"][: self.num]}


@dataclasses.dataclass
class Tried:
  """A line of the table; stages that the run did not reach are empty."""

  name: str
  res: int
  image_tokens: int = 0
  losses: tuple[float, ...] = ()
  metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
  num_predictions: int = 0
  secs: float = 0.0
  problem: str = ""


def names() -> list[str]:
  """The names of the transfers."""
  found = (path.stem for path in (_ROOT / "transfers").glob("*.py"))
  return sorted(name for name in found if name not in _NO_BENCHMARKS)


def load(name: str, res: int, raw: pathlib.Path) -> ml_collections.ConfigDict:
  """The transfer's config for the tiny model, reduced.

  Args:
    raw: folder of the miniatures that are used without a builder.
  """
  arguments = {"res": str(res), "model": "tiny"}
  module = importlib.import_module(f"transfers.{name}")
  known = inspect.signature(inspect.unwrap(module.get_config)).parameters
  if "data" in known:
    arguments["data"] = str(raw / name)
  if "codec" in known:
    arguments["codec"] = ""  # The embedded codec has the same layout as the published one.
  text = ",".join(f"{key}={value}" for key, value in arguments.items())
  return configs.load(f"{_ROOT}/transfers/{name}.py:{text}")


def datasets(config: ml_collections.ConfigDict) -> list[str]:
  """Names of all TFDS datasets that the config reads."""
  return sorted({s.name for s in specs_in(config.to_dict()) if isinstance(s, tfds_source.Tfds)})


def specs_in(value: Any) -> Iterator[Any]:
  """All specs in nested specs, tuples and dicts."""
  if specs.is_spec(value):
    yield value
    value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
  if isinstance(value, Mapping):
    value = tuple(value.values())
  if isinstance(value, tuple):
    for item in value:
      yield from specs_in(item)


def make_small(config: ml_collections.ConfigDict) -> None:
  """Reduces the run: few steps, few rows, one evaluator of each class, predictions written."""
  config.train.source, config.evals = few_rows(config.train.source), few_rows(config.evals)
  config.init = ""
  batch_size = _BATCH_SIZES[config.model.res]
  text_len = max(config.train.text_len, _TEXT_LEN)
  config.train.update(batch_size=batch_size, total=f"{_STEPS} steps", text_len=text_len)
  config.train.update(grad_accum_steps=1, buckets=())
  config.ckpt.update(every="", best="", export="", async_save=False)
  config.log.update(every="1 steps", tensorboard=False)
  config.train.pp = _fewer_frames(config.train.pp, config.model.res)
  chosen = {type(e): e for e in reversed(config.evals)}
  kept = [e.replace(pp=_fewer_frames(e.pp, config.model.res))
          for e in config.evals if chosen[type(e)] is e]  # fmt: skip
  small = dict(every="", limit=_LIMIT, batch_size=batch_size)
  cut = [
    e.replace(text_len=max(e.text_len, _TEXT_LEN), max_len=min(e.max_len, _MAX_LEN), **small)
    for e in kept
  ]
  asking = next((e for e in cut if e.encoding == "decode"), None)
  if asking is None:
    raise errors.ConfigError("The transfer has no evaluator that decodes.")
  predictions = evals.WritePredictions(
    _PREDICTIONS,
    asking.source,
    asking.pp,
    keep=(),
    max_len=asking.max_len,
    text_len=asking.text_len,
    **small,
  )
  config.evals = (*cut, predictions)


def few_rows(value: Any) -> Any:
  """The same specs, with split slices of thousands of rows reduced to one row."""
  if specs.is_spec(value):
    fields = {f.name: few_rows(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tfds_source.Tfds):
      fields["split"] = _MANY_ROWS.sub(r"\g<1>1", value.split)
    return value.replace(**fields)
  return tuple(map(few_rows, value)) if isinstance(value, tuple) else value


def try_one(name: str, res: int, folder: pathlib.Path) -> Tried:
  """Builds the transfer's datasets, runs it, and returns the result.

  Raises:
    Interrupted: the program was stopped; nothing else is raised.
  """
  tried = Tried(name, res)
  start = time.monotonic()
  try:
    _try(tried, folder)
  except errors.Interrupted:
    raise
  except (Exception, SystemExit) as e:
    tried.problem = f"{type(e).__name__}: {e}"
  tried.secs = time.monotonic() - start
  return tried


def table(rows: Sequence[Tried]) -> str:
  """A Markdown table with one line for each run."""
  lines = [
    "| transfer | res | image tokens | loss 1 | loss 2 | metric | predictions | seconds | |",
    "|---|---|---|---|---|---|---|---|---|",
  ]
  for row in rows:
    losses = [f"{loss:.4f}" for loss in row.losses] or ["–"] * _STEPS
    metric = next((f"{k} = {v:.4g}" for k, v in row.metrics.items()), "–")
    problem = " ".join(row.problem.replace("|", "/").split())
    lines.append(
      f"| {row.name} | {row.res} | {row.image_tokens or '–'} | {' | '.join(losses)} | {metric} |"
      f" {row.num_predictions} | {row.secs:.0f} | {problem or 'ok'} |"
    )
  return "\n".join(lines) + "\n"


def _fewer_frames(ops: tuple, res: int) -> tuple:
  """The ops, with fewer video frames at the larger resolutions."""
  of_video = ops and "frames" in ops[0].needs()
  return (FirstFrames(_FRAMES_ABOVE_224), *ops) if of_video and res > 224 else ops


def _try(tried: Tried, folder: pathlib.Path) -> None:
  raw = folder / "raw"
  config = load(tried.name, tried.res, raw)
  _build(config, tried.name, folder)
  make_small(config)
  trains = config.train.source is not None
  configs.validate(config, training=trains, variants=variants.VARIANTS)
  from paligemma_jax.trainer import metrics as metrics_lib
  from paligemma_jax.trainer import workdir as workdirs

  path = folder / "runs" / f"{tried.name}-{tried.res}"
  if trains:
    from paligemma_jax.trainer import loop

    loop.train(config, path)
    lines = metrics_lib.read(workdirs.Workdir(path).metrics)
    tried.losses = tuple(line["loss"] for line in lines)
    found = lines[-1]
  else:
    found = _evaluate(config, path)
  of = next(e.name for e in config.evals if e.encoding == "decode")
  tried.metrics = {k: v for k, v in found.items() if k.startswith(f"{of}/")}
  (file,) = workdirs.Workdir(path).predictions.glob(f"{_PREDICTIONS}-*.jsonl")
  tried.num_predictions = len(file.read_text(encoding="utf-8").splitlines())
  tried.image_tokens = _num_image_tokens(config)
  if not tried.num_predictions or not tried.metrics:
    raise errors.DataError("Nothing was scored.")


def _build(config: ml_collections.ConfigDict, name: str, folder: pathlib.Path) -> None:
  """Makes the missing miniatures that the config reads."""
  from tools.prepare import build

  for dataset in datasets(config):
    module = dataset.partition("/")[0]
    for made in prepare.datasets_of(dataset):
      if not (folder / "data" / made.name).exists():
        build.write(made, _miniature(module, folder), folder / "data")
  if not datasets(config):
    _miniature(name, folder)


def _miniature(module: str, folder: pathlib.Path) -> pathlib.Path:
  """The miniature of the download."""
  raw = folder / "raw" / module
  if not raw.exists():
    importlib.import_module(f"tests.miniatures.{module}").make(raw)
  return raw


def _evaluate(config: ml_collections.ConfigDict, path: pathlib.Path) -> dict[str, float]:
  """The metrics of an evaluation-only transfer."""
  from paligemma_jax.trainer import evaluation
  from paligemma_jax.trainer import setup as setups
  from paligemma_jax.trainer import workdir as workdirs

  setup = setups.prepare(config)
  params = setups.initial_params(setup, lambda text: None)
  with workdirs.opened(path, main=True) as workdir:
    return evaluation.merged(evaluation.Runner(setup, workdir.predictions).run(params, 0))


def _num_image_tokens(config: ml_collections.ConfigDict) -> int:
  """Image tokens of one row, over all its images."""
  from paligemma_jax.data import examples
  from paligemma_jax.data import tokenizer as tokenizers
  from paligemma_jax.trainer import setup as setups

  asked = config.evals[-1]
  maker = examples.ExampleMaker(
    asked.source.open(),
    asked.pp,
    tokenizers.Tokenizer(setups.DEMO_TOKENIZER),
    asked.encoding,
    asked.text_len,
    "truncate",
    config.seed,
  )
  image = maker(0, 0).arrays["image"]
  model_config = variants.get(config.model.variant, res=config.model.res)
  return model_config.num_image_tokens * (image.shape[0] if image.ndim == 4 else 1)


def main() -> None:
  """Runs the selected transfers and prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
  parser.add_argument("--res", default=",".join(map(str, RESOLUTIONS)), help="224,448")
  parser.add_argument("--only", default="", help="names of transfers: okvqa,gqa")
  parser.add_argument("--out", type=pathlib.Path, help="write the table to this file too")
  args = parser.parse_args()
  known = {name: name for name in names()}
  chosen = [errors.pick(known, name, "transfer") for name in args.only.split(",") if name]
  sizes = {str(res): res for res in RESOLUTIONS}
  resolutions = [errors.pick(sizes, res, "resolution") for res in args.res.split(",")]

  import jax

  from paligemma_jax.trainer import devices

  devices.start(alone=True)
  rows = []
  with tempfile.TemporaryDirectory() as temporary:
    folder = pathlib.Path(temporary)
    os.environ["TFDS_DATA_DIR"] = str(folder / "data")
    for name in chosen or known:
      for res in resolutions:
        rows.append(try_one(name, res, folder))
        print(table(rows[-1:]).splitlines()[-1], file=sys.stderr)
        if args.out:  # After each run, so that an interrupted table is kept.
          atomic_io.write_atomically(args.out, table(rows))
        jax.clear_caches()
  print(table(rows), end="")
  if any(row.problem for row in rows):
    sys.exit(1)


if __name__ == "__main__":
  errors.run_main(main)
