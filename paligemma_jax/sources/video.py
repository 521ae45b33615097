"""Videos by JSON lines: each row names a video file, or a folder of its frames."""

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

  Which frames are taken is told in `sources.frames`. Every epoch sees the same ones. Files are read
  by PyAV (pip install av); folders of frames need nothing. Frames are decoded whenever a row is
  read, so for long trainings `paligemma_jax.prepare`, which stores them as JPEGs, is faster.

  Attributes:
    path: the .jsonl file.
    num: frames of a row.
    stride: how far apart, in frames of the video; 0 spreads them evenly over it.
    videos: the folder that the rows' names are relative to; '' is that of `path`.
    columns: the columns that every row must have, as in Jsonl.
    video: the column with the name of the video file or of the folder, whose images are frames in
      the order of their names, numbers in them counted. Files are MP4, MOV, Matroska, WebM, AVI,
      MPEG and GIF, by content and not by name; nothing that they refer to is opened.
    start, end: columns with the part of the video in seconds, where a row has them; '' is none.
    max_decoded: a row is refused when its frames lie behind more pixels to decode, a byte of the
      stream counted as 40; the default is about two minutes of 640 x 480.
    max_secs: a row is refused when decoding takes more seconds of a core.
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
    """Opens the .jsonl file; no video is looked at.

    Raises:
      ConfigError: the file cannot be read.
    """
    return VideoRows(self)

  def makes(self) -> tuple[str, ...]:
    """The columns that every row has; () when none were asked for."""
    return ("frames", *self._lines().columns) if self.columns else ()

  def _lines(self) -> jsonl.Jsonl:
    columns = tuple(dict.fromkeys((self.video, *self.columns)))
    return jsonl.Jsonl(self.path, columns=columns, image_column="")


class VideoRows:
  """The rows of a `Video`. Picklable."""

  def __init__(self, source: Video):
    self._spec = source
    self._root = source.videos or os.path.dirname(source.path) or "."
    files.is_remote(self._root)  # An address of another scheme is an error now.
    self._lines = source._lines().open()

  def __len__(self) -> int:
    return len(self._lines)

  def __getitem__(self, i: int) -> dict[str, Any]:
    row = self._lines[i]
    try:
      name = row[self._spec.video]
      part = {which: _seconds(row, getattr(self._spec, which)) for which in ("start", "end")}
      if 0 < part["end"] <= part["start"]:
        raise errors.DataError(f"the part from {part['start']} s to {part['end']} s is empty.")
      inside = files.names_under(self._root, name)
      if inside is not None:
        return {**row, "frames": self._of_folder(name, inside, part)}
      s = self._spec
      limits = frames.Limits(decoded=s.max_decoded, secs=s.max_secs)
      with files.open_under(self._root, name, max_bytes=MAX_VIDEO_BYTES) as file:
        found = frames.decode(file, repr(name), num=s.num, stride=s.stride, limits=limits, **part)
      return {**row, "frames": found}
    except errors.DataError as e:
      raise errors.DataError(f"{self.where(i)}: column {self._spec.video!r}: {e}") from None

  def where(self, i: int) -> str:
    """File and line of a row."""
    return self._lines.where(i)

  def fingerprint(self) -> str:
    """Of the .jsonl file's content. Videos are not read for it."""
    return f"video:{self._spec.num}x{self._spec.stride}:{self._lines.fingerprint()}"

  def digests(self) -> array.array:
    """uint16[rows], of the lines of the .jsonl file."""
    return self._lines.digests()

  def _of_folder(self, name: str, inside: list[str], part: dict[str, float]) -> list[bytes]:
    if any(part.values()):
      raise errors.DataError(f"{name!r} is a folder of frames, which has no seconds to cut it by.")
    there = [n for n in inside if n.lower().endswith(_FRAME_ENDINGS)]
    if not there:
      raise errors.DataError(f"folder {name!r} has no images ({', '.join(_FRAME_ENDINGS)}).")
    chosen = frames.positions(len(there), self._spec.num, self._spec.stride)
    return files.read_all_under(self._root, [f"{name}/{there[k]}" for k in chosen])


def _seconds(row: dict[str, Any], column: str) -> float:
  """The row's time, 0 where it has none."""
  value = row.get(column) if column else None
  if value is None:
    return 0.0
  if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
    raise errors.DataError(f"{column!r} is {value!r}: expected seconds.")
  if value < 0:
    raise errors.DataError(f"{column!r} is {value!r} seconds: expected 0 or more.")
  return float(value)
