"""Environments in which one CPU stands for several devices."""

import os


def environment(num_devices, **more):
  """What a process needs in its environment to see `num_devices` devices; and the rest of ours.

  `trainer.devices` explains why NPROC must be large for several devices and 1 for one device among
  several processes; on a busy machine their collectives may come minutes apart all the same.
  """
  flags = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={num_devices}"
    " --xla_cpu_collective_call_terminate_timeout_seconds=600"
  )
  threads = "64" if num_devices > 1 else "1"
  return {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "NPROC": threads, **more}
