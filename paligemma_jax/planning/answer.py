"""The result of `plan`, one dict for programs, lines of text for people; and what would fit.

The search for changes that make a run fit tries those that change no number before those that do.
Compiling takes a minute, adding up a state takes none. So a change whose state and gradients alone
do not fit is never compiled, and the number of micro-batches follows from earlier measurements.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import ml_collections

from paligemma_jax.config import load as configs
from paligemma_jax.core import errors
from paligemma_jax.planning import prices
from paligemma_jax.planning import targets


def answer(
  found: Mapping[str, Any],
  target: targets.Target,
  suggestions: Sequence[tuple[Change, Found]],
  *,
  batch_size: int,
  num_rows: int,
  num_steps: int,
  mfu: float,
  price: float,
) -> dict[str, Any]:
  """Everything as plain data; bytes are those of one chip, flops those of all chips.

  Args:
    found: see `program.measure`.
    suggestions: see `search`.
    num_rows: of an epoch; 0 is unknown.
    num_steps: of the run; 0 is unknown.
    mfu, price: see `prices.cost`.
  """
  roofline = _roofline(found, target)
  if num_rows and roofline["step_secs"]:
    roofline["epoch_secs"] = roofline["step_secs"] * num_rows / batch_size
  same = ("fits", "num_devices", "num_hosts", "num_slices", "memory_bytes", "bytes", "num_params")
  cost = prices.cost(
    found,
    target,
    least_step_secs=roofline["step_secs"],
    num_steps=num_steps or 1000,
    mfu=mfu,
    usd_per_chip_hour=price,
  )
  return {
    **{key: found[key] for key in (*same, "flops", "flops_needed", "collectives", "unread")},
    **{key: found[key] for key in ("fits_with", "compile_secs", "error")},
    "cost": cost,
    "device": target.name,
    "device_kind": found["device"],
    "parts": {**found["parts"], "activations": found["activations"]},
    "roofline": roofline,
    "notes": " ".join(filter(None, (target.notes, _network(target)))),
    "suggestions": [
      {
        "change": ", ".join(change.words),
        "flags": change.flags,
        "fits": measured["fits"],
        "bytes": measured["bytes"],
      }
      for change, measured in suggestions
    ],
  }


def _network(target: targets.Target) -> str:
  if target.num_slices == 1 and (target.platform != "cuda" or target.num_hosts == 1):
    return ""
  between = "slices" if target.num_slices > 1 else "hosts"
  return f"The least time of a step leaves out the network between {between}."


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
  if answer["fits_with"]:
    verdict = "fits only with more of the memory than JAX takes by itself"
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
  out += _cost(answer["cost"])
  out.append(f"  compiled in       {answer['compile_secs']:.0f} s")
  if answer["notes"]:
    out.append(f"  {answer['notes']}")
  if answer["error"]:
    out.append(f"  the compiler said: {answer['error']}")
  if answer["fits_with"]:
    out += ["", "It fits once JAX may take more of the card:", f"  {answer['fits_with']}"]
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
  found, hosts, slices = answer["collectives"], answer["num_hosts"], answer["num_slices"]
  if answer["unread"]:
    return [f"  between chips     not known: {answer['unread']}"]
  if not found:
    return []
  each = ", ".join(
    f"{kind} {entry['count']:.0f} ({_gb(entry['bytes'])})"
    for kind, entry in found.items()
    if entry["bytes"]
  )
  out = [f"  between chips     {each}, received by each in a step"]
  if hosts == 1:
    return out
  titles = {"within_host": "from each other", "from_hosts": "from other hosts"}
  if slices > 1:
    titles["from_slices"] = "from other slices"
  chips = answer["num_devices"] // hosts
  out.append(
    f"  {hosts} hosts of {chips} {'chip' if chips == 1 else 'chips'}"
    f"{f' in {slices} slices' if slices > 1 else ''}; in a step those of one host receive"
  )
  out.append(f"    {'':18}{'calls':>8}" + "".join(f"{title:>19}" for title in titles.values()))
  for kind, entry in found.items():
    amounts = "".join(f"{_gb(entry[name]):>19}" for name in titles)
    out.append(f"    {kind:18}{entry['count']:8.0f}{amounts}")
  return out


def _gb(amount: float) -> str:
  return f"{amount / 1e9:.3g} GB"


def _cost(cost: Mapping[str, Any]) -> list[str]:
  if not cost:
    return []
  share = f"{cost['mfu']:.0%} of the peak, {'assumed' if cost['is_mfu_assumed'] else 'as given'}"
  if cost["is_at_least"]:
    share = "the least that it takes"
  hours = f"{cost['chip_hours']:.3g} chip hours at {_secs(cost['step_secs'])} a step ({share})"
  out = [f"  cost of {cost['num_steps']} steps: {hours}"]
  if cost["usd_per_chip_hour"]:
    price = f"{cost['usd_per_chip_hour']:g} USD a chip hour ({cost['price_source']})"
    out[0] += f", {cost['usd']:.3g} USD"
    out.append(f"    at {price}")
  return out


def _secs(secs: float) -> str:
  if secs < 1:
    return f"{1000 * secs:.3g} ms"
  if secs < 120:
    return f"{secs:.3g} s"
  return f"{secs / 60:.3g} min" if secs < 7200 else f"{secs / 3600:.3g} h"


def _quoted(flag: str) -> str:
  """For the shell."""
  return f'"{flag}"' if any(c in flag for c in "()' *") else flag


Override = tuple[str, str]
Found = dict[str, Any]

# Presets, nearest to training everything first, for a configuration that takes a `tune`. Those that
# it does not know are skipped.
_TUNES = ("adam8bit", "adafactor", "full_adam+freeze_vit", "lora", "sgd_attention", "qlora")

# The same for a configuration without `tune`.
_WITHOUT_TUNE: tuple[tuple[Override, ...], ...] = (
  (("optim.mu_dtype", "bfloat16"),),
  (("optim.freeze", "('img/.*',)"),),
  (("optim.name", "sgd"), ("optim.freeze", "()"), ("optim.train_only", "('llm/layers/attn/.*',)")),
)

_LESS_REMAT = ("none", "dots")  # Values of model.remat that keep more than "full".
_MARGIN = 0.97  # Of the memory; a change that is predicted to need more is not tried.


@dataclasses.dataclass(frozen=True)
class Change:
  """Another configuration to try: `path`, `overrides` and `allow_code` as on the command line.

  words: the changes, as in ('optim.name=sgd',).
  """

  path: str
  overrides: tuple[Override, ...]
  words: tuple[str, ...] = ()
  allow_code: bool = False

  def load(self) -> ml_collections.ConfigDict:
    return configs.load(self.path, self.overrides, allow_code=self.allow_code)

  def and_set(self, key: str, value: Any) -> Change:
    others = (pair for pair in self.overrides if pair[0] != key)
    words = (*self.words, f"{key}={value}")
    return dataclasses.replace(self, overrides=(*others, (key, str(value))), words=words)

  @property
  def flags(self) -> list[str]:
    return ["--config", self.path, *(f"--config.{key}={value}" for key, value in self.overrides)]


def search(
  start: Change,
  found: Found,
  ask: Callable[[Sequence[Change], bool], list[Found]],
  *,
  want: int,
  tries: int,
  note: Callable[[str], None],
) -> list[tuple[Change, Found]]:
  """Up to `want` changes that fit and what `program.measure` found of them, the cheapest first.

  Args:
    start: the configuration that does not fit, and `found` its measurements.
    ask: (changes, compiled) -> `program.measure` of each; {"refused": why} for an invalid one.
    tries: the most programs to compile.
    note: called with a line for each try.
  """
  bases = [start, *_other_bases(start)]
  states = ask(bases, False)
  fitting: list[tuple[Change, Found]] = []
  for base, state in zip(bases, states, strict=True):
    if "refused" in state or _least(state) > _MARGIN * state["memory_bytes"]:
      continue
    for change in _variants(base, start, found, state):
      if len(fitting) >= want or tries <= 0:
        return fitting
      tries -= 1
      note(f"  trying {', '.join(change.words)}")
      answer = ask([change], True)[0]
      if answer.get("fits"):
        fitting.append((change, answer))
        break
  return fitting


def remedies(start: Change, *, num_row_shards: int) -> list[str]:
  """The flags that `search` would try, in its order, where nothing can be measured.

  Args:
    num_row_shards: devices that a batch, and so each micro-batch, is sharded over.
  """
  config = start.load()
  batch_size, grad_accum_steps = config.train.batch_size, config.train.grad_accum_steps
  words = []
  if config.model.remat in _LESS_REMAT:
    words.append("--config.model.remat=full")
  if batch_size % (2 * grad_accum_steps * num_row_shards) == 0:
    words.append(f"--config.train.grad_accum_steps={2 * grad_accum_steps}")
  bases = list(_other_bases(start))
  for base in bases:
    if base.path == start.path:
      words.append(" ".join(_quoted(f"--config.{word}") for word in base.words))
  if tuned := [b for b in bases if b.path != start.path]:
    others = [word.removeprefix("tune=") for b in tuned[1:] for word in b.words]
    words.append(f"--config {tuned[0].path}" + (f" (then {', '.join(others)})" if others else ""))
  if batch_size % (2 * grad_accum_steps * num_row_shards) == 0:
    words.append(f"--config.train.batch_size={batch_size // 2}")
  return words


def _other_bases(start: Change) -> Iterator[Change]:
  """Other meshes and other presets, with the same batch and micro-batches."""
  config = start.load()
  if config.mesh.shape:
    yield start.and_set("mesh.shape", "()")
  path, _, text = start.path.partition(":")
  kept = [part for part in text.split(",") if part and not part.startswith("tune=")]
  has_tune = False
  for tune in _TUNES:
    word = f"tune={tune}"
    path_with = f"{path}:{','.join([*kept, word])}"
    change = dataclasses.replace(start, path=path_with, words=(word,))
    try:
      other = change.load()
    except errors.ConfigError:
      continue
    has_tune = True
    if any(other[s].to_dict() != config[s].to_dict() for s in ("optim", "model")):
      yield change
  if not has_tune:
    for pairs in _WITHOUT_TUNE:
      change = start
      for key, value in pairs:
        change = change.and_set(key, value)
      yield change


def _variants(base: Change, start: Change, found: Found, state: Found) -> Iterator[Change]:
  """The base, and variants of it that hold less in memory, as far as each is likely to fit."""
  config = base.load()
  batch_size, grad_accum_steps = config.train.batch_size, config.train.grad_accum_steps
  # Grows with the rows of a micro-batch.
  rows_bytes = max(found["bytes"]["temporaries"] - found["parts"]["gradients"], 0)
  room = _MARGIN * state["memory_bytes"] - _least(state)
  if base is not start and rows_bytes <= room:
    yield base
  if config.model.remat in _LESS_REMAT:
    base = base.and_set("model.remat", "full")
    yield base
  powers = [2**i for i in range(1, batch_size.bit_length())]
  parts = [a * grad_accum_steps for a in powers]
  parts = [a for a in parts if batch_size % (a * found["num_row_shards"]) == 0]
  # Accumulated gradients are kept beside those of the current micro-batch.
  likely = [
    a for a in parts if rows_bytes * grad_accum_steps / a + state["parts"]["gradients"] <= room
  ]
  for a in likely[:2]:
    yield base.and_set("train.grad_accum_steps", a)
  if not likely:
    sizes = [
      s
      for s in (batch_size // p for p in powers)
      if s % (found["num_row_shards"] * grad_accum_steps) == 0
      and rows_bytes * s / batch_size <= room
    ]
    for size in sizes[:1]:
      yield base.and_set("train.batch_size", size)


def _least(state: Found) -> int:
  """Bytes of any program's arguments and gradients."""
  return sum(state["parts"].values())
