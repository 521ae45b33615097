"""Random parameters of any model: quantized or not, with adapters or without."""

import numpy as np

from paligemma_jax.models import paligemma


def make(model_config, *, size, adapter_size, scale, magnitude):
  """{name: array}, always the same ones for the same arguments.

  Args:
    size, adapter_size: standard deviations of parameters and of adapters.
    scale: least and greatest of what the largest code of a quantized matrix stands for.
    magnitude: least and greatest of DoRA's lengths.
  """
  rng = np.random.default_rng(0)
  params = {}
  for name, leaf in paligemma.param_shapes(model_config).items():
    if leaf.dtype != np.float32:
      info = np.iinfo(leaf.dtype)
      params[name] = rng.integers(info.min + 1, info.max, leaf.shape, leaf.dtype, endpoint=True)
    elif paligemma.is_quantized(name):
      top = {"nf4": 1, "int4": 7, "int8": 127}[model_config.quantize]
      params[name] = rng.uniform(*scale, leaf.shape).astype(np.float32) / top
    elif "magnitude" in name:
      params[name] = rng.uniform(*magnitude, leaf.shape).astype(np.float32)
    else:
      std = adapter_size if "lora_" in name else size
      params[name] = std * rng.normal(size=leaf.shape).astype(np.float32)
  return params
