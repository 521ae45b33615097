"""Compiles the training step ahead of time, without the hardware: memory, FLOPs, communication.

Nothing is allocated and no file is read: the step is the run's own, its arguments are shapes.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from jax.experimental import topologies
from jax.extend import core

from paligemma_jax.core import errors
from paligemma_jax.models import linear
from paligemma_jax.planning import collectives
from paligemma_jax.planning import targets
from paligemma_jax.trainer import devices as devices_lib
from paligemma_jax.trainer import setup as setups
from paligemma_jax.training import gradient_memory
from paligemma_jax.training import optimizers
from paligemma_jax.training import sharding
from paligemma_jax.training import state as states

_STEPS = 1000  # Of the schedule; its length changes none of the figures.
_CHIPS_OF_A_HOST = {1: (1, 1, 1), 8: (2, 4, 1)}


def measure(
  config: ml_collections.ConfigDict,
  target: targets.Target,
  *,
  frames: int,
  num_supervised: int,
  compiled: bool,
) -> dict[str, Any]:
  """What a training step needs on the target; all bytes are those of one device.

  Args:
    frames: images per row; 0 is one image without a frame dimension.
    num_supervised: answer tokens per row in the loss; 0 is text_len.
    compiled: False only adds up the state, in a second or two.

  Returns:
    device, num_devices, num_hosts, num_slices, num_row_shards, memory_bytes and most_bytes (0:
    unknown), num_params and parts {parameters, optimizer, batch, gradients}; with `compiled` also
    fits, fits_with (the command that lets it fit; "" where none does or is needed), bytes
    {arguments, outputs, aliased, temporaries, total}, activations, flops, flops_needed,
    collectives and unread (see `_sent`), compile_secs, and error where the compiler ran out of
    memory.

  Raises:
    ConfigError: the configuration cannot be run on these devices; or a package is missing.
  """
  devices, memory_bytes, most_bytes = _devices(target)
  if target.platform != "local" and config.model.dtype == "auto":
    config.model.dtype = "bfloat16"
  setup = setups.lay_out(config, devices)
  train = config.train
  sharding.check_batch(
    train.batch_size, setup.mesh, grad_accum_steps=train.grad_accum_steps, what="train.batch_size"
  )
  with config.unlocked():
    config.optim.update(warmup="", cooldown="")  # So that the schedule fits any run.
  optimizer = setups.optimizer(setup, _STEPS, train.batch_size)
  state = setups.abstract_state(setup, optimizer)
  batch = _batch(setup, frames)
  found = {
    "device": devices[0].device_kind,
    "num_devices": len(devices),
    "num_hosts": len({device.process_index for device in devices}),
    "num_slices": len({getattr(device, "slice_index", None) for device in devices}),
    "num_row_shards": sharding.num_row_shards(setup.mesh),
    "memory_bytes": memory_bytes,
    "most_bytes": most_bytes,
    "num_params": setups.num_params(setup),
    "parts": {
      "parameters": _bytes((state.trainable, state.frozen)),
      "optimizer": _bytes((state.opt_state, state.ema, state.step)),
      "batch": _bytes(batch),
      "gradients": _gradient_bytes(setup, state),
    },
  }
  if compiled:
    found.update(_compiled(setup, optimizer, state, batch, num_supervised or train.text_len))
    total = found["bytes"]["total"]
    found["fits"] = not found["error"] and (not memory_bytes or total <= memory_bytes)
    with_more = not found["fits"] and not found["error"] and total <= most_bytes
    found["fits_with"] = devices_lib.larger_share() if with_more else ""
  return found


def _compiled(
  setup: setups.Setup,
  optimizer: optimizers.Optimizer,
  state: states.TrainState,
  batch: dict[str, Any],
  num_supervised: int,
) -> dict[str, Any]:
  num_supervised = min(num_supervised, setup.config.train.text_len)

  def traced(setup: setups.Setup) -> Any:
    step: Any = setups.train_step(setup, optimizer, state)
    return step.trace(state, batch, num_supervised)

  trace = traced(setup)
  bare = setups.without_recomputation(setup)
  found = {
    "flops": matmul_flops(trace.jaxpr),
    "flops_needed": matmul_flops(traced(bare).jaxpr),
    "activations": _kept(trace.jaxpr.jaxpr) // sharding.num_row_shards(setup.mesh),
    "error": "",
  }
  start = time.monotonic()
  try:
    program = trace.lower().compile()
  except jax.errors.JaxRuntimeError as e:
    if "RESOURCE_EXHAUSTED" not in str(e):
      raise
    arguments = _bytes((state, batch))
    total = max(_used(str(e)), arguments)
    sizes = dict(arguments=arguments, outputs=_bytes(state), aliased=_bytes(state))
    sizes["temporaries"] = total - arguments
    found["error"] = str(e).partition("\n")[0][:300]
    found.update(collectives={}, unread="")
  else:
    analysis = program.memory_analysis()
    sizes = dict(
      arguments=analysis.argument_size_in_bytes,
      outputs=analysis.output_size_in_bytes,
      aliased=analysis.alias_size_in_bytes,
      temporaries=analysis.temp_size_in_bytes,
    )
    total = sizes["arguments"] + sizes["outputs"] - sizes["aliased"] + sizes["temporaries"]
    found.update(_sent(program.as_text(), setup.mesh))
  found["bytes"] = {**sizes, "total": total}
  found["compile_secs"] = round(time.monotonic() - start, 1)
  return found


def _sent(hlo: str, mesh: Any) -> dict[str, Any]:
  """What the devices of the mesh send each other; `unread` is why it is not known."""
  hosts = [device.process_index for device in mesh.devices.flat]
  try:
    return {"collectives": collectives.collectives(hlo, hosts), "unread": ""}
  except ValueError as e:  # XLA has had three ways to write groups of devices.
    return {"collectives": {}, "unread": str(e)}


def _devices(target: targets.Target) -> tuple[list[Any], int, int]:
  """The target's devices, and the bytes of each that a program gets, by itself and at most.

  0 bytes is unknown. At most is a GPU's with a larger share of it for JAX.
  """
  if target.platform == "local":
    devices_lib.check()
    devices = jax.devices()
    return devices, *devices_lib.share_of(devices[0])
  options: dict[str, Any] = {"topology_name": target.topology}
  chips = target.num_chips // target.num_hosts
  if target.platform == "tpu":
    if chips in _CHIPS_OF_A_HOST:  # Else 4, the compiler's own.
      options["chips_per_host_bounds"] = _CHIPS_OF_A_HOST[chips]
    if target.num_slices > 1:
      options["num_slices"] = target.num_slices
  else:
    options["topology"] = f"1x{target.num_hosts}x{chips}"
    options["target_config"] = targets.gpu_description(target.topology)
  try:
    topology = topologies.get_topology_desc(platform=target.platform, **options)
  except Exception as e:  # Many types: the plugin is missing, too old, or lacks this chip.
    packages = {"tpu": "jax[tpu]", "cuda": "jax[cuda12-local]"}
    raise errors.ConfigError(
      f"Cannot compile for {target.name}: {str(e).splitlines()[0][:200]}. Its compiler is needed:"
      f" pip install '{packages[target.platform]}'."
    ) from e
  if target.platform == "cuda":
    return list(topology.devices), *devices_lib.shares(target.memory_bytes)
  return list(topology.devices), target.memory_bytes, target.memory_bytes


def _batch(setup: setups.Setup, frames: int) -> dict[str, Any]:
  train = setup.config.train
  place = sharding.batch_sharding(setup.mesh)
  rows, length, res = train.batch_size, train.text_len + 1, setup.model_config.res
  shapes = {
    "image": ((rows, *([frames] if frames else []), res, res, 3), jnp.uint8),
    "text": ((rows, length), jnp.int32),
    "mask_ar": ((rows, length), jnp.int32),
    "mask_loss": ((rows, length), jnp.float32),
    "_mask": ((rows,), jnp.bool_),
  }
  return {
    key: jax.ShapeDtypeStruct(shape, dtype, sharding=place)
    for key, (shape, dtype) in shapes.items()
  }


def _bytes(tree: Any) -> int:
  """Bytes of one device's part of the arrays."""
  return sum(
    math.prod(leaf.sharding.shard_shape(leaf.shape)) * jax.dtypes.itemsize_bits(leaf.dtype) // 8
    for leaf in jax.tree.leaves(tree)
  )


def _gradient_bytes(setup: setups.Setup, state: states.TrainState) -> int:
  """Bytes of one device's part of the gradients, each in the dtype of its differentiation."""
  leaves = jax.eval_shape(
    lambda s: gradient_memory.to_differentiate(setup.model_config, s, table=False)[0], state
  )
  total = 0
  for name, leaf in leaves.items():
    place = state.trainable[name.removesuffix(linear.OFFSET)].sharding
    total += _bytes(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place))
  return total


def _kept(jaxpr: Any) -> int:
  """Bytes over all devices of the activations that layers keep for their backward pass.

  A backward pass is a scan in reverse. What it reads layer by layer was kept, unless it is an
  argument of the program, as parameters are, or zeros, which XLA never materializes.
  """
  given = set(jaxpr.invars) | set(jaxpr.constvars)
  for eqn in jaxpr.eqns:
    if eqn.primitive.name == "broadcast_in_dim" and isinstance(eqn.invars[0], core.Literal):
      given.update(eqn.outvars)
  total = 0
  for eqn in jaxpr.eqns:
    if eqn.primitive.name == "scan" and eqn.params["reverse"]:
      # The body sees a layer's part of what is fed to it, and all of everything else.
      pairs = zip(eqn.invars, eqn.params["jaxpr"].jaxpr.invars, strict=True)
      fed = [v for v, inside in pairs if v.aval.shape != inside.aval.shape]
      arrays = {v for v in fed if not isinstance(v, core.Literal) and v not in given}
      total += sum(v.aval.size * jax.dtypes.itemsize_bits(v.aval.dtype) // 8 for v in arrays)
    else:
      total += sum(_kept(inner) for inner in _inner_jaxprs(eqn.params))
  return total


def _inner_jaxprs(params: dict[str, Any]) -> Iterator[Any]:
  for value in params.values():
    for item in value if isinstance(value, (tuple, list)) else (value,):
      if isinstance(item, core.ClosedJaxpr):
        yield item.jaxpr
      elif isinstance(item, core.Jaxpr):
        yield item


def _used(message: str) -> int:
  """Bytes that the compiler says it would have needed; 0 when it does not say."""
  match = re.search(r"Used ([\d.]+)([KMGT]) of|\(([\d.]+)([KMGT])\) exceeds available", message)
  if not match:
    return 0
  number, unit = match[1] or match[3], match[2] or match[4]
  return round(float(number) * 1024 ** ("KMGT".index(unit) + 1))


def matmul_flops(jaxpr: Any) -> int:
  """2 x multiply-adds of every matmul and convolution, over all devices.

  Of branches the most expensive counts; the body of a loop of unknown length counts once.

  Args:
    jaxpr: Jaxpr or ClosedJaxpr, as of `jitted.trace(…).jaxpr`.
  """
  if isinstance(jaxpr, core.ClosedJaxpr):
    jaxpr = jaxpr.jaxpr
  return sum(_of(eqn) for eqn in jaxpr.eqns)


def _of(eqn: Any) -> int:
  name, params = eqn.primitive.name, eqn.params
  if name == "dot_general":
    (contracted, _), _ = params["dimension_numbers"]
    left = eqn.invars[0].aval.shape
    return 2 * math.prod(eqn.outvars[0].aval.shape) * math.prod(left[dim] for dim in contracted)
  if name == "conv_general_dilated":
    kernel = eqn.invars[1].aval.shape
    out_dim = params["dimension_numbers"].rhs_spec[0]
    return 2 * math.prod(eqn.outvars[0].aval.shape) * math.prod(kernel) // kernel[out_dim]
  if name == "cond":
    return max(matmul_flops(branch) for branch in params["branches"])
  inner = sum(matmul_flops(jaxpr) for jaxpr in _inner_jaxprs(params))
  if name == "scan":
    return params["length"] * inner
  if name == "pallas_call":
    return math.prod(params["grid_mapping"].grid) * inner
  if name == "shard_map":  # Its body is what one device does.
    return params["mesh"].size * inner
  return inner
