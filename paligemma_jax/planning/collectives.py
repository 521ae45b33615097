"""What chips send each other in a step, and how much leaves a host: read off a compiled program.

A host is a process of JAX and its chips. XLA names chips by their place in the mesh.
"""

from __future__ import annotations

import collections
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

_KINDS = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")
# By the names of the runtime that connects slices.
_BETWEEN_SLICES = {
  "ALL_GATHER": "all-gather",
  "ALL_REDUCE": "all-reduce",
  "ALL_TO_ALL": "all-to-all",
  "ONE_TO_ONE": "collective-permute",
  "REDUCE_SCATTER": "reduce-scatter",
}
_ITEM_BYTES = {
    "pred": 1, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2,
    "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8,
}  # fmt: skip

_COMPUTATION = re.compile(r"(ENTRY )?(%[\w.\-]+) \(.*\{$")
# The type of a result is one array or a tuple; it may hold layouts with brackets of their own.
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?(%[\w.\-]+) = (.*?) ([a-z][\w\-]*)\(")
_CALLED = re.compile(r"(?:body|calls|to_apply|(?:true|false)_computation)=(%[\w.\-]+)")
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
_CONTEXT = re.compile(r"\bu32\[\](?:\{[^}]*\})?")  # Of an asynchronous operation.

# Three ways to write groups: one by one; as rows of a transposed range; as axes of a mesh.
_LISTED = re.compile(r"replica_groups=\{((?:\{[\d,]*\},?)*)\}")
_RANGE = r"\[([\d,]+)\](?:T\(([\d,]+)\))?"
_ROWS = re.compile(rf"replica_groups=\[([\d,]+)\]<={_RANGE}")
_MESH = re.compile(
  rf"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\((?:{_RANGE}|([\d,]+))\))? \{{([^}}]*)\}}"
)
_AXIS = re.compile(r"'([^']+)'(?::\((\d+)\)(\d+))?(?:=(\d+))?")
_PAIRS = re.compile(r"source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}")
_SLICES = re.compile(r'_xla_megascale_target="\{([\d,:]+)\}x[^"]*"')
_TRANSFER = re.compile(r'_xla_megascale_transfer_type="(\w+)"')

_Computations = Mapping[str, Sequence[tuple[str, str, str]]]


def collectives(hlo: str, hosts: Sequence[int]) -> dict[str, dict[str, float]]:
  """{kind: {count, bytes, within_host, from_hosts, from_slices}}, of the kinds that occur.

  `count` is calls in a step, `bytes` what one chip receives in a step over the links of its slice.
  The others are bytes that the chips of one host receive together: from each other, from other
  hosts of the slice, and from other slices. What a host must get is counted once, as if its chips
  passed it on and added up among each other first; so `from_hosts` is the least that enters. Of
  several hosts it is the one that receives most from others. A loop of unknown length counts once.

  Args:
    hlo: `compiled.as_text()`.
    hosts: the host of each device of the mesh, in its order.

  Raises:
    ValueError: groups of devices are written in a way that is not known here.
  """
  places = np.unique(np.asarray(hosts), return_inverse=True)[1]
  found: dict[str, dict[str, float]] = {}
  received: dict[str, np.ndarray] = collections.defaultdict(
    lambda: np.zeros((3, int(np.max(places)) + 1))
  )
  for times, kind, shape, started, line in _calls(hlo):
    entry = found.setdefault(kind, {"count": 0, "bytes": 0})
    entry["count"] += times
    if slices := _SLICES.search(line):
      one_chip = _received(kind, _bytes(shape), _num_listed(slices[1]))
      received[kind][2] += times * one_chip * np.bincount(places)
      continue
    if kind == "collective-permute":
      one_chip = _bytes(shape) / (2 if started else 1)
      per_host = _by_pairs(one_chip, line, places)
    else:
      groups = _groups(line, len(places))
      size = _result_bytes(kind, shape, len(groups[0]), started)
      one_chip = _received(kind, size, len(groups[0]))
      per_host = np.sum([_by_group(kind, size, group, places) for group in groups], axis=0)
    entry["bytes"] += times * one_chip
    received[kind][:2] += times * per_host
  if not found:
    return {}
  busiest = np.argmax(np.sum(list(received.values()), axis=0)[1:].sum(0))
  for kind, entry in found.items():
    names = ("within_host", "from_hosts", "from_slices")
    entry.update(zip(names, received[kind][:, busiest].tolist(), strict=True))
  return {kind: found[kind] for kind in sorted(found)}


def _by_pairs(size: float, line: str, places: np.ndarray) -> np.ndarray:
  """float[2, hosts]: bytes that the chips of a host receive from each other and from others.

  Args:
    size: what one chip sends another.
    places: int[devices], the host of each, from 0.
  """
  per_host = np.zeros((2, places.max() + 1))
  pairs = _PAIRS.search(line)
  for source, target in re.findall(r"(\d+),(\d+)", pairs[1] if pairs else ""):
    own = places[int(target)]
    per_host[int(own != places[int(source)]), own] += size
  return per_host


def _by_group(kind: str, size: float, group: list[int], places: np.ndarray) -> np.ndarray:
  """The same for a group of devices that gather, reduce or exchange; `size` is a chip's result."""
  num = len(group)
  chips = np.bincount(places[group], minlength=places.max() + 1)
  if kind == "all-to-all":  # Each chip gets something of its own from each.
    entering = size * chips * (num - chips) / num
  else:
    whole = size * {"all-reduce": 2, "reduce-scatter": num}.get(kind, 1)
    entering = np.where(chips > 0, whole * (num - chips) / num, 0)
  return np.stack([chips * _received(kind, size, num) - entering, entering])


def _received(kind: str, size: float, num: int) -> float:
  """Bytes that each of a group of `num` receives; `size` is its result's."""
  if kind == "collective-permute":
    return size
  times = {"reduce-scatter": num, "all-reduce": 2}.get(kind, 1)
  return times * size * (num - 1) / num


def _result_bytes(kind: str, shape: str, num: int, started: bool) -> float:
  """Bytes of the result on one chip, in groups of `num`.

  Args:
    started: it is an asynchronous start, which returns its operands too; but an all-reduce's.
  """
  operands = {"all-gather": 1 / num, "reduce-scatter": num, "all-reduce": 0}.get(kind, 1)
  return _bytes(shape) / (1 + (operands if started else 0))


def _calls(hlo: str) -> Iterator[tuple[int, str, str, bool, str]]:
  """(how often, kind, type of the result, is it a start, the line) of each collective."""
  computations, entry = _computations(hlo)
  for times, shape, operation, line in _walk(computations, entry, 1, ()):
    kind = operation.removesuffix("-start")
    if kind in _KINDS:
      yield times, kind, shape, operation != kind, line
    elif operation == "recv" and (transfer := _TRANSFER.search(line)):
      if transfer[1] in _BETWEEN_SLICES:
        yield times, _BETWEEN_SLICES[transfer[1]], shape, False, line


def _bytes(shape: str) -> float:
  """Of the arrays of a type; the contexts of asynchronous operations are none."""
  return sum(
    _ITEM_BYTES[dtype] * math.prod(int(dim) for dim in dims.split(",") if dim)
    for dtype, dims in _ARRAY.findall(_CONTEXT.sub("", shape))
    if dtype in _ITEM_BYTES
  )


def _groups(line: str, num_devices: int) -> list[list[int]]:
  """The devices of each group that a collective runs in."""
  if match := _ROWS.search(line):
    return _numbers_in(*match.group(2, 3)).reshape(_ints(match[1])).tolist()
  if match := _MESH.search(line):
    return _mesh_groups(*match.groups())
  match = _LISTED.search(line)
  if match is None and "replica_groups=" in line:
    raise ValueError(f"unknown groups: {line.partition('replica_groups=')[2][:60]!r}")
  listed = [_ints(group) for group in re.findall(r"\{([\d,]+)\}", match[1] if match else "")]
  return listed or [list(range(num_devices))]


def _mesh_groups(
  axes: str, dims: str | None, order: str | None, listed: str | None, chosen: str
) -> list[list[int]]:
  """Groups along some axes of a mesh, as in ("'a'=2,'b'=4", None, None, None, "'b'").

  An axis may be chosen in part: 'a':(2)4 is its 4 parts within each of 2.
  """
  sizes = {name: int(size) for name, _, _, size in _AXIS.findall(axes)}
  wanted = [(name, int(before or 1), int(size or sizes[name]))
            for name, before, size, _ in _AXIS.findall(chosen)]  # fmt: skip
  numbers = np.array(_ints(listed)) if listed else _numbers_in(dims, order)
  if not numbers.size:
    numbers = np.arange(math.prod(sizes.values()))
  shape: list[int] = []
  position = {}
  for name, size in sizes.items():
    cuts = {1, size}
    for other, before, part in wanted:
      cuts |= {before, before * part} if other == name else set()
    for low, high in itertools.pairwise(sorted(cuts)):
      position[name, low, high // low] = len(shape)
      shape.append(high // low)
  # An axis of size 1 has no part, and adds nothing to a group.
  last = [position[part] for part in wanted if part[2] > 1]
  num = math.prod(shape[i] for i in last)
  first = [i for i in range(len(shape)) if i not in last]
  return numbers.reshape(shape).transpose(first + last).reshape(-1, num).tolist()


def _numbers_in(dims: str | None, order: str | None) -> np.ndarray:
  """0, 1, … as an array of these dims, transposed by that order, flat; empty without dims."""
  if not dims:
    return np.zeros(0, int)
  numbers = np.arange(math.prod(_ints(dims))).reshape(_ints(dims))
  return numbers.transpose(_ints(order) if order else None).reshape(-1)


def _ints(text: str) -> list[int]:
  return [int(number) for number in text.split(",") if number]


def _num_listed(text: str) -> int:
  """How many numbers '0,2' or '0:3', which includes 3, stands for."""
  ends = [[int(n) for n in part.split(":")] for part in text.split(",")]
  return sum(last[-1] - last[0] + 1 for last in ends)


def _computations(hlo: str) -> tuple[_Computations, str]:
  """{name: [(result type, operation, the line)]}, and the name of the entry computation."""
  computations: dict[str, list[tuple[str, str, str]]] = {}
  entry, lines = "", None
  for line in hlo.splitlines():
    if start := _COMPUTATION.match(line):
      lines = computations.setdefault(start[2], [])
      entry = start[2] if start[1] else entry
    elif lines is not None and (match := _INSTRUCTION.match(line)):
      lines.append((match[2], match[3], line))
  return computations, entry


def _walk(
  computations: _Computations, name: str, times: int, above: tuple[str, ...]
) -> Iterator[tuple[int, str, str, str]]:
  """(how often, result type, operation, the line) of all that runs within a computation."""
  if name in above:
    return
  for shape, operation, line in computations.get(name, ()):
    yield times, shape, operation, line
    inner = times * _trips(computations, line) if operation == "while" else times
    called = _CALLED.findall(line)
    for group in re.findall(r"branch_computations=\{([^}]*)\}", line):
      called += re.findall(r"%[\w.\-]+", group)
    for one in called:
      yield from _walk(computations, one, inner, (*above, name))


def _trips(computations: _Computations, line: str) -> int:
  """How often a loop runs: the compiler's trip count, or the only constant in its condition."""
  if match := re.search(r'"known_trip_count":\{"n":"(\d+)"\}', line):
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
