"""Saving and restoring the state of a run: bytes per second, against orbax alone.

    python -m tools.bench.save --megabytes 400
    python -m tools.bench.save --path gs://my-bucket/bench

Both sides write the same random arrays, in turns, into a new folder each time, and read them back.
Ours is what a run does: the arrays by orbax, the seal with the checksums of all files, and before
reading the comparison of all files with it. `ours_waits_seconds` is for how long a save holds a run
up: until the state is in the host's memory. The emulator of the tests is a bucket, too:

    python -m tools.bench.save --emulator
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from paligemma_jax.checkpoint import manifest
from paligemma_jax.checkpoint import store
from paligemma_jax.core import atomic_io
from paligemma_jax.core import bucket
from paligemma_jax.core import process
from paligemma_jax.core import trees
from paligemma_jax.training import state as states

_ARRAY_BYTES = 32 << 20


def parser() -> argparse.ArgumentParser:
  made = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
  )
  made.add_argument("--path", default="", help="a folder, or gs://…, s3://… (default: temporary)")
  made.add_argument("--emulator", action="store_true", help="save to the tests' own store")
  made.add_argument("--megabytes", type=int, default=256, help="of the state")
  made.add_argument("--repeats", type=int, default=3)
  return made


def main() -> None:
  """Measures, and prints one JSON line."""
  args = parser().parse_args()
  num = max(1, (args.megabytes << 20) // _ARRAY_BYTES)
  rng = np.random.default_rng(0)
  shape = (_ARRAY_BYTES // 4096, 1024)
  state = states.TrainState(
    step=jax.numpy.int32(1),
    trainable={f"w{i}": jax.device_put(rng.random(shape, np.float32)) for i in range(num)},
    frozen={},
    opt_state=(),
  )
  secs: dict[str, list[float]] = {}
  before = _peak()
  with _folder(args) as root:
    for i in range(args.repeats + 1):
      sides = [("ours", _Ours), ("orbax", _Orbax)][:: 1 if i % 2 else -1]
      for name, make in sides:
        side = make(root / f"{name}{i}", state)
        for what in ("save", "restore"):
          took = _timed(getattr(side, what))
          if i:  # The first round warms up.
            secs.setdefault(f"{name}_{what}", []).append(took)
        if i and isinstance(side, _Ours):
          secs.setdefault("ours_waits", []).append(side.waited)
        side.close()
        atomic_io.remove(root / f"{name}{i}")
  size = num * _ARRAY_BYTES / 1e6
  medians = {name: statistics.median(values) for name, values in secs.items()}
  waits = {"ours_waits_seconds": round(medians.pop("ours_waits"), 3)}
  rates = {f"{name}_mb_per_second": round(size / s, 1) for name, s in sorted(medians.items())}
  ratios = {
    f"{what}_ratio": round(medians[f"orbax_{what}"] / medians[f"ours_{what}"], 3)
    for what in ("save", "restore")
  }
  more = {"megabytes": round(size), "added_peak_gb": round((_peak() - before) / 1e9, 3)}
  print(json.dumps({"name": "save", **rates, **ratios, **waits, **more, "runs": args.repeats}))


class _Ours:
  """A run's checkpoints.

  waited: seconds until the run goes on after it asked for a save.
  """

  waited = 0.0

  def __init__(self, folder: Any, state: states.TrainState):
    self._state = state
    self._open = store.Checkpoints(folder, keep=1, best_mode="max", async_save=True, files={})
    self._new = store.Checkpoints(folder, keep=1, best_mode="max", async_save=False, files={})

  def save(self) -> None:
    self.waited = _timed(lambda: self._open.save(self._state))
    self._open.wait()

  def restore(self) -> Any:
    return self._new.restore(_abstract(self._state))

  def close(self) -> None:
    self._open.close()
    self._new.close()


class _Orbax:
  """The same arrays, written and read by orbax with nothing around it."""

  def __init__(self, folder: Any, state: states.TrainState):
    self._path, self._arrays = (
      folder / "state",
      trees.unflatten({"step": state.step, **state.trainable}),
    )
    self._writer = manifest.checkpointer()

  def save(self) -> None:
    import orbax.checkpoint as ocp

    self._writer.save(self._path, args=ocp.args.PyTreeSave(self._arrays))
    self._writer.wait_until_finished()

  def restore(self) -> Any:
    import orbax.checkpoint as ocp

    wanted = _abstract(self._arrays)
    args = ocp.args.PyTreeRestore(
      item=wanted, restore_args=ocp.checkpoint_utils.construct_restore_args(wanted)
    )
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
      return reader.restore(self._path, args=args)

  def close(self) -> None:
    self._writer.close()


def _abstract(tree: Any) -> Any:
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


@contextlib.contextmanager
def _folder(args: argparse.Namespace) -> Iterator[Any]:
  with contextlib.ExitStack() as stack:
    if args.emulator:
      from tests import bucket_client

      stack.enter_context(bucket_client.running())
      yield bucket.path("gs://test-bucket/bench")
    elif args.path:
      yield bucket.place(args.path) / "bench_save"
    else:
      yield bucket.place(stack.enter_context(tempfile.TemporaryDirectory()))


def _timed(work: Callable[[], Any]) -> float:
  begin = time.perf_counter()
  jax.block_until_ready(work())
  return time.perf_counter() - begin


def _peak() -> int:
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
  process.use_huge_pages()  # As `train` does.
  main()
