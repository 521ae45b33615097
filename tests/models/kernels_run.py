"""With 4 virtual devices: the kernel on a mesh against plain attention, prints differences."""

import json

import jax
import numpy as np
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec

from paligemma_jax.models import kernels
from tests.models import kernels_test


def main():
  found = {}
  for num_kv_heads in (1, 2):
    *arrays, weights = kernels_test.qkv(2, 40, 4, num_kv_heads, 8)
    mask = kernels_test.prefixes(2, 40)
    want = kernels_test.values_and_gradients(kernels_test.plainly(mask), *arrays, weights)
    mesh = Mesh(np.array(jax.devices()).reshape(2, 2), ("fsdp", "tensor"))
    rows = NamedSharding(mesh, PartitionSpec("fsdp"))
    arrays = [jax.device_put(x, rows) for x in arrays]

    def attend(q, k, v, mask=mask, mesh=mesh):
      with kernels.on(mesh):
        return kernels_test.by_kernel(mask)(q, k, v)

    got = kernels_test.values_and_gradients(attend, *arrays, weights)
    found[f"{num_kv_heads} key heads"] = [
      float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in zip(got, want, strict=True)
    ]
  print(json.dumps(found))


if __name__ == "__main__":
  main()
