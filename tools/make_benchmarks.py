"""Makes docs/benchmarks.md: recipe, metric and published scores of each benchmark.

    python tools/make_benchmarks.py            # a test fails if the page is out of date

The page is made from the constants and the configs of the transfers.
"""

from __future__ import annotations

import importlib
import inspect
import pathlib
import re
import sys
import types
from collections.abc import Iterable, Iterator
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import ml_collections

from paligemma_jax import evals
from paligemma_jax import pp
from paligemma_jax.core import atomic_io
from paligemma_jax.core import sampling_options
from paligemma_jax.sources import tfds as tfds_source
from tools import try_transfers
from tools.prepare import __main__ as prepare

PATH = pathlib.Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"
_RESOLUTIONS = try_transfers.RESOLUTIONS
_MODELS = {
  "paligemma_3b": "PaliGemma 3B",
  "paligemma2_3b": "PaliGemma 2 3B",
  "paligemma2_10b": "PaliGemma 2 10B",
  "paligemma2_28b": "PaliGemma 2 28B",
}

_HEAD = """# Benchmarks

*Made by `python tools/make_benchmarks.py` from the configs in `transfers/`; edit those.*

There is one config for each benchmark in the papers of PaliGemma and PaliGemma 2, with the
published recipe at each resolution and the metric that the papers report. To run one:

```bash
python -m paligemma_jax.prepare NAME        # prints what to download; --raw DIR builds the dataset
python -m paligemma_jax.train --config transfers/NAME.py:res=448 --workdir runs/NAME
```

Arguments after the colon:

| argument | values |
|---|---|
| `res` | 224, 448 or 896 |
| `model` | `paligemma_3b`, `paligemma2_3b`, `paligemma2_10b` or `paligemma2_28b` |
| `tune` | presets of `paligemma_jax/presets.py` ([tuning.md](tuning.md)) |
| `final` | True trains on all rows of the published recipe; False holds out rows |

All scores on this page are **published** ones, from the full recipe on the full data. Each config
names their source. Our own results are not on this page. In templates, ␣ is one of several
spaces, ⇥ is a tab, ⏎ is a line break. If a test server keeps the answers,
[test_servers.md](test_servers.md) describes its file format and how to check a file. A training
row that does not fit the text tokens is dropped and counted; COCO-35L cuts it instead.
[decisions.md](decisions.md) lists how many rows this affects.

| benchmark | metric | PaliGemma 224 | 448 | 896 | PaliGemma 2 3B 224 | 448 | 896 |
|---|---|---|---|---|---|---|---|
"""


def text() -> str:
  """The text of docs/benchmarks.md."""
  modules = {name: importlib.import_module(f"transfers.{name}") for name in try_transfers.names()}
  rows = [line for name, module in modules.items() for line in _summary(name, module)]
  sections = [_section(name, module) for name, module in modules.items()]
  return _HEAD + "\n".join(rows) + "\n\n" + "\n".join(sections)


def _summary(name: str, module: types.ModuleType) -> Iterator[str]:
  """The lines of the first table, one for each published measure."""
  published = _constant(module, "PUBLISHED")
  for measure, scores in (published or {"–": {}}).items():
    cells = [
      _number(scores.get(model, {}).get(res))
      for model in ("paligemma_3b", "paligemma2_3b")
      for res in _RESOLUTIONS
    ]
    yield f"| [{name}](#{name}) | {measure} | {' | '.join(cells)} |"


def _section(name: str, module: types.ModuleType) -> str:
  """The section of one transfer."""
  arguments = inspect.signature(inspect.unwrap(module.get_config)).parameters
  configs = {res: module.get_config(res=res) for res in _RESOLUTIONS}
  first = configs[_RESOLUTIONS[0]]
  lines = [f"## {name}", "", *_description(module)]
  lines.append(f"- Config: [transfers/{name}.py](../transfers/{name}.py)")
  lines += [*_data(first), *_texts(first)]
  if first.train.source is not None:
    lines += ["", *_recipe(configs)]
  rates = _constant(module, "LR")
  if rates:
    listed = ", ".join(f"{_MODELS.get(model, model)} {_short(lr)}" for model, lr in rates.items())
    lines += ["", f"Learning rate for other models: {listed}."]
  lines += ["", *_evaluators(first), *_published(module, first)]
  options = f"res={_RESOLUTIONS[0]}" + (",model=paligemma2_3b" if "model" in arguments else "")
  page = f"transfers/{name}.py:{options}"
  lines += ["", "```bash", *_building(first)]
  if first.train.source is None:
    lines.append(f"python -m paligemma_jax.evaluate --config {page} --ckpt runs/vqav2")
  else:
    lines.append(f"python -m paligemma_jax.train --config {page} --workdir runs/{name}")
  return "\n".join([*lines, "```", ""])


def _description(module: types.ModuleType) -> Iterator[str]:
  """The paragraphs of the config's docstring, without commands; those are at the end."""
  for paragraph in inspect.getdoc(module).split("\n\n"):
    if not paragraph.startswith(" "):
      yield from (*paragraph.splitlines(), "")


def _data(config: ml_collections.ConfigDict) -> Iterator[str]:
  """Links to the downloads."""
  pages = {}
  for name in try_transfers.datasets(config):
    module = name.partition("/")[0]
    if module in prepare.module_names():
      pages[module] = prepare.datasets_of(name)[0].homepage
  if pages:
    yield "- Data: " + ", ".join(f"[{module}]({page})" for module, page in pages.items())


def _texts(config: ml_collections.ConfigDict) -> list[str]:
  """Prompt and answer, from the ops that make them."""
  sources = config.train.source
  ops = config.train.pp if sources is not None else config.evals[0].pp
  lines = []
  for column, what in (("prefix", "Prompt"), ("suffix", "Answer")):
    made = list(dict.fromkeys(_made(column, ops) + _made_in_parts(column, sources)))
    if made:
      lines.append(f"- {what}: {'; '.join(made)}")
  for op in ops:
    if isinstance(op, pp.Join):
      glue = _visible(op.glue).replace(" ", "␣")
      lines.append(f"- `{op.out or op.key}`: `{op.key}`, joined by `{glue}`")
  return lines


def _made_in_parts(column: str, source: Any) -> list[str]:
  """The same for sources with ops of their own."""
  if source is None:
    return []
  nested = [s for s in try_transfers.specs_in(source) if hasattr(s, "pp") or hasattr(s, "ops")]
  return [
    text
    for part in nested
    for text in _made(column, getattr(part, "pp", None) or getattr(part, "ops", ()))
  ]


def _made(column: str, ops: Iterable[Any]) -> list[str]:
  """[description of how these ops make the column], or []."""
  found = []
  for op in ops:
    if isinstance(op, pp.Format) and op.out == column:
      found = [f"`{_visible(op.template)}`"]
    elif isinstance(op, pp.Copy) and op.out == column:
      found = [f"`{{{op.key}}}`"]
    elif isinstance(op, pp.Choice) and column in op.makes():
      keys = op.key if isinstance(op.key, str) else op.key[op.out.index(column)]
      found = [f"one of `{keys}`"]
    elif isinstance(op, pp.Lower) and op.key == column:
      found.append("in lower case")
    elif column in op.makes():
      # Other ops by their names: Boxes, ….
      found.append(f"`{type(op).__name__}`")
  return [", ".join(found)] if found else []


def _recipe(configs: dict[int, ml_collections.ConfigDict]) -> Iterator[str]:
  """A table with a line for each resolution; equal lines are merged."""
  yield "| px | length | batch | lr | wd | label smoothing | dropout | frozen | text tokens |"
  yield "|---|---|---|---|---|---|---|---|---|"
  lines: dict[str, list[str]] = {}
  for res, c in configs.items():
    cells = (
      c.train.total,
      c.train.batch_size,
      _short(c.optim.lr),
      _short(c.optim.wd),
      _short(c.optim.label_smoothing),
      _short(c.model.dropout),
      _frozen(c),
      c.train.text_len,
    )
    lines.setdefault(" | ".join(map(str, cells)), []).append(str(res))
  for cells, sizes in lines.items():
    yield f"| {', '.join(sizes)} | {cells} |"


def _frozen(c: ml_collections.ConfigDict) -> str:
  """The frozen parameters."""
  if c.optim.train_only:
    return "all but " + ", ".join(f"`{regex}`" for regex in c.optim.train_only)
  return ", ".join(f"`{regex}`" for regex in c.optim.freeze) or "–"


def _evaluators(config: ml_collections.ConfigDict) -> Iterator[str]:
  """A table of the evaluators; those of one class, schedule and decoding share a line."""
  yield "| evaluator | class | rows | schedule | decoding |"
  yield "|---|---|---|---|---|"
  groups: dict[tuple[str, ...], list[Any]] = {}
  for e in config.evals:
    beam_size = e.beam_size
    how = f"beam of {beam_size}" if beam_size > 1 else sampling_options.sampler(e)
    decoding = f"{how}, {e.max_len} tokens" if e.encoding == "decode" else "–"
    groups.setdefault((type(e).__name__, e.every or "end", decoding), []).append(e)
  for (kind, every, decoding), group in groups.items():
    names = ", ".join(f"`{e.name}`" for e in group[:4])
    rows = ", ".join(dict.fromkeys(_rows(e) for e in group[:4]))
    more = f" and {len(group) - 4} more" if len(group) > 4 else ""
    yield f"| {names}{more} | `{kind}` | {rows}{', …' if more else ''} | {every} | {decoding} |"


def _rows(evaluator: Any) -> str:
  """The scored rows."""
  source = evaluator.source
  rows = f"`{type(source).__name__}`"
  if isinstance(source, tfds_source.Tfds):
    rows = f"`{source.name}` {source.split.replace('+', ' + ')}"
  return f"the first {evaluator.limit} of {rows}" if evaluator.limit else rows


def _published(module: types.ModuleType, config: ml_collections.ConfigDict) -> Iterator[str]:
  """A table of published scores, if there are any."""
  published = _constant(module, "PUBLISHED")
  if not published:
    return
  metrics = _constant(module, "METRICS")
  yield from ("", "| published | our metric | model | 224 | 448 | 896 |")
  yield "|---|---|---|---|---|---|"
  for measure, scores in published.items():
    files = [e.name for e in config.evals if isinstance(e, evals.ServerFile)]
    metric = f"`{metrics[measure]}`" if measure in metrics else "–"
    if measure not in metrics and "test server" in measure and files:
      metric = f"the server's, of the file `{files[0]}`"
    for model, values in scores.items():
      cells = " | ".join(_number(values.get(res)) for res in _RESOLUTIONS)
      yield f"| {measure} | {metric} | {_MODELS.get(model, model)} | {cells} |"


def _building(config: ml_collections.ConfigDict) -> Iterator[str]:
  """The commands that build the datasets."""
  modules = dict.fromkeys(n.partition("/")[0] for n in try_transfers.datasets(config))
  known = prepare.module_names()
  for module in modules:
    if module in known:
      yield f"python -m paligemma_jax.prepare {module} --raw downloads/{module}"


def _constant(module: types.ModuleType, name: str) -> dict[str, Any]:
  """A config's table, {} if it has none: evaluation-only configs have no learning rates."""
  return getattr(module, name, {})


def _visible(template: str) -> str:
  """A template on one line, with visible white space."""
  several = re.sub(" {2,}", lambda spaces: "␣" * len(spaces.group()), template)
  return several.replace("\n", "⏎").replace("\t", "⇥")


def _short(number: float) -> str:
  return f"{number:g}".replace("e-0", "e-")


def _number(score: float | None) -> str:
  if score is None:
    return "–"
  return f"{score:g}" if "." in f"{score:g}" else f"{score:.1f}"


def main() -> None:
  """Writes the file."""
  atomic_io.write_atomically(PATH, text())
  print(PATH)


if __name__ == "__main__":
  main()
