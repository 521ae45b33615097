"""With 8 virtual devices: trains on one and on eight, moves state between meshes, prints JSON."""

import json
import re
import sys

import jax
import numpy as np

from paligemma_jax.checkpoint import manifest
from paligemma_jax.checkpoint import store
from paligemma_jax.core import bucket
from paligemma_jax.training import sharding
from paligemma_jax.training import state as states
from tests import golden_files
from tests.training import golden_model
from tests.training import toy_state
from tests.training.optim_section import optim


class _Shape:
  def __init__(self, *shape):
    self.shape = shape


def _batches():
  with np.load(golden_files.path("bv/train_batches.npz")) as f:
    keys = ("text", "mask_ar", "mask_loss")
    return [
      golden_model.real_rows({"image": f[f"image_u8_{i}"], **{k: f[f"{k}_{i}"] for k in keys}})
      for i in range(5)
    ]


def _train(mesh):
  start = golden_model.params("e2e")
  section = optim(lr=0.003, wd=0.001, warmup="1 step")
  made, trainable = golden_model.optimizer_for(section, start, total_steps=5)
  state, history, hlo = golden_model.train(
    golden_model.config("e2e"), start, made, trainable, _batches(), mesh=mesh
  )
  table = "llm/embedder/input_embedding"
  moment = state.opt_state["rule"].mu[table]
  return {
    "losses": [sums["loss"] for sums in history],
    "table_share": [
      leaf.addressable_shards[0].data.size / leaf.size for leaf in (state.trainable[table], moment)
    ],
    "product_dims": sorted(_product_dims(hlo)),
  }


def _product_dims(hlo):
  """All dims of results of matmuls, on one device."""
  shapes = re.findall(r"= \w+\[([\d,]*)\]\S* dot\(", hlo)
  return {int(dim) for shape in shapes for dim in shape.split(",") if dim}


def _restored_elsewhere(folder):
  """True where the state saved on 8 devices comes back bit-equal on another mesh."""
  options = dict(keep=1, best_mode="max", async_save=True, files={})
  # Arrays of several chunks, of which a shard is read at a time.
  manifest._CHUNK_BYTES, manifest._READ_BYTES = 500, 1
  eight = toy_state.mesh(jax.devices())
  saved = toy_state.advance(toy_state.make(eight))
  opened = store.Checkpoints(folder, **options)
  opened.save(saved)
  opened.wait()
  want = jax.tree.map(np.asarray, saved)
  found = {}
  two_by_two, copies = (("data", 2), ("fsdp", 2)), (("data", 8),)
  for num, shape in ((1, ()), (2, ()), (4, two_by_two), (8, copies), (8, ())):
    mesh = sharding.make_mesh(_Shape(*shape), devices=jax.devices()[:num])
    target = toy_state.target(mesh)
    state = opened.restore(target)
    toy_state.assert_equal(jax.tree.map(np.asarray, state), want)
    found[f"{num} {shape}"] = states.shardings(state) == states.shardings(target)
  opened.close()
  return found


def main(*folders):
  meshes = {
    "one": sharding.make_mesh(_Shape(), devices=jax.devices()[:1]),
    "fsdp 8": sharding.make_mesh(_Shape()),
    "all axes": sharding.make_mesh(_Shape(("data", 2), ("fsdp", 2), ("tensor", 2))),
  }
  runs = {name: _train(mesh) for name, mesh in meshes.items()}
  restored = {folder: _restored_elsewhere(bucket.path(folder)) for folder in folders}
  print(json.dumps({"runs": runs, "restored": restored}))


if __name__ == "__main__":
  main(*sys.argv[1:])
