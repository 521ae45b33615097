"""What devices can do by their makers' data sheets, which `mfu` divides by."""

from __future__ import annotations

# device kind, as JAX names it: (dense bfloat16 FLOP/s, where the maker says so)
BFLOAT16_PEAKS = {
  "NVIDIA H200": (989e12, "https://www.nvidia.com/en-us/data-center/h200/ (half of the sparse)"),
  "NVIDIA H100 80GB HBM3": (989e12, "https://www.nvidia.com/en-us/data-center/h100/"),
  "NVIDIA A100-SXM4-80GB": (312e12, "https://www.nvidia.com/en-us/data-center/a100/"),
  "NVIDIA A100-SXM4-40GB": (312e12, "https://www.nvidia.com/en-us/data-center/a100/"),
  "NVIDIA L4": (121e12, "https://www.nvidia.com/en-us/data-center/l4/ (half of the sparse)"),
  "TPU v5 lite": (197e12, "https://cloud.google.com/tpu/docs/v5e"),
  "TPU v5": (459e12, "https://cloud.google.com/tpu/docs/v5p"),
  "TPU v6 lite": (918e12, "https://cloud.google.com/tpu/docs/v6e"),
}


def peak(device_kind: str, dtype: str) -> float | None:
  """Dense FLOP/s of one device in `dtype`; None where no data sheet gives it (CPUs, float32)."""
  found = BFLOAT16_PEAKS.get(device_kind)
  return found[0] if found and dtype == "bfloat16" else None
