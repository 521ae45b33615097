"""Which frames of a video are seen, and decoding those alone.

The rule is the reference's in evaluation: frames 0, stride, 2 stride, … of the clip at the video's
own rate, as many as the recipe has. A clip that is too short begins anew, as often as it takes.
Instead of a stride, frames can be spread evenly over the clip, whatever its length.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from paligemma_jax.core import errors


def positions(total: int, num: int, stride: int) -> list[int]:
  """Which of `total` frames make a clip of `num`, by the rule above; with stride 0 evenly spread.

  Evenly means the middle of each of `num` parts of equal length.
  """
  if stride:
    there = range(0, min(total, (num - 1) * stride + 1), stride)
    return [there[i % len(there)] for i in range(num)]
  return [(2 * i + 1) * total // (2 * num) for i in range(num)]


def decode(
    data: bytes, what: str, *, num: int, stride: int, start: float = 0.0, end: float = 0.0
) -> list[np.ndarray]:
  """`num` frames, uint8[H, W, 3], of a video file's content.

  Args:
    what: the video's name in errors.
    stride: how far apart, in frames of the video; 0 spreads them evenly.
    start, end: seconds; an end of 0 is the video's. A part in which no frame begins is the last
      frame before it.

  Raises:
    ConfigError: PyAV is not installed.
    DataError: not a video, or one without frames.
  """
  av = _library()
  total = (num - 1) * stride + 1  # Later frames need not be decoded.
  try:
    if not stride:
      total = _count(av, data, start, end)
    wanted = positions(max(total, 1), num, stride)
    kept, seen = _kept(av, data, set(wanted), start, end)
  except (av.error.FFmpegError, IndexError, ValueError) as e:
    raise errors.DataError(f"{what} is no video that can be decoded: {e}") from None
  if not kept:
    raise errors.DataError(f"{what} has no frames.")
  if stride:
    wanted = positions(max(seen, 1), num, stride)
  # A broken end has fewer frames than its container says: the last one stands in.
  last = kept[max(kept)]
  return [kept.get(i, last) for i in wanted]


def _library() -> Any:
  try:
    import av  # Optional: only videos need it.

    return av
  except ImportError as e:
    raise errors.ConfigError("Reading videos needs PyAV: pip install av") from e


def _kept(
    av: Any, data: bytes, wanted: set[int], start: float, end: float
) -> tuple[dict[int, np.ndarray], int]:
  """({position: frame} for those of `wanted` that are there, frames seen) from start to end."""
  found: dict[int, np.ndarray] = {}
  seen, before = 0, None
  with av.open(io.BytesIO(data)) as container:
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    if start:
      container.seek(int(start * av.time_base))  # To the key frame before it.
    for frame in container.decode(stream):
      time = frame.time or 0.0
      if time < start:
        before = frame
        continue
      if seen > max(wanted) or (end and time >= end):
        break
      if seen in wanted:
        found[seen] = frame.to_ndarray(format="rgb24")
      seen += 1
    if not seen and before is not None:
      found[0] = before.to_ndarray(format="rgb24")
  return found, seen


def _count(av: Any, data: bytes, start: float, end: float) -> int:
  """How many frames begin from start to end; nothing is decoded for it."""
  with av.open(io.BytesIO(data)) as container:
    stream = container.streams.video[0]
    times = [
        float((packet.pts if packet.pts is not None else packet.dts or 0) * packet.time_base)
        for packet in container.demux(stream)
        if packet.size
    ]
  return sum(start <= time and (not end or time < end) for time in times)
