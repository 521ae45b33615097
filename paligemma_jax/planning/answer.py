"""The result of `plan`: one dict for programs, lines of text for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from paligemma_jax.core import errors
from paligemma_jax.planning import search
from paligemma_jax.planning import targets


def answer(
  found: Mapping[str, Any],
  target: targets.Target,
  suggestions: Sequence[search.Suggestion],
  *,
  batch_size: int,
  num_rows: int,
) -> dict[str, Any]:
  """Everything as plain data; bytes are those of one chip, flops those of all chips.

  Args:
    found: see `program.measure`.
    num_rows: of an epoch; 0 is unknown.
  """
  roofline = _roofline(found, target)
  if num_rows and roofline["step_secs"]:
    roofline["epoch_secs"] = roofline["step_secs"] * num_rows / batch_size
  return {
    "fits": found["fits"],
    "device": target.name,
    "device_kind": found["device"],
    "num_devices": found["num_devices"],
    "memory_bytes": found["memory_bytes"],
    "bytes": found["bytes"],
    "parts": {**found["parts"], "activations": found["activations"]},
    "num_params": found["num_params"],
    "flops": found["flops"],
    "flops_needed": found["flops_needed"],
    "roofline": roofline,
    "collectives": found["collectives"],
    "compile_secs": found["compile_secs"],
    "error": found["error"],
    "notes": target.notes,
    "suggestions": [
      {
        "change": ", ".join(s.change.words),
        "flags": s.change.flags,
        "fits": s.found["fits"],
        "bytes": s.found["bytes"],
      }
      for s in suggestions
    ],
  }


def _roofline(found: Mapping[str, Any], target: targets.Target) -> dict[str, float]:
  """Lower bounds of a step's seconds: no stalls, and each byte is read and written once."""
  sizes = found["bytes"]
  moved = sizes["arguments"] + sizes["outputs"] + 2 * sizes["temporaries"]
  received = sum(kind["bytes"] for kind in found["collectives"].values())
  chips = found["num_devices"]

  def secs(amount: float, rate: float) -> float:
    return amount / rate if rate else 0.0

  limits = {
    "compute_secs": secs(found["flops"] / chips, target.flops_per_sec),
    "memory_secs": secs(moved, target.memory_bytes_per_sec),
    "links_secs": secs(received, target.link_bytes_per_sec),
  }
  return {**limits, "step_secs": max(limits.values())}


def lines(answer: Mapping[str, Any], what: str, command: str) -> list[str]:
  """The answer as lines of text.

  Args:
    what: the run, as in 'pt_224 at 224 px'.
    command: the `plan` command, to which a suggestion's flags are added.
  """
  sizes, parts = answer["bytes"], answer["parts"]
  limit, chips = answer["memory_bytes"], answer["num_devices"]
  of_limit = f" of {errors.gib(limit)}" if limit else ""
  verdict = "fits" if answer["fits"] else "does not fit"
  out = [
    f"{what} on {answer['device']} ({chips} x {answer['device_kind']}): {verdict},"
    f" {errors.gib(sizes['total'])}{of_limit} per chip",
    "",
    f"  parameters    {errors.gib(parts['parameters']):>10}   {answer['num_params'] / 1e9:.3g} B",
    f"  optimizer     {errors.gib(parts['optimizer']):>10}",
    f"  batch         {errors.gib(parts['batch']):>10}",
  ]
  padding = sizes["arguments"] - parts["parameters"] - parts["optimizer"] - parts["batch"]
  if padding > 0.01 * sizes["arguments"]:
    out.append(
      f"  padding       {errors.gib(padding):>10}   of small dimensions to the chip's tiles"
    )
  fresh = sizes["outputs"] - sizes["aliased"]
  if fresh > 2**20:
    out.append(f"  outputs       {errors.gib(fresh):>10}   that reuse no argument's memory")
  out += [
    f"  temporaries   {errors.gib(sizes['temporaries']):>10}   activations kept for the backward"
    f" pass {errors.gib(parts['activations'])}, gradients {errors.gib(parts['gradients'])}",
    f"  total         {errors.gib(sizes['total']):>10}",
    "",
  ]
  flops, needed = answer["flops"], answer["flops_needed"]
  again = f", {needed / 1e12:.4g} without recomputation" if flops > 1.005 * needed else ""
  out.append(f"  matmuls   {flops / 1e12:.4g} TFLOP a step{again}")
  out += _times(answer["roofline"])
  out += _communication(answer)
  out.append(f"  compiled in       {answer['compile_secs']:.0f} s")
  if answer["notes"]:
    out.append(f"  {answer['notes']}")
  if answer["error"]:
    out.append(f"  the compiler said: {answer['error']}")
  for suggestion in answer["suggestions"]:
    flags = " ".join(_quoted(flag) for flag in suggestion["flags"])
    out += [
      "",
      f"It fits with {suggestion['change']}: {errors.gib(suggestion['bytes']['total'])} per chip.",
      f"  {command} {flags}",
    ]
  return out


def _times(roofline: Mapping[str, float]) -> list[str]:
  if not roofline["step_secs"]:
    return []
  limits = {name: roofline[f"{name}_secs"] for name in ("compute", "memory", "links")}
  slowest = max(limits, key=lambda name: limits[name])
  each = ", ".join(f"{name} {_secs(value)}" for name, value in limits.items())
  epoch = f"; an epoch {_secs(roofline['epoch_secs'])}" if "epoch_secs" in roofline else ""
  return [
    f"  a step takes at least {_secs(roofline['step_secs'])}, by its {slowest} ({each}){epoch}"
  ]


def _communication(answer: Mapping[str, Any]) -> list[str]:
  if not answer["collectives"]:
    return []
  each = ", ".join(
    f"{kind} {entry['count']:.0f} ({entry['bytes'] / 1e9:.3g} GB)"
    for kind, entry in answer["collectives"].items()
  )
  return [f"  between chips     {each}, received by each in a step"]


def _secs(secs: float) -> str:
  if secs < 1:
    return f"{1000 * secs:.3g} ms"
  if secs < 120:
    return f"{secs:.3g} s"
  return f"{secs / 60:.3g} min" if secs < 7200 else f"{secs / 3600:.3g} h"


def _quoted(flag: str) -> str:
  return f'"{flag}"' if any(c in flag for c in "()' *") else flag
