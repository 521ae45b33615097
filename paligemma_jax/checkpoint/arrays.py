"""Arrays by name, on disk: one orbax folder for a flat dict, written by all processes together.

Orbax is imported where it is used: it takes 0.2 s and 25 MB that weights from a file do not need.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING
from typing import Any

import jax
import numpy as np

from paligemma_jax.core import trees

if TYPE_CHECKING:
  import orbax.checkpoint as ocp


def checkpointer() -> ocp.AsyncCheckpointer:
  """A writer; one per run, closed by its owner."""
  import orbax.checkpoint as ocp

  return ocp.AsyncCheckpointer(ocp.PyTreeCheckpointHandler())


def start(writer: ocp.AsyncCheckpointer, path: pathlib.Path, flat: Mapping[str, jax.Array]) -> None:
  """Begins to write `flat` to the new folder `path`.

  Returns once the arrays have left the devices, so they may be donated; the folder is complete when
  `writer.wait_until_finished()` returns.
  """
  import orbax.checkpoint as ocp

  writer.save(path, args=ocp.args.PyTreeSave(trees.unflatten(flat)))


def restore(
  path: pathlib.Path, targets: Mapping[str, jax.ShapeDtypeStruct]
) -> dict[str, jax.Array]:
  """The arrays that `targets` names, in its dtypes and on its shardings; others are not read.

  Args:
    targets: name -> shape, dtype and sharding; the shape must be the stored one.
  """
  import orbax.checkpoint as ocp

  if not targets:
    return {}
  tree = trees.unflatten(targets)
  return _restore(path, tree, ocp.checkpoint_utils.construct_restore_args(tree))


def read_one(path: pathlib.Path, name: str) -> np.ndarray:
  """The array `name` of the folder `path` in host memory, in its stored dtype."""
  import orbax.checkpoint as ocp

  tree = trees.unflatten({name: 0})
  args = trees.unflatten({name: ocp.RestoreArgs(restore_type=np.ndarray)})
  return _restore(path, tree, args)[name]


def described(path: pathlib.Path) -> dict[str, tuple[Any, tuple[int, ...], tuple[int, ...]]]:
  """{name: (dtype, shape, shape of its parts)} of the arrays in `path`, of which none is read."""
  import orbax.checkpoint as ocp

  reader = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
  try:
    about = reader.metadata(path).item_metadata
    if about is None:
      raise ValueError("its description is damaged, or an array that it names is missing")
    found = trees.flatten(about.tree)
  finally:
    reader.close()
  return {n: (a.dtype, tuple(a.shape), tuple(a.storage.chunk_shape)) for n, a in found.items()}


def names(tree: Any, prefix: str = "") -> dict[str, Any]:
  """name -> leaf of a tree of dicts and named tuples, as 'prefix/rule/mu/llm/...'."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {"/".join([prefix, *map(_key, path)]).strip("/"): leaf for path, leaf in leaves}


def rebuild(like: Any, flat: Mapping[str, Any], prefix: str = "") -> Any:
  """The tree of `like`'s structure whose leaves are those of `flat` by name."""
  return jax.tree.unflatten(jax.tree.structure(like), [flat[n] for n in names(like, prefix)])


def table(flat: Mapping[str, Any]) -> dict[str, list]:
  """{name: [dtype, shape]}, plain JSON data."""
  return {name: [str(leaf.dtype), list(leaf.shape)] for name, leaf in flat.items()}


def _restore(path, tree, restore_args):
  import orbax.checkpoint as ocp

  reader = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
  try:
    args = ocp.args.PyTreeRestore(item=tree, restore_args=restore_args, partial_restore=True)
    return trees.flatten(reader.restore(path, args=args))
  finally:
    reader.close()


def _key(key: Any) -> str:
  for attr in ("key", "name", "idx"):
    if hasattr(key, attr):
      return str(getattr(key, attr))
  raise TypeError(f"no name for {key!r} in a tree path")
