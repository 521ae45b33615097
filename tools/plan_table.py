"""Makes docs/plan.md: memory of the training step by model, preset and device, from `plan`.

    python tools/plan_table.py                          # compiles all missing cells
    python tools/plan_table.py --only 'paligemma_3b 224 .* v5e-8'
    python tools/plan_table.py --write                  # only writes the page from existing cells

A cell takes about a minute on an idle machine (pip install -r requirements/plan.txt, and
requirements/plan-cuda.txt for cards). Cells are kept in docs/plan.jsonl, one line each; delete a
line to compile its cell again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import re
import sys
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from paligemma_jax import presets
from paligemma_jax.config import load as configs
from paligemma_jax.core import atomic_io
from paligemma_jax.core import errors
from paligemma_jax.planning import runs
from paligemma_jax.planning import targets

ROOT = pathlib.Path(__file__).resolve().parent.parent

MODELS = (
  ("paligemma_3b", 224),
  ("paligemma_3b", 448),
  ("paligemma_3b", 896),
  ("paligemma2_10b", 224),
  ("paligemma2_28b", 224),
)
TUNES = ("full_adam", "adafactor", "adam8bit", "sgd_attention", "lora", "qlora")
DEVICES = ("v5e-1", "v5e-4", "v5e-8", "v5p-8", "v6e-8", "h100", "l4", "t4")
OF_ONE_MODEL = ("h200", "a100-40")  # More of them, for the first of MODELS.
ROWS_PER_CHIP = {224: 8, 448: 4, 896: 1}
TEXT_LEN = 32

_CELLS = ROOT / "docs" / "plan.jsonl"
_PAGE = ROOT / "docs" / "plan.md"
_GIB = 2**30
_ALL = (*DEVICES, *OF_ONE_MODEL)


@dataclasses.dataclass(frozen=True)
class Cell:
  """One training step: a model at a resolution, a preset, devices."""

  model: str
  res: int
  tune: str
  device: str

  @property
  def key(self) -> str:
    return f"{self.model} {self.res} {self.tune} {self.device}"

  @property
  def batch_size(self) -> int:
    return ROWS_PER_CHIP[self.res] * targets.get(self.device).num_chips


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--only", default="", help="regex for cells: 'MODEL RES TUNE DEVICE'")
  parser.add_argument("--write", action="store_true", help="only write the page")
  parser.add_argument("--timeout", type=float, default=3600.0, help="seconds for a cell")
  args = parser.parse_args()
  found = read()
  for cell in [] if args.write else cells():
    if cell.key in found or not re.search(args.only, cell.key):
      continue
    print(cell.key, flush=True)
    try:
      found[cell.key] = measure(cell, args.timeout)
    except (errors.CompilerError, errors.ConfigError) as e:
      print(f"  {e}", file=sys.stderr)
      continue
    lines = [json.dumps({"cell": key, **found[key]}) for key in sorted(found)]
    atomic_io.write_atomically(_CELLS, "\n".join(lines) + "\n")
  atomic_io.write_atomically(_PAGE, page(found))


def cells() -> list[Cell]:
  """All cells, the most common models first."""
  pairs = [(m, d) for m in MODELS for d in (*DEVICES, *(OF_ONE_MODEL if m == MODELS[0] else ()))]
  tunes = [t for t in TUNES if t in presets.TUNES]
  return [Cell(model, res, tune, device) for (model, res), device in pairs for tune in tunes]


def read() -> dict[str, dict[str, Any]]:
  """{key: cell} of docs/plan.jsonl."""
  if not _CELLS.exists():
    return {}
  lines = [json.loads(line) for line in _CELLS.read_text().splitlines()]
  return {line.pop("cell"): line for line in lines}


def measure(cell: Cell, timeout_secs: float) -> dict[str, Any]:
  """Compiles a cell; its entry in docs/plan.jsonl.

  Raises:
    ConfigError: the step cannot run on this device.
    CompilerError: the compiler failed.
  """
  c = configs.default_config()
  c.model.update(variant=cell.model, res=cell.res)
  presets.apply(c, cell.tune)
  c.train.update(batch_size=cell.batch_size, text_len=TEXT_LEN)
  c.optim.lr = 1e-5
  job = runs.job(c, cell.device)
  found = runs.ask([job], cell.device, effort=-1.0, timeout_secs=timeout_secs)[0]
  if "refused" in found:
    raise errors.ConfigError(found["refused"])
  keep = (
    "fits",
    "fits_with",
    "bytes",
    "parts",
    "activations",
    "flops",
    "flops_needed",
    "memory_bytes",
  )
  return {"batch_size": cell.batch_size, **{name: found[name] for name in (*keep, "memory_bytes")}}


def page(found: dict[str, dict[str, Any]]) -> str:
  """The text of docs/plan.md."""
  parts = [_HEAD]
  for model, res in MODELS:
    known = {t: {d: found.get(Cell(model, res, t, d).key) for d in _ALL} for t in TUNES}
    devices = [d for d in _ALL if any(of_tune[d] for of_tune in known.values())]
    rows = [
      [f"`{tune}`", *(_shown(of_tune[d]) for d in devices)]
      for tune, of_tune in known.items()
      if any(of_tune.values())
    ]
    if rows:
      per_chip = ROWS_PER_CHIP[res]
      unit = "examples" if per_chip > 1 else "example"
      title = f"## {model} at {res} px, {per_chip} {unit} per chip"
      parts.append(f"{title}\n\n{_table(devices, rows)}")
  return "\n".join(parts)


def _shown(cell: dict[str, Any] | None) -> str:
  if cell is None:
    return ""
  total = f"{cell['bytes']['total'] / _GIB:.1f}"
  if cell["fits_with"]:
    return f"{total} ◦"
  return f"**{total}**" if cell["fits"] else f"{total} ✗"


def _table(devices: list[str], rows: list[list[str]]) -> str:
  head = ["", *devices]
  lines = [head, ["---"] * len(head), *rows]
  return "".join(f"| {' | '.join(line)} |\n" for line in lines)


_HEAD = f"""# Memory of the training step

GiB per chip that the training step takes, as compiled ahead of time. **Bold** fits, ◦ fits a card
[once JAX may take 90 % of it](gpu.md#memory), ✗ does not fit (the figure is what it would take), an
empty cell was not compiled. Text length {TEXT_LEN}, default
settings, all chips on one FSDP mesh. v5p-8 has 4 chips; its name counts cores. The table is made by
`python tools/plan_table.py`. For any other run, use
`python -m paligemma_jax.plan --config … --on …`.

The TPU compiler ran at its fast effort; at its default effort the step may take some hundred MiB
more. Nothing was executed on these devices.
"""


if __name__ == "__main__":
  main()
