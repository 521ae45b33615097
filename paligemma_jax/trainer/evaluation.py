"""Runs evaluators: rows to batches to the device to outputs to scores, each row exactly once."""

from __future__ import annotations

import dataclasses
import html
import json
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax

from paligemma_jax import evals
from paligemma_jax.core import atomic_io
from paligemma_jax.core import errors
from paligemma_jax.core import protocols
from paligemma_jax.data import loader
from paligemma_jax.decoding import generate
from paligemma_jax.multihost import agreement
from paligemma_jax.trainer import devices
from paligemma_jax.trainer import setup as setups
from paligemma_jax.training import loss
from paligemma_jax.training import sharding
from paligemma_jax.training import step as steps

Params = Mapping[str, jax.Array]

_OPTIONS = tuple(f.name for f in dataclasses.fields(generate.Options) if f.name != "max_new_tokens")
_NUM_SHOWN, _CELL_CHARS = 8, 200  # Of predictions in trackers.
_COLUMNS = ("tokens", "lengths", "logprob", "token_logprob")  # Of what `generate` returns.


@dataclasses.dataclass(frozen=True)
class Result:
  """What one evaluator found.

  metrics: by name, without the evaluator's name before it.
  rows, outputs: in the order of the source; the columns that the evaluator reads, and `_row`.
  """

  metrics: dict[str, float]
  rows: list[dict[str, Any]]
  outputs: list[evals.Output]


class Runner:
  """Runs a config's evaluators; compiled programs and opened sources are kept for later runs.

  Args:
    folder: of the prediction files; None writes nothing.
    on_bad_row: called for each row that cannot be read, as in `data.loader`, with the evaluator's
      name first.
    alone: no other process writes to the folder.

  Raises:
    ConfigError: two evaluators have one name, or one's decoding options are wrong.
  """

  def __init__(
    self,
    setup: setups.Setup,
    folder: pathlib.Path | None,
    *,
    on_bad_row: Callable[[str, int, str, str], None] | None = None,
    alone: bool = True,
  ):
    self.setup = setup
    self._folder, self._alone = folder, alone
    self._on_bad_row = on_bad_row
    self._evaluators: dict[str, evals.Evaluator] = {}
    self._programs: dict[generate.Options, generate.Generate] = {}
    self._generate: dict[str, generate.Generate] = {}
    self._eval_step: Any = steps.make_eval_step(setup.model_config, setup.mesh)
    for evaluator in setup.config.evals:
      if evaluator.name in self._evaluators:
        raise errors.ConfigError(f"evals: two evaluators are called {evaluator.name!r}.")
      self._evaluators[evaluator.name] = evaluator
      if evaluator.encoding == "decode":
        self._generate[evaluator.name] = self._program(evaluator)
    self._opened: list[tuple[Any, Any]] = []
    self._with_baseline: set[str] = set()
    # Of the last `metrics`: {'<eval name>/predictions': the first of them, a table in Markdown}.
    self.tables: dict[str, str] = {}

  def note_baselines(self, lines: Sequence[Mapping[str, Any]]) -> None:
    """Reads in the lines of metrics.jsonl whose baselines need not be scored again."""
    for name in self._evaluators:
      if any(metric.startswith(f"{name}/baseline/") for line in lines for metric in line):
        self._with_baseline.add(name)

  def metrics(self, params: Params, step: int, names: Sequence[str]) -> dict[str, float]:
    """What these evaluators find in the course of a run, as {'<eval name>/<metric>': value}.

    What needs no model is scored once: when an evaluator first sees all its rows.
    """
    at_start = step == 0
    few = {name for name, e in self._evaluators.items() if at_start and e.start_limit}
    baseline = [name for name in names if name not in self._with_baseline | few]
    self._with_baseline.update(baseline)
    found = self.run(params, step, names=baseline, baseline=True, at_start=at_start)
    rest = [name for name in names if name not in baseline]
    results = {**found, **self.run(params, step, names=rest, at_start=at_start)}
    decoding = [self._evaluators[n] for n in results if n in self._generate]
    self.tables = {f"{e.name}/predictions": table(e.columns(), results[e.name]) for e in decoding}
    return merged(results)

  def run(
    self,
    params: Params,
    step: int,
    *,
    names: Iterable[str] | None = None,
    baseline: bool = False,
    at_start: bool = False,
  ) -> dict[str, Result]:
    """{evaluator name: Result}; every process gets the same.

    Args:
      step: that the parameters are of; it goes into the names of prediction files.
      names: the evaluators to run; None is all.
      baseline: also score, as 'baseline/<metric>', what needs no model, where one is known.
      at_start: heed the evaluators' `start_limit`.

    Raises:
      PaligemmaError: of the kind that came up, the evaluator and the step before its sentence.
    """
    results = {}
    for name in self._evaluators if names is None else names:
      evaluator = errors.pick(self._evaluators, name, "evaluator")
      try:
        limits = (evaluator.limit, evaluator.start_limit if at_start else 0)
        limit = min((n for n in limits if n), default=0)
        results[name] = self._run_one(evaluator, params, step, limit)
        if baseline and isinstance(evaluator, protocols.CanCompare):
          trivial = evaluator.baseline(results[name].rows)
          results[name].metrics.update({f"baseline/{k}": v for k, v in trivial.items()})
      except errors.PaligemmaError as e:
        raise type(e)(f"evaluator {name!r} at step {step}: {e}") from e
      except Exception as e:
        if ours := errors.translated(e, **self._memory(evaluator)):
          raise type(ours)(f"evaluator {name!r} at step {step}: {ours}") from e
        what = f"{type(e).__name__}: {e}"
        raise RuntimeError(f"evaluator {name!r} at step {step} failed: {what}") from e
    return results

  def _memory(self, evaluator: evals.Evaluator) -> dict[str, Any]:
    """Arguments of `errors.translated`: the device's memory, and what helps this evaluator."""
    flag = f"--config.evals.{list(self._evaluators).index(evaluator.name)}"
    remedies = []
    if evaluator.batch_size > 1:
      remedies.append(f"{flag}.batch_size={evaluator.batch_size // 2}")
    if evaluator.encoding == "decode":
      remedies.append(f"a smaller {flag}.max_len")
    memory_bytes, helps = devices.helped(self.setup.mesh.local_devices[0], remedies)
    return {"remedies": helps, "memory_bytes": memory_bytes}

  def _program(self, evaluator: evals.Evaluator) -> generate.Generate:
    """One for all evaluators that decode alike; nothing is compiled."""
    asked = {name: getattr(evaluator, name) for name in _OPTIONS}
    try:
      how = generate.Options(max_new_tokens=evaluator.max_len, **asked)
      if how not in self._programs:
        made = generate.make_generate(self.setup.model_config, how, self.setup.tokenizer)
        self._programs[how] = made
    except errors.ConfigError as e:
      raise errors.ConfigError(f"evaluator {evaluator.name!r}: {e}") from None
    return self._programs[how]

  def rows(self, source: Any) -> Any:
    """The rows of a source, which is opened once."""
    for opened_source, rows in self._opened:
      if opened_source == source:
        return rows
    rows = source.open()
    self._opened.append((source, rows))
    return rows

  def _run_one(self, evaluator: evals.Evaluator, params: Params, step: int, limit: int) -> Result:
    records: list[tuple[dict[str, Any], evals.Output]] = []
    num_rejected = 0

    def on_bad_row(row: int, where: str, reason: str) -> None:
      nonlocal num_rejected
      num_rejected += 1
      if self._on_bad_row:
        self._on_bad_row(evaluator.name, row, where, reason)

    for own_batch, kept in self._batches(evaluator, limit, on_bad_row):
      length = agreement.largest(own_batch["text"].shape[1])
      batch = loader.lengthened(own_batch, length)
      if evaluator.encoding == "train":
        outputs = self._losses(params, batch)
      else:
        outputs = self._texts(evaluator, params, batch)
      # Of this process's real rows, in their order.
      real = [o for o, is_real in zip(outputs, batch["_mask"], strict=True) if is_real]
      records += zip(kept, real, strict=True)
    rows, outputs, num_rejected = _gathered(records, num_rejected)
    metrics = _checked(evaluator.score(rows, outputs))
    metrics |= evals.intervals(evaluator, rows, outputs, seed=self.setup.config.seed)
    if num_rejected:
      metrics["num_rejected"] = float(num_rejected)
    if num_truncated := sum("_truncated" in row for row in rows):
      metrics["num_truncated"] = float(num_truncated)
    folder = self._folder if jax.process_index() == 0 else None
    if folder is not None and isinstance(evaluator, protocols.CanWriteFiles):
      for name, text in evaluator.files(rows, outputs).items():
        path = _placed(folder, name, step)
        atomic_io.make_folder(path.parent, below=folder.parent)
        # A run that is under way may write the same file as an evaluation of it.
        atomic_io.write_atomically(path, text, alone=self._alone)
    return Result(metrics, rows, outputs)

  def _batches(
    self, evaluator: evals.Evaluator, limit: int, on_bad_row: Callable[[int, str, str], None]
  ) -> Iterator[tuple[loader.Batch, list[dict[str, Any]]]]:
    num_devices = sharding.num_row_shards(self.setup.mesh)
    return loader.eval_batches(
      self.rows(evaluator.source),
      evaluator.pp,
      self.setup.tokenizer,
      encoding=evaluator.encoding,
      # Filled up with rows that are masked out, so that any size works on any mesh.
      batch_size=-(-evaluator.batch_size // num_devices) * num_devices,
      text_len=evaluator.text_len,
      overflow=evaluator.overflow,
      keep=evaluator.columns(),
      limit=limit,
      on_bad_row=on_bad_row,
      **setups.reading(self.setup.config),
    )

  def _losses(self, params: Params, batch: loader.Batch) -> list[evals.Output]:
    num_supervised = agreement.largest(loss.num_supervised(batch["mask_loss"]))
    sums = self._eval_step(params, sharding.put(batch, self.setup.mesh), num_supervised)
    columns = map(agreement.local_rows, (sums.loss_sum, sums.num_tokens, sums.num_correct))
    return [
      evals.Output(int(i), loss_sum=float(nll), num_tokens=round(num), num_correct=round(correct))
      for i, nll, num, correct in zip(batch["_row"], *(x.tolist() for x in columns), strict=True)
    ]

  def _texts(
    self, evaluator: evals.Evaluator, params: Params, batch: loader.Batch
  ) -> list[evals.Output]:
    on_device = sharding.put(batch, self.setup.mesh)
    key = jax.random.key(self.setup.config.seed)
    result = self._generate[evaluator.name](params, on_device, key)
    columns = [agreement.local_rows(result[name]) for name in _COLUMNS]
    tokenizer, found = self.setup.tokenizer, []
    for row, ids, length, total, each in zip(batch["_row"], *columns, strict=True):
      ids, each = (x[:length].tolist() for x in (ids, each))
      answer = generate.answer(tokenizer, ids, float(total), each, evaluator.stop)
      # The tokens of a stop string write nothing that is kept.
      ends = tuple(min(end, len(answer.text)) for end in tokenizer.ends(answer.tokens))
      found.append(evals.Output(int(row), *answer, token_ends=ends))
    return found


def merged(results: Mapping[str, Result]) -> dict[str, float]:
  """The metrics of all evaluators as {'<eval name>/<metric>': value}."""
  return {
    f"{name}/{metric}": value
    for name, result in results.items()
    for metric, value in result.metrics.items()
  }


def table(columns: Sequence[str], result: Result) -> str:
  """The first predictions with these columns of their rows, as a table in Markdown."""
  lines = [[*columns, "prediction"], ["---"] * (len(columns) + 1)]
  for row, output in zip(result.rows[:_NUM_SHOWN], result.outputs, strict=False):
    lines.append([_cell(value) for value in (*(row.get(name) for name in columns), output.text)])
  return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(value: Any) -> str:
  """The value as it is read in a cell: of one line, short, its loc tokens no tags of HTML."""
  text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
  text = " ".join(text.split())
  text = text if len(text) <= _CELL_CHARS else text[: _CELL_CHARS - 1] + "…"
  return html.escape(text, quote=False).replace("|", "&#124;")


def listed(
  evaluators: Iterable[evals.Evaluator], step: int, metrics: Mapping[str, float]
) -> Iterator[str]:
  """What the evaluators found, one line each, for the log."""
  for name in (e.name for e in evaluators):
    found = {k.removeprefix(f"{name}/"): v for k, v in metrics.items() if k.startswith(f"{name}/")}
    if found:
      yield f"  {name} at step {step}: {', '.join(f'{k} {v:.4g}' for k, v in found.items())}"


def _gathered(
  records: list[tuple[dict[str, Any], evals.Output]], num_rejected: int
) -> tuple[list[dict[str, Any]], list[evals.Output], int]:
  """The rows and outputs of all processes in the order of the source, and the sum of the counts."""
  mine = [(row, dataclasses.asdict(output)) for row, output in records]
  parts = agreement.gather((mine, num_rejected))
  found = [record for part, _ in parts for record in part]
  found.sort(key=lambda record: record[0]["_row"])
  rows = [row for row, _ in found]
  return rows, [evals.Output(**output) for _, output in found], sum(count for _, count in parts)


def _checked(metrics: Any) -> dict[str, float]:
  """What an evaluator's `score` returned, which may be a user's code."""
  if not isinstance(metrics, dict) or not all(
    isinstance(k, str) and isinstance(v, (int, float)) for k, v in metrics.items()
  ):
    raise errors.ConfigError(f"`score` must return a dict of names and numbers; got {metrics!r}.")
  return dict(metrics)


def _placed(folder: pathlib.Path, name: str, step: int) -> pathlib.Path:
  """`<folder>/<name>-<step><suffix>`, which must lie in the folder."""
  path = folder / name
  path = path.with_name(f"{path.stem}-{step}{path.suffix}")
  if not path.resolve().is_relative_to(folder.resolve()):
    raise errors.ConfigError(f"The file name {name!r} leads out of the folder of predictions.")
  return path
