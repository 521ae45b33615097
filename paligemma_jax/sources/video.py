"""Videos from JSON lines: each row names a video file or a folder of frames."""

from __future__ import annotations

import array
import math
import os
from typing import Any

from paligemma_jax.core import errors
from paligemma_jax.core import spec as spec_lib
from paligemma_jax.sources import files
from paligemma_jax.sources import frames
from paligemma_jax.sources import jsonl

MAX_VIDEO_BYTES = 1 << 30
_FRAME_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


@spec_lib.spec
class Video:
  """Rows of a .jsonl file whose videos become `frames`: a list of images, for Decode and Resize.

  `sources.frames` has the rule for frames, which are the same in every epoch. Files are read by
  PyAV (pip install av). Each read decodes them; long trainings are faster with
  `paligemma_jax.prepare`, which stores frames as JPEGs.

  Attributes:
    path: the .jsonl file.
    num: frames per row.
    stride: their distance in frames of the video; 0 spreads them evenly.
    videos: the folder that the rows' names are relative to; '' is that of `path`.
    columns: the columns that every row must have, as in Jsonl.
    video: the column with the name of a video file (MP4, MOV, Matroska, WebM, AVI, MPEG or GIF, by
      content; no file that it refers to is opened), or of a folder whose images are the frames in
      natural order.
    start, end: the columns with the part of the video in seconds, which a row may lack; '' is none.
    max_decoded: the limit of pixels to decode for a row, where a byte of the stream counts as 40;
      the default is about two minutes of 640 x 480.
    max_secs: the limit of seconds of a core to decode a row.
  """

  path: str
  num: int
  stride: int
  videos: str = ""
  columns: tuple = ()
  video: str = "video"
  start: str = "start"
  end: str = "end"
  max_decoded: int = frames.MAX_DECODED
  max_secs: float = frames.MAX_SECS

  def __post_init__(self):
    for name, least in (("num", 1), ("stride", 0), ("max_decoded", 1)):
      value = getattr(self, name)
      if type(value) is not int or value < least:
        raise errors.ConfigError(f"{name} of Video is {value!r}: expected {least} or more.")
    if not self.max_secs > 0:
      raise errors.ConfigError(f"max_secs of Video is {self.max_secs!r}: expected seconds.")

  def open(self) -> VideoRows:
    """As `Jsonl.open`; no video is opened."""
    return VideoRows(self)

  def makes(self) -> tuple[str, ...]:
    return ("frames", *self._lines().columns) if self.columns else ()

  def _lines(self) -> jsonl.Jsonl:
    columns = tuple(dict.fromkeys((self.video, *self.columns)))
    return jsonl.Jsonl(self.path, columns=columns, image_column="")


class VideoRows:
  """The rows of a `Video`. Picklable."""

  def __init__(self, source: Video):
    self._spec = source
    self._root = source.videos or os.path.dirname(source.path) or "."
    files.is_remote(self._root)  # Rejects an address of another scheme.
    self._lines = source._lines().open()

  def __len__(self) -> int:
    return len(self._lines)

  def __getitem__(self, i: int) -> dict[str, Any]:
    row, s = self._lines[i], self._spec
    try:
      name, start, end = row[s.video], _seconds(row, s.start), _seconds(row, s.end)
      if 0 < end <= start:
        raise errors.DataError(f"the part from {start} s to {end} s is empty.")
      inside = files.names_under(self._root, name)
      if inside is not None:
        return {**row, "frames": self._of_folder(name, inside, bool(start or end))}
      limits = frames.Limits(decoded=s.max_decoded, secs=s.max_secs)
      with files.open_under(self._root, name, max_bytes=MAX_VIDEO_BYTES) as file:
        found = frames.decode(
          file, repr(name), num=s.num, stride=s.stride, start=start, end=end, limits=limits
        )
      return {**row, "frames": found}
    except errors.DataError as e:
      raise errors.DataError(f"{self.where(i)}: column {s.video!r}: {e}") from None

  def where(self, i: int) -> str:
    return self._lines.where(i)

  def fingerprint(self) -> str:
    """Of the .jsonl file's content, not of the videos."""
    return f"video:{self._spec.num}x{self._spec.stride}:{self._lines.fingerprint()}"

  def digests(self) -> array.array:
    """uint16[rows], of the lines of the .jsonl file."""
    return self._lines.digests()

  def _of_folder(self, name: str, inside: list[str], has_part: bool) -> list[bytes]:
    if has_part:
      raise errors.DataError(f"{name!r} is a folder of frames, which has no seconds to cut it by.")
    there = [n for n in inside if n.lower().endswith(_FRAME_ENDINGS)]
    if not there:
      raise errors.DataError(f"folder {name!r} has no images ({', '.join(_FRAME_ENDINGS)}).")
    chosen = frames.positions(len(there), self._spec.num, self._spec.stride)
    return files.read_all_under(self._root, [f"{name}/{there[k]}" for k in chosen])


def _seconds(row: dict[str, Any], column: str) -> float:
  """A time in the row, 0 without one."""
  value = row.get(column) if column else None
  if value is None:
    return 0.0
  if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
    raise errors.DataError(f"{column!r} is {value!r}: expected seconds.")
  if value < 0:
    raise errors.DataError(f"{column!r} is {value!r} seconds: expected 0 or more.")
  return float(value)
