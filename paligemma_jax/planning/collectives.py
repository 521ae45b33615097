"""The talk between devices in a compiled program: read off its text, loops counted."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

_KINDS = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")
_ITEM_BYTES = {
  "pred": 1,
  "s8": 1,
  "u8": 1,
  "s4": 0.5,
  "u4": 0.5,
  "s16": 2,
  "u16": 2,
  "bf16": 2,
  "f16": 2,
  "s32": 4,
  "u32": 4,
  "f32": 4,
  "s64": 8,
  "u64": 8,
  "f64": 8,
}

_COMPUTATION = re.compile(r"(ENTRY )?(%[\w.\-]+) \(.*\{$")
# The type of a result is one array or a tuple; it may hold layouts with brackets of their own.
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?(%[\w.\-]+) = (.*?) ([a-z][\w\-]*)\(")
_CALLED = re.compile(r"(?:body|calls|to_apply|(?:true|false)_computation)=(%[\w.\-]+)")
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")


def collectives(hlo: str) -> dict[str, dict[str, float]]:
  """{kind: {"count": calls in a step, "bytes": what one device receives in a step}}.

  A loop whose length the text does not tell counts once. Kinds that do not occur are absent.

  Args:
    hlo: `compiled.as_text()`.
  """
  computations, entry = _computations(hlo)
  found: dict[str, dict[str, float]] = {}
  _walk(computations, entry, 1, found, ())
  return {kind: found[kind] for kind in sorted(found)}


def _computations(hlo: str) -> tuple[dict[str, list[tuple[str, str, str]]], str]:
  """{name: [(result type, operation, the line)]} and the name of the one that runs first."""
  computations: dict[str, list[tuple[str, str, str]]] = {}
  entry, lines = "", None
  for line in hlo.splitlines():
    start = _COMPUTATION.match(line)
    if start:
      lines = computations.setdefault(start[2], [])
      entry = start[2] if start[1] else entry
    elif lines is not None:
      match = _INSTRUCTION.match(line)
      if match:
        lines.append((match[2], match[3], line))
  return computations, entry


def _walk(
  computations: Mapping[str, list[tuple[str, str, str]]],
  name: str,
  times: int,
  found: dict[str, dict[str, float]],
  above: tuple[str, ...],
) -> None:
  if name in above:
    return
  for shape, operation, line in computations.get(name, ()):
    kind = operation.removesuffix("-start")
    if kind in _KINDS:
      entry = found.setdefault(kind, {"count": 0, "bytes": 0})
      entry["count"] += times
      entry["bytes"] += times * _received(kind, shape, operation.endswith("-start"), line)
    inner = times
    if operation == "while":
      inner = times * _trips(computations, line)
    for called in _CALLED.findall(line):
      _walk(computations, called, inner, found, (*above, name))
    for group in re.findall(r"branch_computations=\{([^}]*)\}", line):
      for called in re.findall(r"%[\w.\-]+", group):
        _walk(computations, called, inner, found, (*above, name))


def _received(kind: str, shape: str, started: bool, line: str) -> float:
  """Bytes that one device receives."""
  arrays = [_bytes(dtype, dims) for dtype, dims in _ARRAY.findall(shape) if dtype in _ITEM_BYTES]
  if not arrays:
    return 0
  # The tuple of an asynchronous start holds operand and result; the larger is the gathered one.
  size = max(arrays) if started else sum(arrays)
  group = _group_size(line)
  if kind == "reduce-scatter":
    return size * (group - 1)
  if kind == "all-reduce":
    return 2 * size * (group - 1) / group
  if kind == "collective-permute":
    return size
  return size * (group - 1) / group


def _bytes(dtype: str, dims: str) -> float:
  return _ITEM_BYTES[dtype] * math.prod(int(dim) for dim in dims.split(",") if dim)


def _group_size(line: str) -> int:
  """Devices that talk to each other, from replica_groups={{0,1},…} or [4,2]<=[8]."""
  match = re.search(r"replica_groups=\{\{([\d,]+)\}", line)
  if match:
    return len(match[1].split(","))
  match = re.search(r"replica_groups=\[(\d+),(\d+)\]", line)
  return int(match[2]) if match else 2


def _trips(computations: Mapping[str, list[tuple[str, str, str]]], line: str) -> int:
  """How often a loop runs: told by the compiler, or the one number that its condition holds."""
  match = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', line)
  if match:
    return int(match[1])
  condition = re.search(r"condition=(%[\w.\-]+)", line)
  body = computations.get(condition[1], ()) if condition else ()
  numbers = [
    int(value)
    for _, operation, text in body
    if operation == "constant"
    for value in re.findall(r"constant\((\d+)\)", text)
  ]
  return numbers[0] if len(numbers) == 1 and numbers[0] > 0 else 1
