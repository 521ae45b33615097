"""Meshes, where parameters lie, and that eight devices train as one does."""

import json
import pathlib
import subprocess
import sys
import types

import jax
import numpy as np
import pytest

from paligemma_jax.core import errors
from paligemma_jax.models import paligemma
from paligemma_jax.models import variants
from paligemma_jax.training import sharding
from tests import virtual_devices


def _mesh_shape(*shape):
  return types.SimpleNamespace(shape=shape)


@pytest.fixture(scope="module")
def eight_devices(tmp_path_factory, gcs_server):
  """What sharding_run.py found, in a process of its own with 8 virtual devices."""
  root = pathlib.Path(__file__).resolve().parents[2]
  env = virtual_devices.environment(8, PYTHONPATH=str(root))
  gcs_server.plan()
  folders = [str(tmp_path_factory.mktemp("state")), "gs://test-bucket/sharding_test/state"]
  found = subprocess.run(
    [sys.executable, "-m", "tests.training.sharding_run", *folders],
    cwd=root,
    env=env,
    capture_output=True,
    text=True,
    timeout=900,
    check=False,
  )
  assert found.returncode == 0, found.stderr[-3000:]
  return json.loads(found.stdout.splitlines()[-1])


def test_eight_devices_have_the_losses_of_one(eight_devices):
  runs = eight_devices["runs"]
  for name in ("fsdp 8", "all axes"):
    np.testing.assert_allclose(runs[name]["losses"], runs["one"]["losses"], rtol=1e-5, atol=0)
  assert runs["one"]["losses"][-1] < runs["one"]["losses"][0]


def test_parameters_and_moments_are_cut(eight_devices):
  runs = eight_devices["runs"]
  assert runs["one"]["table_share"] == [1, 1]
  assert runs["fsdp 8"]["table_share"] == [1 / 8, 1 / 8]
  assert runs["all axes"]["table_share"] == [1 / 4, 1 / 4]  # Whole on each of "data".


def test_no_device_computes_the_rows_of_another(eight_devices):
  """8 rows of 16 + 40 tokens: layers multiply 448 tokens where all rows come together."""
  runs = eight_devices["runs"]
  assert 448 in runs["one"]["product_dims"]
  assert 448 not in runs["fsdp 8"]["product_dims"]
  # The head multiplies an eighth of the 5248 words.
  assert 656 in runs["fsdp 8"]["product_dims"] and 5248 not in runs["fsdp 8"]["product_dims"]


def test_a_layers_products_are_cut_over_tensor(eight_devices):
  """Of 128 hidden units 64 to a device, of 5248 words 1312; 2 of 8 rows, of 56 tokens each."""
  one, dims = (set(eight_devices["runs"][name]["product_dims"]) for name in ("one", "all axes"))
  assert {448, 128, 5248} <= one
  assert not {448, 128, 5248} & dims
  assert {112, 64, 1312} <= dims


def test_state_restores_in_bits_on_every_other_mesh(eight_devices):
  on_disk, in_bucket = eight_devices["restored"].values()
  assert len(on_disk) == len(in_bucket) == 5
  assert all(on_disk.values()) and all(in_bucket.values())


def test_the_layer_dim_is_never_cut_and_every_large_leaf_is():
  model_config = variants.get("paligemma_3b", res=224)
  # 18 layers divide by 2, and would be the wrong dim to cut.
  mesh = jax.sharding.AbstractMesh((2,), ("fsdp",))
  shapes = paligemma.param_shapes(model_config)
  for name, place in sharding.param_shardings(shapes, mesh).items():
    scanned = name.startswith(("llm/layers/", "img/Transformer/encoderblock/"))
    if scanned and len(place.spec):
      assert place.spec[0] is None, name
    if np.prod(shapes[name].shape) > 10**6:
      assert "fsdp" in place.spec, name
  table = sharding.param_shardings(shapes, mesh)["llm/embedder/input_embedding"]
  assert table.spec == jax.sharding.PartitionSpec("fsdp")


_MESHES = [(1, 8), (2, 4), (4, 2), (8, 1)]


@pytest.mark.parametrize("variant", [name for name in variants.VARIANTS if name != "tiny"])
@pytest.mark.parametrize("fsdp, tensor", _MESHES)
def test_every_size_is_cut_over_fsdp_and_tensor(variant, fsdp, tensor):
  mesh = jax.sharding.AbstractMesh((fsdp, tensor), ("fsdp", "tensor"))
  shapes = paligemma.param_shapes(variants.get(variant, res=224))
  places = sharding.param_shardings(shapes, mesh)
  kept = 0
  for name, place in places.items():
    kept += np.prod(place.shard_shape(shapes[name].shape))
    if name.startswith(("llm/layers/", "img/Transformer/encoderblock/")):
      assert not place.spec or place.spec[0] is None, name
    for end in ("mlp/gating_einsum", "mlp/linear", "attn/q_einsum/w", "attn/attn_vec_einsum/w"):
      if name.endswith(end):
        assert tensor == 1 or "tensor" in place.spec, name
  # What lies whole is norms, biases, and 4 key heads where 8 parts are asked for.
  assert kept <= (1.3 if tensor == 8 else 1.06) / 8 * sum(np.prod(s.shape) for s in shapes.values())
  table = places["llm/embedder/input_embedding"]
  assert table.shard_shape((257152, 8)) == (257152 // 8, 8)
  logits = sharding.logits_sharding(257152, 8, mesh)
  assert logits.shard_shape((8, 1, 257152)) == (8, 1, 257152 // 8)


def test_rows_are_not_cut_over_tensor():
  mesh = jax.sharding.AbstractMesh((2, 2, 2), ("data", "fsdp", "tensor"))
  assert sharding.num_row_shards(mesh) == 4
  assert sharding.batch_sharding(mesh).shard_shape((8, 3)) == (2, 3)
  sharding.check_batch(4, mesh, grad_accum_steps=1, what="train.batch_size")
  with pytest.raises(errors.ConfigError, match=r"the mesh's 4 shards of rows.* for instance 8"):
    sharding.check_batch(6, mesh, grad_accum_steps=1, what="train.batch_size")


def test_leaves_that_do_not_divide_are_whole():
  mesh = jax.sharding.AbstractMesh((8,), ("fsdp",))
  shapes = {
    "llm/final_norm/scale": np.zeros(30001),
    "llm/layers/mlp/linear": np.zeros((8, 101, 103)),
  }
  for place in sharding.param_shardings(shapes, mesh).values():
    assert place.spec == jax.sharding.PartitionSpec()


@pytest.mark.parametrize(
  "shape, message",
  [
    ((("fdsp", -1),), "Unknown axis of mesh.shape 'fdsp'. Did you mean 'fsdp'"),
    ((("fsdp", 3),), r"needs 3 devices; there are 1"),
    ((("data", -1), ("fsdp", -1)), "one size at most -1"),
    ((("data", 2), ("fsdp", -1)), "needs a multiple of 2 devices; there are 1"),
    ((("fsdp", 0),), "no size 0"),
  ],
)
def test_meshes_that_cannot_be_are_errors(shape, message):
  with pytest.raises(errors.ConfigError, match=message):
    sharding.make_mesh(_mesh_shape(*shape), devices=jax.devices()[:1])


def test_hosts_with_different_numbers_of_devices_are_an_error():
  devices = [types.SimpleNamespace(process_index=i) for i in (0, 1, 1)]
  with pytest.raises(errors.ConfigError, match="there are 1 on host 0, 2 on host 1"):
    sharding.make_mesh(_mesh_shape(), devices=devices)
