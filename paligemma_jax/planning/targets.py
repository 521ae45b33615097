"""The devices that `plan` knows: how to compile for them without having one, and their limits.

FLOP/s are for dense bfloat16 matmuls (float32 where the chip has no bfloat16), links one way, all
from the makers' data sheets. The memory that a TPU program may use is from the compiler's messages.
"""

from __future__ import annotations

import dataclasses
import math
import re

from paligemma_jax.core import errors


@dataclasses.dataclass(frozen=True)
class Target:
  """Some chips of one kind; the figures are those of one chip, 0 is unknown.

  platform: "tpu", "cuda" or "local" (the devices of this machine, found by JAX).
  name: as the user writes it.
  num_chips: 0 for "local", where JAX counts them.
  topology: the compiler's name; "" for "local".
  memory_bytes: what one program may use.
  notes: what a reader of the figures should know.
  """

  platform: str
  name: str
  num_chips: int
  topology: str = ""
  memory_bytes: int = 0
  flops_per_sec: float = 0.0
  memory_bytes_per_sec: float = 0.0
  link_bytes_per_sec: float = 0.0
  notes: str = ""


@dataclasses.dataclass(frozen=True)
class _Tpu:
  """A TPU generation, per chip: memory of a program; FLOPs, memory and link bytes a second.

  kind: as JAX names the device.
  source: of the FLOPs.
  cores: how many "cores" its names count per chip: v5p-8 has 4 chips.
  dims: of its topology.
  """

  kind: str
  source: str
  memory_gib: float
  flops: float
  memory_rate: float
  link_rate: float
  cores: int = 1
  dims: int = 2


@dataclasses.dataclass(frozen=True)
class _Gpu:
  """An NVIDIA card: what the compiler asks of it, and its speeds.

  label: as JAX names the device.
  source: of the FLOPs, which are dense: half of the figure with sparsity.
  """

  label: str
  capability: tuple[int, int]
  multiprocessors: int
  memory_bytes: int  # That programs get: the card's, less what the driver keeps.
  flops: float
  memory_rate: float
  link_rate: float
  l2_bytes: int
  shared_bytes: int  # Per multiprocessor.
  threads: int  # Per multiprocessor.
  clock_ghz: float
  source: str
  notes: str = ""


_CLOUD = "https://cloud.google.com/tpu/docs"
_NVIDIA = "https://www.nvidia.com/en-us/data-center"

_TPUS = {
  "v5e": _Tpu("TPU v5 lite", f"{_CLOUD}/v5e", 15.75, 197e12, 819e9, 200e9),
  "v5p": _Tpu("TPU v5", f"{_CLOUD}/v5p", 95.74, 459e12, 2765e9, 600e9, cores=2, dims=3),
  "v6e": _Tpu("TPU v6 lite", f"{_CLOUD}/v6e", 31.25, 918e12, 1640e9, 400e9),
}

_GPUS = {
  "h100": _Gpu(
      "NVIDIA H100 80GB HBM3", (9, 0), 132, 84942979072, 989e12, 3352e9, 450e9, 52428800, 233472,
      2048, 1.98, f"{_NVIDIA}/h100",
  ),
  "h200": _Gpu(
      "NVIDIA H200", (9, 0), 132, 150109880320, 989e12, 4800e9, 450e9, 52428800, 233472, 2048, 1.98,
      f"{_NVIDIA}/h200",
  ),
  "a100": _Gpu(
      "NVIDIA A100-SXM4-80GB", (8, 0), 108, 85097971712, 312e12, 2039e9, 300e9, 41943040, 167936,
      2048, 1.41, f"{_NVIDIA}/a100",
  ),
  "a100-40": _Gpu(
      "NVIDIA A100-SXM4-40GB", (8, 0), 108, 42298834944, 312e12, 1555e9, 300e9, 41943040, 167936,
      2048, 1.41, f"{_NVIDIA}/a100",
  ),
  "l4": _Gpu(
      "NVIDIA L4", (8, 9), 58, 23580639232, 121e12, 300e9, 32e9, 50331648, 102400, 1536, 2.04,
      f"{_NVIDIA}/l4",
  ),
  "t4": _Gpu(
      "Tesla T4", (7, 5), 40, 15655829504, 8.1e12, 320e9, 16e9, 4194304, 65536, 1024, 1.59,
      f"{_NVIDIA}/tesla-t4",
      notes="A T4 has no bfloat16 units: matmuls run in float32, at 8.1 TFLOP/s.",
  ),
}  # fmt: skip

# XLA's allocator keeps this share of a GPU for others unless told otherwise.
_GPU_SHARE = 0.92

EXAMPLES = ("local", "v5e-1", "v5e-4", "v5e-8", "v5p-8", "v6e-8", "h100", "h100x8", "l4", "t4")


def get(name: str) -> Target:
  """The target that a name means: 'local', 'v5e-8', 'v5p-8', 'h100', 'h100x8' (8 cards), ….

  Raises:
    ConfigError: no such device, or a number of chips that it does not come in.
  """
  if name == "local":
    return Target("local", name, 0)
  match = re.fullmatch(r"(v\d[a-z]*)-(\d+)", name)
  if match and match[1] in _TPUS:
    return _tpu(name, match[1], int(match[2]))
  match = re.fullmatch(r"([a-z]\d+(?:-40)?)(?:-\d+g)?(?:x(\d+))?", name.lower())
  if match and match[1] in _GPUS:
    return _gpu(name, match[1], int(match[2] or 1))
  raise errors.ConfigError(
    f"Unknown device {name!r} for --on.{errors.did_you_mean(name, EXAMPLES)} TPU slices are"
    f" written as in v5e-8 ({', '.join(_TPUS)}), cards as in h100 or h100x8 ({', '.join(_GPUS)})."
  )


def bfloat16_peak(device_kind: str) -> float | None:
  """Dense bfloat16 FLOP/s of a device by its maker's data sheet; None where none gives it.

  Args:
    device_kind: as JAX names it.
  """
  peaks = {tpu.kind: tpu.flops for tpu in _TPUS.values()}
  # A T4, of capability 7.5, has no bfloat16 units.
  peaks |= {gpu.label: gpu.flops for gpu in _GPUS.values() if gpu.capability >= (8, 0)}
  return peaks.get(device_kind)


def _tpu(name: str, generation: str, count: int) -> Target:
  tpu = _TPUS[generation]
  chips, left = divmod(count, tpu.cores)
  if left or chips & (chips - 1) or chips < 1 or (tpu.dims == 3 and chips < 4):
    raise errors.ConfigError(
      f"--on {name}: {generation} slices come in powers of two"
      f"{' from v5p-8 on; the number counts two cores per chip' if tpu.cores == 2 else ''}."
    )
  return Target(
    "tpu",
    name,
    chips,
    topology=f"{generation}:{'x'.join(str(side) for side in _sides(chips, tpu.dims))}",
    memory_bytes=round(tpu.memory_gib * 2**30),
    flops_per_sec=tpu.flops,
    memory_bytes_per_sec=tpu.memory_rate,
    link_bytes_per_sec=tpu.link_rate,
  )


def _sides(chips: int, dims: int) -> list[int]:
  """The sides of the torus, as even as powers of two allow: 8 is 2x4, or 2x2x2."""
  sides = [1] * dims
  for i in range(int(math.log2(chips))):
    sides[-1 - i % dims] *= 2
  return sorted(sides) if dims == 2 else sorted(sides, reverse=True)


def _gpu(name: str, card: str, count: int) -> Target:
  gpu = _GPUS[card]
  return Target(
    "cuda",
    name,
    count,
    topology=card,
    memory_bytes=round(gpu.memory_bytes * _GPU_SHARE),
    flops_per_sec=gpu.flops,
    memory_bytes_per_sec=gpu.memory_rate,
    link_bytes_per_sec=gpu.link_rate,
    notes=gpu.notes,
  )


def gpu_description(card: str) -> str:
  """What the CUDA compiler must know of a card that is not there, as a text proto."""
  gpu = errors.pick(_GPUS, card, "card")
  major, minor = gpu.capability
  # A block may have all of a multiprocessor's shared memory but 1 KiB; on Turing all of it.
  opt_in = gpu.shared_bytes - (1024 if major >= 8 else 0)
  return f"""gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32
  shared_memory_per_block: 49152 shared_memory_per_core: {gpu.shared_bytes}
  shared_memory_per_block_optin: {opt_in}
  threads_per_core_limit: {gpu.threads} core_count: {gpu.multiprocessors} fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  memory_bandwidth: {round(gpu.memory_rate)} l2_cache_size: {gpu.l2_bytes}
  clock_rate_ghz: {gpu.clock_ghz} device_memory_size: {gpu.memory_bytes}
  cuda_compute_capability {{ major: {major} minor: {minor} }}
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  runtime_version: "12.8.0" driver_version: "13.0.0" compile_time_toolkit_version: "12.8.0"
  dnn_version: "9.10.0" name: "{gpu.label}"
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
runtime_version {{ major: 12 minor: 8 patch: 0 }}
device_description_str: "{gpu.label}"
"""
