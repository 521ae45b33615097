"""What a run's `checkpoints/` folder holds, and when a step in it is intact.

    base/     parameters that do not train, once per run; sealed
    <step>/   state/ (arrays of what trains), config.json, tokenizer.model, SEAL.json
    .tmp-*    a save that has not finished; removed at the next start
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from paligemma_jax.core import errors
from paligemma_jax.training import seal

BASE = "base"
ARRAYS = "state"
TMP = ".tmp-"


def steps_in(folder: pathlib.Path) -> list[int]:
  """The steps that have a folder in a `checkpoints/` folder, in no order."""
  return [int(p.name) for p in folder.iterdir() if p.name.isdecimal() and p.is_dir()]


def verify_step(folder: pathlib.Path) -> dict[str, Any]:
  """The facts of an intact step folder whose frozen parameters beside it are intact too.

  Raises:
    seal.Broken: naming the first bad file.
  """
  facts = seal.verify(folder)
  if facts["kind"] != "step" or str(facts["step"]) != folder.name:
    raise seal.Broken(f"{seal.SEAL} is of another folder ({facts['kind']} {facts.get('step', '')})")
  if facts["base"]:
    base = folder.parent / BASE
    try:
      seal.verify(base)
      if seal.seal_crc(base) != facts["base"]:
        raise seal.Broken(f"{seal.SEAL} is of another run")
    except seal.Broken as e:
      raise seal.Broken(f"its frozen parameters in ../{BASE}: {e}") from None
  return facts


def best_steps(folder: pathlib.Path, steps: Sequence[int], metric: str, sign: float) -> set[int]:
  """The one step whose sealed metrics have the highest `sign * metric` (the later of equals).

  Empty when `metric` is '' or no step has it.
  """
  scores = {}
  for step in steps if metric else ():
    try:
      metrics = seal.read(folder / str(step))[0]["metrics"]
    except seal.Broken:
      continue
    if metric in metrics:
      scores[step] = (sign * metrics[metric], step)
  return {max(scores, key=scores.get)} if scores else set()


def check_leaves(
    folder: pathlib.Path, found: Mapping[str, list], wanted: Mapping[str, list]
) -> None:
  """Raises ConfigError, naming names, unless the tables `found` and `wanted` are equal."""
  if found == wanted:
    return
  parts = []
  for what, names in (
      ("lacks", sorted(set(wanted) - set(found))),
      ("has besides", sorted(set(found) - set(wanted))),
      ("differs in", sorted(n for n in wanted if n in found and wanted[n] != found[n])),
  ):
    if names:
      shown = [
          f"{n} ({found[n]} instead of {wanted[n]})" if what == "differs in" else n
          for n in names[:3]
      ]
      more = f" and {len(names) - 3} more" if len(names) > 3 else ""
      parts.append(f"{what} {', '.join(shown)}{more}")
  raise errors.ConfigError(
      f"The state in {folder} was saved by a run with other settings (model, freezing or"
      f" optimizer): it {'; it '.join(parts)}. Use the same config, or another --workdir."
  )
