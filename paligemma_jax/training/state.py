"""The training state: what a step takes and returns, how it is made and where it lives."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from paligemma_jax.models import paligemma
from paligemma_jax.training import optimizers
from paligemma_jax.training import sharding

_COPIED_BYTES = 1 << 26  # Of arrays that are there twice at a time.


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """All that changes in training, and the frozen parameters: arrays, or their ShapeDtypeStructs."""

  step: Any  # int32[], steps so far, skipped ones included.
  trainable: dict[str, Any]  # Name -> float32 master parameter.
  frozen: dict[str, Any]  # Name -> parameter in the compute dtype.
  opt_state: Any  # The optimizer's, with leaves for the trainable alone.
  ema: dict[str, Any] = dataclasses.field(default_factory=dict)  # Float32 averages of trainable.

  @property
  def params(self) -> dict[str, jax.Array]:
    """All parameters by name, as the next step takes them."""
    return {**self.frozen, **self.trainable}

  @property
  def result(self) -> dict[str, jax.Array]:
    """All parameters by name, as they are evaluated and exported: averages where they are kept."""
    return {**self.params, **self.ema}


def param_dtypes(
  shapes: Mapping[str, Any], trainable: Iterable[str], dtype: Any
) -> Callable[[str], Any]:
  """name -> dtype that a parameter is kept in: float32 where it is trainable, else `dtype`.

  Quantized codes keep theirs; beside them norms, which are small, stay in float32.
  """
  trainable = frozenset(trainable)
  is_quantized = any(paligemma.is_quantized(name) for name in shapes)

  def of(name):
    if not jnp.issubdtype(shapes[name].dtype, jnp.floating):
      return jnp.dtype(shapes[name].dtype)
    keep = name in trainable or paligemma.stays_float32(name, beside_quantized=is_quantized)
    return jnp.dtype(jnp.float32 if keep else dtype)

  return of


def make(
  params: Mapping[str, jax.Array],
  trainable: Iterable[str],
  optimizer: optimizers.Optimizer,
  mesh: Mesh,
  *,
  dtype: Any,
) -> TrainState:
  """The state at step 0 of all these parameters, every leaf in its dtype and place in the mesh.

  Args:
    trainable: names of the trainable parameters.
    dtype: of the frozen parameters (`paligemma.compute_dtype`).
  """
  shapes = {n: jax.ShapeDtypeStruct(p.shape, p.dtype) for n, p in params.items()}
  target = abstract(shapes, trainable, optimizer, mesh, dtype=dtype)

  def place(name, t):
    return jax.device_put(jnp.asarray(params[name], t.dtype), t.sharding)

  placed = {name: place(name, t) for name, t in target.trainable.items()}
  return TrainState(
    step=jax.device_put(jnp.zeros((), jnp.int32), target.step.sharding),
    trainable=placed,
    frozen={name: place(name, t) for name, t in target.frozen.items()},
    opt_state=jax.jit(optimizer.init, out_shardings=shardings(target).opt_state)(placed),
    # Copies, because a donated buffer can be handed over only once.
    ema={name: jnp.copy(placed[name]) for name in target.ema},
  )


def owned(tree: Any) -> Any:
  """The tree's arrays in memory that a step can reuse; the arrays given are deleted.

  On a CPU arrays that come from files lie in NumPy's memory, which the first step could not reuse:
  all trainable parameters would be there twice.
  """
  leaves, structure = jax.tree.flatten(tree)
  on_cpu = [i for i, leaf in enumerate(leaves) if _is_on_cpu(leaf)]
  shards = {i: [shard.data for shard in leaves[i].addressable_shards] for i in on_cpu}
  together: list[tuple[int, int]] = []  # Are copied at the same time, on several cores.
  for place in [(i, j) for i in on_cpu for j in range(len(shards[i]))]:
    together.append(place)
    if sum(shards[i][j].nbytes for i, j in together) > _COPIED_BYTES:
      _copy(shards, together)
      together = []
  _copy(shards, together)
  for i in on_cpu:
    leaves[i] = jax.make_array_from_single_device_arrays(
      leaves[i].shape, leaves[i].sharding, shards[i]
    )
  return jax.tree.unflatten(structure, leaves)


def _copy(shards: dict[int, list[jax.Array]], places: list[tuple[int, int]]) -> None:
  """Puts copies in these places, and deletes what was there."""
  originals = [shards[i][j] for i, j in places]
  copies = [jax.device_put(x, x.sharding, may_alias=False) for x in originals]
  for (i, j), original, copy in zip(places, originals, jax.block_until_ready(copies), strict=True):
    shards[i][j] = copy
    original.delete()


def _is_on_cpu(leaf: Any) -> bool:
  return all(device.platform == "cpu" for device in leaf.sharding.device_set)


def abstract(
  shapes: Mapping[str, Any],
  trainable: Iterable[str],
  optimizer: optimizers.Optimizer,
  mesh: Mesh,
  *,
  dtype: Any,
) -> TrainState:
  """The state that `make` would make, as ShapeDtypeStructs with shardings; nothing is allocated."""
  trainable = frozenset(trainable)
  places = sharding.param_shardings(shapes, mesh)
  dtypes = param_dtypes(shapes, trainable, dtype)
  leaves = {n: _placed(leaf, places[n], dtypes(n)) for n, leaf in shapes.items()}
  trainable = {name: leaf for name, leaf in leaves.items() if name in trainable}
  opt_state = jax.eval_shape(optimizer.init, trainable)
  places = sharding.like_params(opt_state, trainable, mesh)
  return TrainState(
    step=jax.ShapeDtypeStruct((), jnp.int32, sharding=sharding.replicated(mesh)),
    trainable=trainable,
    frozen={name: leaf for name, leaf in leaves.items() if name not in trainable},
    opt_state=jax.tree.map(_placed, opt_state, places),
    ema=dict(trainable) if optimizer.ema else {},
  )


def _placed(leaf, place, dtype=None):
  return jax.ShapeDtypeStruct(leaf.shape, dtype or leaf.dtype, sharding=place)


def shardings(state: TrainState) -> TrainState:
  """The sharding of every leaf of a state (of arrays, or an abstract one)."""
  return jax.tree.map(lambda leaf: leaf.sharding, state)


def first_non_finite(state: TrainState) -> str:
  """The name of a trainable parameter or optimizer leaf that holds a NaN or infinity, or ''."""
  flags, _ = jax.tree_util.tree_flatten_with_path(all_finite(_checked(state)))
  for path, flag in flags:
    if not flag:
      return "/".join(str(getattr(k, "key", getattr(k, "name", k))) for k in path)
  return ""


def compile_finite_check(state: TrainState) -> None:
  """Compiles what `first_non_finite` runs, in seconds; the state may be donated meanwhile."""
  all_finite.lower(_checked(state)).compile()


def _checked(state: TrainState) -> dict[str, Any]:
  return {"trainable": state.trainable, "opt_state": state.opt_state, "ema": state.ema}


@jax.jit
def all_finite(tree: Any) -> Any:
  """Whether each array of a tree holds only numbers: bool[] in its place."""
  return jax.tree.map(lambda leaf: jnp.isfinite(leaf).all(), tree)
