"""Attention by the kernels of devices, which never write the logits to memory.

On TPU that is splash attention, a Pallas kernel that JAX ships; on NVIDIA cards cuDNN's. Both take
whole sequences only: as many queries as keys, blocks in rising order, no sliding window.

  B rows, S positions, N query heads, K key heads, H head dim.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec

# Sides of the squares of logits that a kernel works on; positions are padded to a multiple.
_BLOCKS = (512, 384, 256, 128)
# It leaves room to subtract: a query without any key must not give inf - inf.
_MASKED_LOGIT = -0.7 * float(jnp.finfo(jnp.float32).max)

_MESH: contextvars.ContextVar[Mesh | None] = contextvars.ContextVar("mesh", default=None)


@contextlib.contextmanager
def on(mesh: Mesh) -> Iterator[None]:
  """A model traced in here is for this mesh; examples are sharded over all axes but "tensor".

  The compiler cannot partition a kernel by itself, so its caller must know the mesh.
  """
  token = _MESH.set(mesh)
  try:
    yield
  finally:
    _MESH.reset(token)


def devices() -> tuple[str, int]:
  """The platform of the devices that the traced model is for, and how many there are."""
  mesh = _MESH.get()
  if mesh is None:
    return jax.default_backend(), jax.device_count()
  return mesh.devices.flat[0].platform, mesh.size


def platform() -> str:
  """Whose kernels the traced model can use: "tpu", "gpu", or "" for none."""
  kind, num = devices()
  if _MESH.get() is not None:
    # cuDNN needs a card that is there; a plan for cards that are not does without.
    return kind if kind == "tpu" or jax.default_backend() == "gpu" else ""
  # Without a mesh arrays must be whole.
  return kind if kind == "gpu" or (kind == "tpu" and num == 1) else ""


def has_cudnn_kernel(q_BSNH: jax.Array, *, softcap: float) -> bool:
  """Whether cuDNN has a kernel, forward and backward, for such arrays on the cards there are."""
  seq_len, head_dim = q_BSNH.shape[1], q_BSNH.shape[3]
  if softcap or q_BSNH.dtype not in (jnp.bfloat16, jnp.float16) or head_dim % 8 or seq_len % 2:
    return False
  major = str(jax.local_devices()[0].compute_capability).partition(".")[0]
  if not major.isdigit():  # A card of another maker.
    return False
  return int(major) >= 8 and head_dim <= (256 if int(major) >= 9 else 128)


def splash(
  q_BSNH: jax.Array,
  k_BSKH: jax.Array,
  v_BSKH: jax.Array,
  q_block_BS: jax.Array | None,
  k_block_BS: jax.Array | None,
  *,
  hidden: int,
  softcap: float,
  interpret: bool = False,
) -> jax.Array:
  """[B, S, N, H] by the TPU's kernel; finite also for a query without any key.

  Args:
    q_BSNH: queries, already scaled.
    q_block_BS: int32[B or 1, S]; a query attends to the keys of its own and of earlier blocks.
      None: every query to every key.
    k_block_BS: int32[B or 1, S], rising along a row but for keys that are `hidden`.
    softcap: as in `attention.attend`.
    interpret: runs the kernel on any device, slowly.
  """
  batch, seq_len = q_BSNH.shape[:2]
  block = min(_BLOCKS, key=lambda side: _work(seq_len, side))
  padded_len = -(-seq_len // block) * block
  mask: tuple[jax.Array, ...] | None = None
  if q_block_BS is not None and k_block_BS is not None:
    hidden_BS = jnp.equal(k_block_BS, hidden).astype(jnp.int32)
    mask = _last_seen(q_block_BS, k_block_BS, hidden), hidden_BS
  elif padded_len > seq_len:
    mask = jnp.full((1, seq_len), seq_len - 1, jnp.int32), jnp.zeros((1, seq_len), jnp.int32)
  if mask is not None:
    mask = tuple(jnp.broadcast_to(x, (batch, seq_len)) for x in mask)

  def local(q_BSNH, k_BSKH, v_BSKH, mask):
    heads_first = (_padded(x, padded_len).swapaxes(1, 2) for x in (q_BSNH, k_BSKH, v_BSKH))
    mask = None if mask is None else tuple(_padded(x, padded_len) for x in mask)
    kernel = _kernel(block, softcap, interpret)
    y_BNSH = jax.vmap(kernel)(*heads_first, mask)
    return y_BNSH.swapaxes(1, 2)[:, :seq_len]

  mesh = _MESH.get()
  if mesh is not None and mesh.size > 1:
    local = _cut(local, mesh, q_BSNH.shape[2], k_BSKH.shape[2], masked=mask is not None)
  return local(q_BSNH, k_BSKH, v_BSKH, mask)


def _work(seq_len: int, side: int) -> float:
  """The cost of squares of that side: their logits, padding included, and a share for each."""
  return (-(-seq_len // side) * side) ** 2 * (1 + 64 / side)


def _last_seen(q_block_BS, k_block_BS, hidden):
  """int32[B, S], the last key that a query attends to, -1 for none.

  Where blocks rise this is the whole mask but for hidden keys: a query attends to all keys before.
  """
  # A hidden key counts to the block of the key before it, where it changes nothing.
  k_block_BS = jax.lax.cummax(jnp.where(k_block_BS == hidden, -1, k_block_BS), axis=1)
  seen_BSS = k_block_BS[:, None, :] <= q_block_BS[:, :, None]
  return seen_BSS.sum(axis=2, dtype=jnp.int32) - 1


def _kernel(block, softcap, interpret):
  """(q [N, S, H], k and v [K, S, H], (last seen, is hidden: int32[S]) or None) -> [N, S, H]."""
  from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as lib
  from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask_info as infos

  names = "q kv kv_compute q_dkv kv_dkv kv_dkv_compute q_dq kv_dq".split()
  sizes = lib.BlockSizes(**{f"block_{name}": block for name in names})

  def run(q_NSH, k_KSH, v_KSH, mask):
    last_S, segments = None, None
    if mask is not None:
      last_S, hidden_S = mask
      segments = lib.SegmentIds(q=jnp.zeros_like(hidden_S), kv=hidden_S)
    # The library's own constructors make a mask of all pairs; ours is computed in the kernel from
    # `last_S`, which takes the place of the query numbers.
    info = infos.MaskInfo(None, None, None, None, q_sequence=last_S)
    kernel = lib.SplashAttentionKernel(
      info,
      info,
      info,
      block_sizes=sizes,
      is_mqa=False,
      save_residuals=False,
      mask_value=_MASKED_LOGIT,
      attn_logits_soft_cap=softcap or None,
      residual_checkpoint_name=None,
      mask_function=None if mask is None else lambda last_seen, key: key <= last_seen,
      interpret=interpret,
    )
    return kernel(q_NSH, k_KSH, v_KSH, segments)

  return run


def _cut(local: Any, mesh: Mesh, num_heads: int, num_kv_heads: int, *, masked: bool) -> Any:
  """`local` on each device's rows, and on its heads where the "tensor" axis divides them."""
  rows = tuple(name for name in mesh.axis_names if name != "tensor") or None
  parts = mesh.shape.get("tensor", 1)
  # All query heads may share one key head; else a device needs the key heads of its query heads.
  whole = parts == 1 or num_heads % parts or (num_kv_heads > 1 and num_kv_heads % parts)
  q_heads = None if whole else "tensor"
  kv_heads = q_heads if num_kv_heads % parts == 0 else None
  q_spec = PartitionSpec(rows, None, q_heads)
  kv_spec = PartitionSpec(rows, None, kv_heads)
  mask_spec = (PartitionSpec(rows),) * 2 if masked else None
  return jax.shard_map(
    local,
    mesh=mesh,
    in_specs=(q_spec, kv_spec, kv_spec, mask_spec),
    out_specs=q_spec,
    # Kernels do not declare which axes they vary over.
    check_vma=False,
  )


def _padded(x: jax.Array, length: int) -> jax.Array:
  """`x` with zeros behind dim 1 up to the length."""
  return jnp.pad(x, [(0, 0), (0, length - x.shape[1]), *[(0, 0)] * (x.ndim - 2)])
