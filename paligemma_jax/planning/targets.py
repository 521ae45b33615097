"""The devices that `plan` knows: how to compile for them without having one, and their limits.

FLOP/s are for dense bfloat16 matmuls (float32 where the chip has no bfloat16), links one way, all
from the makers' data sheets. The memory that a TPU program may use is from the compiler's messages.
"""

from __future__ import annotations

import dataclasses
import re

from paligemma_jax.core import errors


@dataclasses.dataclass(frozen=True)
class Target:
  """Some chips of one kind; the figures are those of one chip, 0 is unknown.

  platform: "tpu", "cuda" or "local" (the devices of this machine, found by JAX).
  kind: as JAX names the device.
  memory_bytes: what one program may use; of a card all of it, of which JAX takes a share.
  notes: what a reader of the figures should know.
  name: as the user writes it.
  num_chips: of all hosts; 0 for "local", where JAX counts them.
  num_hosts: processes of JAX, each with as many chips.
  num_slices: of TPU chips with links among them; a network connects slices.
  topology: the compiler's name, of one slice; "" for "local".
  """

  platform: str
  kind: str = ""
  memory_bytes: int = 0
  flops_per_sec: float = 0.0
  memory_bytes_per_sec: float = 0.0
  link_bytes_per_sec: float = 0.0
  notes: str = ""
  name: str = "local"
  num_chips: int = 0
  num_hosts: int = 1
  num_slices: int = 1
  topology: str = ""


@dataclasses.dataclass(frozen=True)
class _Gpu:
  """An NVIDIA card: its figures, and what the compiler asks of it."""

  card: Target  # Its memory is the card's, less what the driver keeps.
  capability: tuple[int, int]
  multiprocessors: int
  l2_bytes: int
  shared_bytes: int  # Per multiprocessor.
  threads: int  # Per multiprocessor.
  clock_ghz: float


# By generation, from https://cloud.google.com/tpu/docs/v5e, …/v5p and …/v6e.
_TPUS = {
  "v5e": Target("tpu", "TPU v5 lite", 16_911_433_728, 197e12, 819e9, 200e9),
  "v5p": Target("tpu", "TPU v5", 102_800_042_230, 459e12, 2765e9, 600e9),
  "v6e": Target("tpu", "TPU v6 lite", 33_554_432_000, 918e12, 1640e9, 400e9),
}
# Their names count "cores", two per chip, and they form a torus of three dimensions.
_TPUS_IN_3D = ("v5p",)

# FLOP/s are without sparsity, half of the figure with it. From
# https://www.nvidia.com/en-us/data-center/h100, …/h200, …/a100, …/l4 and …/tesla-t4.
_GPUS = {
  "h100": _Gpu(
      Target("cuda", "NVIDIA H100 80GB HBM3", 84942979072, 989e12, 3352e9, 450e9), (9, 0), 132,
      52428800, 233472, 2048, 1.98,
  ),
  "h200": _Gpu(
      Target("cuda", "NVIDIA H200", 150109880320, 989e12, 4800e9, 450e9), (9, 0), 132,
      52428800, 233472, 2048, 1.98,
  ),
  "a100": _Gpu(
      Target("cuda", "NVIDIA A100-SXM4-80GB", 85097971712, 312e12, 2039e9, 300e9), (8, 0), 108,
      41943040, 167936, 2048, 1.41,
  ),
  "a100-40": _Gpu(
      Target("cuda", "NVIDIA A100-SXM4-40GB", 42298834944, 312e12, 1555e9, 300e9), (8, 0), 108,
      41943040, 167936, 2048, 1.41,
  ),
  "l4": _Gpu(
      Target("cuda", "NVIDIA L4", 23580639232, 121e12, 300e9, 32e9), (8, 9), 58,
      50331648, 102400, 1536, 2.04,
  ),
  "t4": _Gpu(
      Target("cuda", "Tesla T4", 15655829504, 8.1e12, 320e9, 16e9,
             "A T4 has no bfloat16 units: matmuls run in float32, at 8.1 TFLOP/s."), (7, 5), 40,
      4194304, 65536, 1024, 1.59,
  ),
}  # fmt: skip

_CARDS_OF_A_NODE = 8

EXAMPLES = ("local", "v5e-1", "v5e-4", "v5e-8", "v5p-8", "v6e-8", "h100", "h100x8", "l4", "t4")


def get(name: str, num_hosts: int = 0) -> Target:
  """The target that a name means: 'local', 'v5e-8', 'v5e-16x2' (2 slices), 'h100x8' (8 cards), ….

  Args:
    num_hosts: that the chips are spread over. 0 is what Google Cloud starts (VMs of 4 chips, up to
      8 chips one VM), and nodes of 8 cards.

  Raises:
    ConfigError: no such device, or a number of chips or hosts that it does not come in.
  """
  if name == "local":
    if num_hosts:
      raise errors.ConfigError(f"--hosts {num_hosts}: JAX counts the hosts of --on local.")
    return Target("local")
  match = re.fullmatch(r"(v\d[a-z]*)-(\d+)(?:x(\d+))?", name)
  if match and match[1] in _TPUS:
    return _tpu(name, match[1], int(match[2]), int(match[3] or 1), num_hosts)
  match = re.fullmatch(r"([a-z]\d+(?:-40)?)(?:-\d+g)?(?:x(\d+))?", name.lower())
  if match and match[1] in _GPUS:
    num_chips = int(match[2] or 1)
    num_hosts = num_hosts or -(-num_chips // _CARDS_OF_A_NODE)
    if num_chips < 1 or num_chips % num_hosts:
      raise errors.ConfigError(
        f"--on {name}: {num_chips} cards do not divide over {num_hosts} hosts; use another number"
        " of cards, or --hosts."
      )
    return dataclasses.replace(
      _GPUS[match[1]].card,
      name=name,
      num_chips=num_chips,
      num_hosts=num_hosts,
      topology=match[1],
    )
  raise errors.ConfigError(
    f"Unknown device {name!r} for --on.{errors.did_you_mean(name, EXAMPLES)} TPU slices are"
    f" written as in v5e-8 ({', '.join(_TPUS)}), cards as in h100 or h100x8 ({', '.join(_GPUS)})."
  )


def bfloat16_peak(device_kind: str) -> float | None:
  """Dense bfloat16 FLOP/s of a device by its maker's data sheet; None where none gives it.

  Args:
    device_kind: as JAX names it.
  """
  # A T4, of capability 7.5, has no bfloat16 units.
  able = [gpu.card for gpu in _GPUS.values() if gpu.capability >= (8, 0)]
  peaks = {chip.kind: chip.flops_per_sec for chip in (*_TPUS.values(), *able)}
  return peaks.get(device_kind)


def _tpu(name: str, generation: str, count: int, num_slices: int, num_hosts: int) -> Target:
  cores, dims = (2, 3) if generation in _TPUS_IN_3D else (1, 2)
  chips, left = divmod(count, cores)
  if left or chips & (chips - 1) or chips < 1 or (dims == 3 and chips < 4) or num_slices < 1:
    raise errors.ConfigError(
      f"--on {name}: {generation} slices come in powers of two"
      f"{' from v5p-8 on; the number counts two cores per chip' if cores == 2 else ''}."
    )
  of_a_host = (4,) if dims == 3 else (8, 4, 1)
  if not num_hosts:
    num_hosts = num_slices * (max(chips // 4, 1) if chips != 8 or dims == 3 else 1)
  elif num_slices * chips not in [num_hosts * per_host for per_host in of_a_host]:
    raise errors.ConfigError(
      f"--hosts {num_hosts}: {name} has {num_slices * chips} chips; hosts of {generation} have"
      f" {' or '.join(map(str, of_a_host))} each."
    )
  # The torus is as even as powers of two allow: 8 is 2x4, or 2x2x2.
  sides = [1] * dims
  for i in range(chips.bit_length() - 1):
    sides[-1 - i % dims] *= 2
  topology = "x".join(map(str, sorted(sides, reverse=dims == 3)))
  return dataclasses.replace(
    _TPUS[generation],
    name=name,
    num_chips=num_slices * chips,
    num_hosts=num_hosts,
    num_slices=num_slices,
    topology=f"{generation}:{topology}",
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
  memory_bandwidth: {round(gpu.card.memory_bytes_per_sec)} l2_cache_size: {gpu.l2_bytes}
  clock_rate_ghz: {gpu.clock_ghz} device_memory_size: {gpu.card.memory_bytes}
  cuda_compute_capability {{ major: {major} minor: {minor} }}
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  runtime_version: "12.8.0" driver_version: "13.0.0" compile_time_toolkit_version: "12.8.0"
  dnn_version: "9.10.0" name: "{gpu.card.kind}"
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
runtime_version {{ major: 12 minor: 8 patch: 0 }}
device_description_str: "{gpu.card.kind}"
"""
