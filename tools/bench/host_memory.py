"""Memory of a host of several beyond its share of the model, when it loads, saves and restores.

    python -m tools.bench.host_memory --model 3b --hosts 2
    python -m tools.bench.host_memory --model 3b --hosts 2 --emulator

The hosts are processes with four CPU devices each, over which all parameters, random bfloat16
numbers, are sharded. Here the devices' memory is the host's, so a host's share is subtracted once
while it loads and restores, and twice while it saves: on any device a save copies the share first.
The weights are in a temporary folder; so is the state or, with --emulator, in the tests' own store.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

_DEVICES = 4  # Of each host.
_PHASES = ("load and save", "restore")


def parser() -> argparse.ArgumentParser:
  made = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
  )
  made.add_argument("--model", default="mid", choices=("tiny", "mid", "3b"))
  made.add_argument("--hosts", type=int, default=2)
  made.add_argument("--emulator", action="store_true", help="the state is in a bucket")
  made.add_argument("--folder", default="", help="of temporary files (default: the system's)")
  made.add_argument("--phase", default="", help=argparse.SUPPRESS)
  made.add_argument("--weights", default="", help=argparse.SUPPRESS)
  made.add_argument("--state", default="", help=argparse.SUPPRESS)
  return made


def main() -> None:
  """Measures; prints one JSON line."""
  args = parser().parse_args()
  if args.phase:
    print(json.dumps(_host(args.weights, args.state, args.phase)), flush=True)
    return
  with _written(args) as paths:
    found: dict[str, Any] = {}
    for phase in _PHASES:
      lines = _on_hosts(args, paths, phase)
      found |= {key: max(line[key] for line in lines) for key in lines[0]}
  facts = {"model": args.model, "hosts": args.hosts, "state_in_bucket": args.emulator}
  print(json.dumps({"name": "host_memory", **facts, **found}))


@contextlib.contextmanager
def _written(args: argparse.Namespace) -> Iterator[tuple[str, str]]:
  """The file of weights, and the folder for the state; all is removed in the end."""
  with contextlib.ExitStack() as stack:
    folder = stack.enter_context(tempfile.TemporaryDirectory(dir=args.folder or None))
    command = [sys.executable, "-m", "tools.bench.weights", args.model, folder]
    subprocess.run(command, check=True, stdout=sys.stderr)  # Its memory is free afterwards.
    state = f"{folder}/checkpoints"
    if args.emulator:
      from tests import bucket_client

      stack.enter_context(bucket_client.running())
      state = "gs://test-bucket/checkpoints"
    yield f"{folder}/params.npz", state


def _on_hosts(args: argparse.Namespace, paths: tuple[str, str], phase: str) -> list[dict[str, Any]]:
  from paligemma_jax.multihost import channel

  address = f"127.0.0.1:{channel.free_port()}"
  command = [sys.executable, "-m", "tools.bench.host_memory", f"--model={args.model}"]
  processes = []
  for i in range(args.hosts):
    env = {
      **os.environ,
      "JAX_COORDINATOR_ADDRESS": address,
      "JAX_NUM_PROCESSES": str(args.hosts),
      "JAX_PROCESS_ID": str(i),
      "JAX_PLATFORMS": "cpu",
      "XLA_FLAGS": f"--xla_force_host_platform_device_count={_DEVICES}",
    }
    told = [*command, f"--weights={paths[0]}", f"--state={paths[1]}", f"--phase={phase}"]
    processes.append(subprocess.Popen(told, env=env, stdout=subprocess.PIPE, text=True))
  lines = [process.communicate()[0] for process in processes]
  if any(process.returncode for process in processes):
    raise SystemExit("a host failed; its error is above")
  return [json.loads(text.splitlines()[-1]) for text in lines]


def _host(path: str, folder: str, phase: str) -> dict[str, Any]:
  """What one host does in a phase: gigabytes beyond its share, and seconds, of each part."""
  import jax

  from paligemma_jax.checkpoint import load
  from paligemma_jax.checkpoint import npz
  from paligemma_jax.checkpoint import shared_reading
  from paligemma_jax.checkpoint import store
  from paligemma_jax.core import bucket
  from paligemma_jax.trainer import devices
  from paligemma_jax.training import sharding
  from paligemma_jax.training import state as states

  team = devices.start()
  assert team is not None
  mesh = jax.make_mesh((jax.device_count(),), ("fsdp",))
  weights = npz.open_npz(path)
  places = sharding.param_shardings(weights.entries, mesh)
  checkpoints = store.Checkpoints(
    bucket.path(folder),
    keep=1,
    best_mode="max",
    async_save=False,
    files={},
    gather=team.gather,
  )
  step = jax.device_put(jax.numpy.int32(1), sharding.replicated(mesh))
  found: dict[str, Any] = {}
  with _Measured(found, "load" if phase == _PHASES[0] else "restore") as measured:
    if phase == _PHASES[0]:
      fill = shared_reading.of_hosts(mesh)
      params = load.load_params(weights, weights.entries, dtype=None, shardings=places, fill=fill)
      state = states.TrainState(step, params, {}, ())
    else:
      target = {
        name: jax.ShapeDtypeStruct(e.shape, e.dtype, sharding=places[name])
        for name, e in weights.entries.items()
      }
      restored = checkpoints.restore(states.TrainState(step, target, {}, ()))
      assert restored is not None
      state = restored
    shards = (s for leaf in state.trainable.values() for s in leaf.addressable_shards)
    share = sum(shard.data.nbytes for shard in shards)
    measured.share = share
  if phase == _PHASES[0]:
    with _Measured(found, "save", share=share):  # The arrays are there already.
      checkpoints.save(state)
      checkpoints.wait()
  checkpoints.close()
  team.finish()
  return {"share_gb": round(share / 1e9, 3), **found}


class _Measured:
  """Notes the seconds of a block, and how much its peak of memory was above its begin and share."""

  def __init__(self, found: dict[str, Any], name: str, share: int = 0):
    self._found, self._name, self.share = found, name, share

  def __enter__(self) -> _Measured:
    pathlib.Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # The peak begins anew.
    self._begin, self._before = time.perf_counter(), _memory("VmRSS")
    return self

  def __exit__(self, *exception: object) -> None:
    beyond = _memory("VmHWM") - self._before - self.share
    self._found[f"{self._name}_beyond_gb"] = round(beyond / 1e9, 3)
    self._found[f"{self._name}_seconds"] = round(time.perf_counter() - self._begin, 1)


def _memory(key: str) -> int:
  """Bytes of this process by a line of Linux's status file."""
  lines = pathlib.Path("/proc/self/status").read_text(encoding="ascii").splitlines()
  return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{key}:"))


if __name__ == "__main__":
  from paligemma_jax.core import process

  process.use_huge_pages()  # As `train` does.
  main()
