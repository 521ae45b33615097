"""What a run costs: chip hours and, where the price of a chip is known, US dollars."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from paligemma_jax.planning import targets

# Of the data sheet's peak, where nothing was measured. docs/benchmarks_speed.md has 0.26 to 0.38
# for steps of PaliGemma 3B on one H200; no step of it was timed on a TPU.
ASSUMED_MFU = 0.3


@dataclasses.dataclass(frozen=True)
class Price:
  """US dollars for an hour of one chip, its host included; `source` says whose, where and when."""

  usd: float
  source: str


# Google's list prices by the hour, without commitment and not spot, in us-central1. From
# github.com/skypilot-org/skypilot-catalog, which asks Google's billing service: the rows of
# tpu-v5litepod-8 (9.6), tpu-v5p-8 (16.8) and tpu-v6e-256 (691.2) of catalogs/v8/gcp/vms.csv at
# commit 8427bbff988abdd050a9f51addd314ef31cb4e85, read on 2026-11-29. Prices of spot machines
# change each month, and those of cards differ several times between clouds; so neither is here.
_LIST = "Google's list price in us-central1, not spot, as of 2026-11-29"
_PRICES = {
  "v5e": Price(1.2, _LIST),
  "v5p": Price(4.2, _LIST),
  "v6e": Price(2.7, _LIST),
}


def cost(
  found: Mapping[str, Any],
  target: targets.Target,
  *,
  least_step_secs: float,
  num_steps: int,
  mfu: float,
  usd_per_chip_hour: float,
) -> dict[str, Any]:
  """What a run of so many steps costs; empty where nothing gives the chip's peak.

  Compilation, evaluation, saves and waiting for data are not in it.

  Args:
    found: see `program.measure`.
    least_step_secs: no step is counted as faster.
    mfu: share of the peak that the operations reach which a step needs, measured by the user; 0
      assumes `ASSUMED_MFU`.
    usd_per_chip_hour: 0 looks in the table.

  Returns:
    {num_steps, step_secs, is_at_least (it is the least, not by mfu), mfu, is_mfu_assumed,
    chip_hours, usd_per_chip_hour, price_source, usd}; without a price the last three are 0, "", 0.
  """
  if not target.flops_per_sec:
    return {}
  chips = found["num_devices"]
  secs = found["flops_needed"] / chips / target.flops_per_sec / (mfu or ASSUMED_MFU)
  step_secs = max(secs, least_step_secs)
  chip_hours = num_steps * step_secs * chips / 3600
  price = _PRICES.get(target.topology.partition(":")[0], Price(0.0, ""))
  if usd_per_chip_hour:
    price = Price(usd_per_chip_hour, "--price")
  return {
    "num_steps": num_steps,
    "step_secs": step_secs,
    "is_at_least": secs < least_step_secs,
    "mfu": mfu or ASSUMED_MFU,
    "is_mfu_assumed": not mfu,
    "chip_hours": chip_hours,
    "usd_per_chip_hour": price.usd,
    "price_source": price.source,
    "usd": price.usd * chip_hours,
  }
