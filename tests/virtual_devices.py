"""Environments in which one CPU stands for several devices."""

import os


def environment(num_devices, **more):
  """What a process needs in its environment to see `num_devices` devices; and the rest of ours.

  Without the threads of NPROC its collectives can wait for each other for ever, which
  `running.devices` explains; on a busy machine they may come minutes apart all the same.
  """
  flags = (
      f"--xla_force_host_platform_device_count={num_devices}"
      " --xla_cpu_collective_call_terminate_timeout_seconds=600"
  )
  return {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "NPROC": "64", **more}
