"""Writes docs/benchmarks.md: each benchmark's recipe, metric and published scores.

    python tools/make_benchmarks.py            # a test says when it has to be run again

All of it is read from the transfers: their constants, and the configurations they make.
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

*Made by `python tools/make_benchmarks.py` from the pages in `transfers/`; edit those.*

One page for each benchmark that PaliGemma and PaliGemma 2 were transferred to: the published recipe
at each resolution, and the evaluator that gives the number the papers print. Any of them trains
with

```bash
python -m paligemma_jax.prepare NAME        # says what to download; --raw DIR builds the dataset
python -m paligemma_jax.train --config transfers/NAME.py:res=448 --workdir runs/NAME
```

After the colon: `res` is 224, 448 or 896; `model` is `paligemma_3b`, `paligemma2_3b`,
`paligemma2_10b` or `paligemma2_28b`; `tune` is what is trainable, of `paligemma_jax/presets.py`;
`final=True` trains on all that the published score was trained on, `final=False` keeps rows aside
to choose settings on. The scores below are **published** ones, of the whole recipe on the whole
data; the pages name their sources; what our own runs give is not in this file. In templates ␣ is a
space where there are several, ⇥ a tab, ⏎ a line break. Where the answers of a test are kept by a
server, [test_servers.md](test_servers.md) says what it takes and how a file for it is checked. A
training row that does not fit the text tokens is left out and counted, but of COCO-35L, where it is
cut; [decisions.md](decisions.md) says how many that are where it was measured.

| benchmark | measure | PaliGemma 224 | 448 | 896 | PaliGemma 2 3B 224 | 448 | 896 |
|---|---|---|---|---|---|---|---|
"""


def text() -> str:
  """The whole document."""
  modules = {name: importlib.import_module(f"transfers.{name}") for name in try_transfers.names()}
  rows = [line for name, module in modules.items() for line in _summary(name, module)]
  sections = [_section(name, module) for name, module in modules.items()]
  return _HEAD + "\n".join(rows) + "\n\n" + "\n".join(sections)


def _summary(name: str, module: types.ModuleType) -> Iterator[str]:
  """The lines of the first table; one for each measure."""
  published = _constant(module, "PUBLISHED")
  for measure, scores in (published or {"–": {}}).items():
    cells = [
      _number(scores.get(model, {}).get(res))
      for model in ("paligemma_3b", "paligemma2_3b")
      for res in _RESOLUTIONS
    ]
    yield f"| [{name}](#{name}) | {measure} | {' | '.join(cells)} |"


def _section(name: str, module: types.ModuleType) -> str:
  """What one page says."""
  arguments = inspect.signature(inspect.unwrap(module.get_config)).parameters
  configs = {res: module.get_config(res=res) for res in _RESOLUTIONS}
  first = configs[_RESOLUTIONS[0]]
  lines = [f"## {name}", "", *_said(module)]
  lines += [f"- Page: [transfers/{name}.py](../transfers/{name}.py)", *_data(first), *_texts(first)]
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


def _said(module: types.ModuleType) -> Iterator[str]:
  """The paragraphs of the page's docstring, without commands: those are at the end."""
  for paragraph in inspect.getdoc(module).split("\n\n"):
    if not paragraph.startswith(" "):
      yield from (*paragraph.splitlines(), "")


def _data(config: ml_collections.ConfigDict) -> Iterator[str]:
  """Where the downloads are."""
  pages = {}
  for name in try_transfers.datasets(config):
    module = name.partition("/")[0]
    if module in prepare.module_names():
      pages[module] = prepare.datasets_of(name)[0].homepage
  if pages:
    yield "- Data: " + ", ".join(f"[{module}]({page})" for module, page in pages.items())


def _texts(config: ml_collections.ConfigDict) -> list[str]:
  """Prompt and answer, by the ops that make them."""
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
  """The same of sources whose rows pass ops of their own."""
  if source is None:
    return []
  nested = [s for s in try_transfers.specs_in(source) if hasattr(s, "pp") or hasattr(s, "ops")]
  return [
    text
    for part in nested
    for text in _made(column, getattr(part, "pp", None) or getattr(part, "ops", ()))
  ]


def _made(column: str, ops: Iterable[Any]) -> list[str]:
  """[how these ops make the column], or []."""
  said = []
  for op in ops:
    if isinstance(op, pp.Format) and op.out == column:
      said = [f"`{_visible(op.template)}`"]
    elif isinstance(op, pp.Copy) and op.out == column:
      said = [f"`{{{op.key}}}`"]
    elif isinstance(op, pp.Choice) and column in op.makes():
      keys = op.key if isinstance(op.key, str) else op.key[op.out.index(column)]
      said = [f"one of `{keys}`"]
    elif isinstance(op, pp.Lower) and op.key == column:
      said.append("in lower case")
    elif column in op.makes():
      # The others are best told by their names: Boxes, ….
      said.append(f"`{type(op).__name__}`")
  return [", ".join(said)] if said else []


def _recipe(configs: dict[int, ml_collections.ConfigDict]) -> Iterator[str]:
  """A table with a line for each resolution; equal lines are one."""
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
  """What does not train."""
  if c.optim.train_only:
    return "all but " + ", ".join(f"`{regex}`" for regex in c.optim.train_only)
  return ", ".join(f"`{regex}`" for regex in c.optim.freeze) or "–"


def _evaluators(config: ml_collections.ConfigDict) -> Iterator[str]:
  """A table of what is measured; many evaluators of one kind and cadence are one line."""
  yield "| evaluator | class | rows | how often | decoding |"
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
  """Which rows are scored."""
  source = evaluator.source
  rows = f"`{type(source).__name__}`"
  if isinstance(source, tfds_source.Tfds):
    rows = f"`{source.name}` {source.split.replace('+', ' + ')}"
  return f"the first {evaluator.limit} of {rows}" if evaluator.limit else rows


def _published(module: types.ModuleType, config: ml_collections.ConfigDict) -> Iterator[str]:
  """A table of scores, if there are any."""
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
  """The commands that build what the page reads."""
  modules = dict.fromkeys(n.partition("/")[0] for n in try_transfers.datasets(config))
  known = prepare.module_names()
  for module in modules:
    if module in known:
      yield f"python -m paligemma_jax.prepare {module} --raw downloads/{module}"


def _constant(module: types.ModuleType, name: str) -> dict[str, Any]:
  """A page's table, {} when it has none: pages that only evaluate have no learning rates."""
  return getattr(module, name, {})


def _visible(template: str) -> str:
  """A template on one line, in which nothing is swallowed when it is shown."""
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
