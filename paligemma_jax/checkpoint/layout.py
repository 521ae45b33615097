"""What a run's `checkpoints/` folder holds, and when a step in it is intact.

    base/     parameters that do not train, once per run; sealed
    <step>/   state/ (arrays of what trains), config.json, tokenizer.model, SEAL.json
    .tmp-*    a save that has not finished; removed at the next start
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Mapping
from typing import Any

from paligemma_jax.checkpoint import manifest
from paligemma_jax.core import errors

BASE = "base"
ARRAYS = "state"
TMP = ".tmp-"
_NON_FINITE = ("NaN", "Infinity", "-Infinity")  # In a line, for what JSON has no number for.
_NONFINITE = {"count", "streak", "forgiven"}  # Of skipped steps.
_STEP = re.compile(r"0|[1-9][0-9]{0,17}")  # Of one spelling only, so that the name is the step.


def steps_in(folder: pathlib.Path) -> list[int]:
  """The steps that have a folder in a `checkpoints/` folder, in no order."""
  return [int(p.name) for p in folder.iterdir() if _STEP.fullmatch(p.name) and p.is_dir()]


def verify_step(folder: pathlib.Path) -> dict[str, Any]:
  """The facts of an intact step folder whose frozen parameters beside it are intact too.

  Raises:
    seal.Broken: naming the first bad file.
  """
  facts = _checked(manifest.verify(folder))
  if facts["kind"] != "step" or str(facts["step"]) != folder.name:
    raise manifest.Broken(f"{manifest.SEAL} is of another folder ({facts['kind']} {facts.get('step', '')})")
  if facts["base"]:
    base = folder.parent / BASE
    try:
      _checked(manifest.verify(base))
      if manifest.seal_crc(base) != facts["base"]:
        raise manifest.Broken(f"{manifest.SEAL} is of another run")
    except manifest.Broken as e:
      raise manifest.Broken(f"its frozen parameters in ../{BASE}: {e}") from None
  return facts


def read_facts(folder: pathlib.Path) -> dict[str, Any]:
  """The facts in the seal of a step or of frozen parameters; the files are not looked at.

  Raises:
    seal.Broken: no seal, or none that says what ours say.
  """
  return _checked(manifest.read(folder)[0])


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


def _checked(facts: dict[str, Any]) -> dict[str, Any]:
  """The facts, if they have the form that a save gives them; anybody can write an intact seal."""
  leaves, kind = facts.get("leaves"), facts.get("kind")
  good = kind in ("step", BASE) and isinstance(leaves, dict) and all(map(_is_leaf, leaves.values()))
  if good and kind == "step":
    good = (
        type(facts.get("step")) is int
        and isinstance(facts.get("base"), str)
        and _is_of_run(facts.get("run", {}))  # Runs of earlier versions have none.
    )
  if not good:
    raise manifest.Broken(f"{manifest.SEAL} does not say what the seal of a {kind or 'step'} says")
  return facts


def _is_leaf(value: Any) -> bool:
  """[dtype, shape], as `arrays.table` makes it."""
  if not isinstance(value, list) or list(map(type, value)) != [str, list]:
    return False
  return all(type(size) is int and 0 <= size < 1 << 48 for size in value[1])


def _is_of_run(value: Any) -> bool:
  """What a run saves beside its state: its line in metrics.jsonl, and counts, or nothing."""
  if not isinstance(value, dict):
    return False
  line, rows = value.get("line", []), value.get("rows", {})
  nonfinite = value.get("nonfinite", dict.fromkeys(_NONFINITE, 0))
  if list(map(type, (line, rows, nonfinite))) != [list, dict, dict]:
    return False
  counts = [*rows.values(), *nonfinite.values()]
  return (
      all(type(count) is int and count >= 0 for count in counts)
      and set(nonfinite) == _NONFINITE
      and all(map(_is_of_line, line))
  )


def _is_of_line(value: Any) -> bool:
  """[name, number], as `trainer.metrics.plain` makes it."""
  if not isinstance(value, list) or len(value) != 2 or not isinstance(value[0], str):
    return False
  number = value[1]
  return type(number) in (int, float) or (isinstance(number, str) and number in _NON_FINITE)
