"""One of two hosts that load weights together: PORT INDEX PATH… A JSON line tells of each."""

import hashlib
import json
import sys

import jax
import numpy as np

from paligemma_jax.checkpoint import load
from paligemma_jax.checkpoint import opening
from paligemma_jax.checkpoint import reader
from paligemma_jax.checkpoint import shared_reading
from paligemma_jax.core import errors
from paligemma_jax.training import sharding


def load_all(path):
  """{shard: digest of its bytes} of this host, and how many bytes it read itself."""
  mesh = jax.make_mesh((1, 4), ("data", "fsdp"))
  weights = opening.open_weights(path)
  together, num_read = shared_reading.of_hosts(mesh), 0

  def fill(view, read):
    def counted(at, part):
      nonlocal num_read
      num_read += len(part)
      read(at, part)

    together(view, counted)

  places = sharding.param_shardings(weights.entries, mesh, min_size=8)
  params = load.load_params(weights, weights.entries, dtype=None, shardings=places, fill=fill)
  shards = {}
  for name, array in params.items():
    for shard in array.addressable_shards:
      raw = np.ascontiguousarray(shard.data).tobytes()
      shards[f"{name} {shard.index}"] = hashlib.sha256(raw).hexdigest()
  return {"shards": shards, "num_read": num_read}


def main(port, index, *paths):
  # So small that the smallest model is cut into parts.
  reader.BLOCK_BYTES, shared_reading._MIN_BYTES = 1000, 64
  shared_reading._MAX_BYTES, shared_reading._STEP_BYTES = 600, 4
  jax.distributed.initialize(f"127.0.0.1:{port}", 2, int(index))
  for path in paths:
    try:
      print(json.dumps(load_all(path)), flush=True)
    except errors.CheckpointError as e:
      print(json.dumps({"error": str(e)}), flush=True)


if __name__ == "__main__":
  main(*sys.argv[1:])
