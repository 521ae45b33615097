"""Attention forward and backward: time, memory and error of each way to work it out, by length.

    python -m tools.bench.attention --device gpu --dtype bfloat16
    python -m tools.bench.attention --dtype float32 --res 224

A row of the table is one way (`model.attention`) for one tower at one resolution; memory is what
the compiled program takes beside its arguments. The error is that of outputs and gradients against
the plain way in float32, relative to the largest value, and shows what a kernel makes of the mask.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from typing import Any

import jax

from paligemma_jax.core import errors
from paligemma_jax.models import attention
from paligemma_jax.models import attention_mask
from paligemma_jax.models import variants
from tools.bench import compare

_WAYS = {"cpu": ("plain", "chunked", "rows"), "gpu": ("plain", "chunked", "flash")}
_TEXT_LEN = 32


def main() -> None:
  """Measures."""
  args = parser().parse_args()
  jax.config.update("jax_platforms", compare.ENVIRONMENT[args.device]["JAX_PLATFORMS"])
  for found in measured(args):
    print(json.dumps(found), flush=True)


def measured(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
  """One entry per tower, resolution and way that fits into memory."""
  sizes = variants.get(args.variant, res=224)
  img, llm = sizes.img, sizes.llm
  towers = {
    "decoder": (llm.num_heads, llm.num_kv_heads, llm.head_dim, _TEXT_LEN),
    "tower": (img.num_heads, img.num_heads, img.width // img.num_heads, 0),
  }
  for res in args.res:
    for tower, (num_heads, num_kv_heads, head_dim, text_len) in towers.items():
      length = (res // img.patch_size) ** 2 + text_len
      given, mask = _inputs(args.batch_size, length, num_heads, num_kv_heads, head_dim, text_len)
      wanted = None
      if length <= args.check_up_to:
        with jax.default_matmul_precision("highest"):
          wanted = _gradients("plain", mask)(*given)
      given = [x.astype(args.dtype) for x in given]
      for implementation in _WAYS[args.device]:
        try:
          found = _timed(_gradients(implementation, mask), given, wanted, args.repeats)
        except jax.errors.JaxRuntimeError as e:
          compare.note(f"{tower} {res} {implementation}: {str(e).splitlines()[0]}")
          continue
        case = {
          "name": "attention",
          "tower": tower,
          "res": res,
          "length": length,
          "how": implementation,
        }
        yield case | found


def _inputs(batch_size, length, num_heads, num_kv_heads, head_dim, text_len):
  """Queries (scaled), keys, values and the output's gradient; who sees whom, None for all."""
  shapes = [(batch_size, length, n, head_dim) for n in (num_heads, num_kv_heads, num_kv_heads)]
  keys = jax.random.split(jax.random.key(0), 4)
  q, k, v, y_grad = (
    jax.random.normal(key, shape) for key, shape in zip(keys, [*shapes, shapes[0]], strict=True)
  )
  mask = None
  if text_len:
    mask_ar = jax.numpy.zeros((batch_size, length), "int32").at[:, -text_len // 4 :].set(1)
    mask = attention_mask.prefix_lm(mask_ar)
  return (q * head_dim**-0.5, k, v, y_grad), mask


def _gradients(implementation, mask):
  """(q, k, v, the output's gradient) -> output and gradients of q, k, v."""

  def run(q, k, v, y_grad):
    y, back = jax.vjp(
      lambda *qkv: attention.attend(*qkv, mask, implementation=implementation), q, k, v
    )
    return y, *back(y_grad)

  return jax.jit(run)


def _timed(jitted, given, wanted, repeats):
  program = jitted.lower(*given).compile()
  got = jax.block_until_ready(program(*given))
  seconds = []
  for _ in range(repeats):
    start = time.perf_counter()
    jax.block_until_ready(program(*given))
    seconds.append(time.perf_counter() - start)
  errors_found = None
  if wanted is not None:
    errors_found = [_error(*pair) for pair in zip(got, wanted, strict=True)]
  return {
    "ms": round(1e3 * statistics.median(seconds), 3),
    "temporaries_mb": round(program.memory_analysis().temp_size_in_bytes / 1e6, 1),
    "error": errors_found,
    "device": jax.devices()[0].device_kind,
  }


def _error(got, wanted):
  difference = abs(got.astype("float32") - wanted).max() / abs(wanted).max()
  return float(f"{difference:.2g}")


def parser() -> argparse.ArgumentParser:
  """The options."""
  made = argparse.ArgumentParser(
    description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
  )
  compare.add_device(made)
  made.add_argument("--variant", default="paligemma_3b", choices=sorted(variants.VARIANTS))
  made.add_argument("--res", type=int, nargs="+", default=[224, 448, 896])
  made.add_argument("--batch_size", type=int, default=8)
  made.add_argument("--repeats", type=int, default=10)
  made.add_argument(
    "--check_up_to", type=int, default=2000, help="lengths that are compared with float32"
  )
  return made


if __name__ == "__main__":
  errors.run_main(main)
