"""What the names and shapes of an npz cannot say of a model: softcaps, a window, a scale.

The published format has no place for them, so readers take those of the published models. Where a
model has others, a small file beside the npz says so: `x.npz.sizes.json`.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from absl import logging

from paligemma_jax.checkpoint import published
from paligemma_jax.checkpoint import reader
from paligemma_jax.core import atomic_io
from paligemma_jax.core import errors

_SUFFIX = ".sizes.json"
_WORDS = {
    "attn_softcap": "attention softcap",
    "final_softcap": "final softcap",
    "query_scale": "scale of queries",
    "sliding_window": "sliding window",
}


def beside(path: pathlib.Path) -> pathlib.Path:
  """The file that belongs to an npz."""
  return path.with_name(path.name + _SUFFIX)


def write(path: pathlib.Path, sizes: Mapping[str, Any], told: Mapping[str, Any]) -> None:
  """Writes the file of the npz `path` where one is needed, and removes one that is not.

  Args:
    sizes: of the model.
    told: what readers make of names and shapes.
  """
  differ = {k: sizes["llm"][k] for k in _WORDS if sizes["llm"][k] != told["llm"][k]}
  if not differ:
    beside(path).unlink(missing_ok=True)
    return
  atomic_io.write_atomically(beside(path), json.dumps({"llm": differ}, indent=2) + "\n")
  logging.warning(
      "%s: the npz format cannot hold the model's %s; %s does. Keep the two together; programs"
      " other than this one must be told.", path, _in_words(differ), beside(path).name,
  )


def read(path: pathlib.Path, told: Mapping[str, Any]) -> dict[str, Any]:
  """The sizes of the npz `path`: those of names and shapes, and of the file beside it.

  Raises:
    CheckpointError: the file is damaged.
  """
  llm = dict(told["llm"])
  if not beside(path).exists():
    if llm["post_norms"]:
      values = {k: llm[k] for k in ("attn_softcap", "final_softcap", "sliding_window")}
      log = logging.info if published.hub_id(path) else logging.warning
      log(
          "%s: an npz does not say the model's %s, so those of the published PaliGemma 2 are taken."
          " A model with others needs overrides, as {'llm.final_softcap': 30.0}.",
          path, _in_words(values),
      )
    return {**told, "llm": llm}
  found = reader.read_json(beside(path)).get("llm")
  known = isinstance(found, dict) and found.keys() <= _WORDS.keys()
  if not known or not all(_fits(llm[key], value) for key, value in found.items()):
    raise errors.CheckpointError(
        f"{beside(path)}: is damaged: expected 'llm' with some of {', '.join(_WORDS)}."
    )
  return {**told, "llm": {**llm, **found}}


def _in_words(values: Mapping[str, Any]) -> str:
  return ", ".join(f"{_WORDS[key]} ({value})" for key, value in values.items())


def _fits(example: Any, value: Any) -> bool:
  if isinstance(example, str):
    return value in ("head_dim", "width_per_head")
  whole = type(value) is int or (isinstance(example, float) and type(value) is float)
  return whole and 0 <= value < 1 << 31
