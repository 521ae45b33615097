"""Frames of a download's videos, as JPEGs in the rows: training then needs no video library.

`sources.video` has the rule for frames. (In training the reference starts at a random frame; a row
here has the same frames in every epoch.)
"""

from __future__ import annotations

import functools
import io
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import PIL.Image
import tensorflow_datasets as tfds

from paligemma_jax.sources import video as video_source

from . import raw as raw_lib

# Videos have 240 to 1080 lines; images of 448 px need no more than this.
_MAX_SHORTER_SIDE = 480
_JPEG_QUALITY = 92
_ENDINGS = (".mp4", ".avi", ".mkv", ".webm")
# Each row is decoded once, so it may take long.
_MAX_DECODED, _MAX_SECS = 100_000_000_000, 600
# All of MSR-VTT's videos; with 16 frames of 320 x 240 pixels that is 2 GB.
_KEPT_CLIPS = 10_000


class Clip(raw_lib.RawFile):
  """The frames of a video, or of a part of it, decoded when its row is written.

  Attributes:
    num, stride: the number of frames, and their distance in frames of the video.
    start, end: seconds; an end of 0 is the video's.
    shared: several rows have this clip, so its decoded frames are kept in memory.
  """

  def __init__(
    self,
    file: raw_lib.RawFile,
    *,
    num: int,
    stride: int,
    start: float = 0.0,
    end: float = 0.0,
    shared: bool = False,
  ):
    super().__init__(file.name, file._path, file._member)
    self._what = (num, stride, start, end)
    self._shared = shared

  def read(self) -> list[bytes]:  # type: ignore[override]
    """The frames as JPEGs.

    Raises:
      ConfigError: the video library is not installed.
      DataError: the video cannot be decoded.
    """
    return list(_kept(self) if self._shared else self._decoded())

  def _decoded(self) -> list[bytes]:
    num, stride, start, end = self._what
    found = video_source.decode(
      super().read(), str(self), num=num, stride=stride, start=start, end=end,
      max_decoded=_MAX_DECODED, max_secs=_MAX_SECS,
    )  # fmt: skip
    jpegs = {id(pixels): _jpeg(pixels) for pixels in found}  # A short clip repeats frames.
    return [jpegs[id(pixels)] for pixels in found]

  def __eq__(self, other: object) -> bool:
    return isinstance(other, Clip) and repr(self) == repr(other) and self._path == other._path

  def __hash__(self) -> int:
    return hash((self._path, repr(self)))

  def __repr__(self) -> str:
    return f"Clip({self.name!r}, {self._what})"


@functools.lru_cache(maxsize=_KEPT_CLIPS)
def _kept(clip: Clip) -> list[bytes]:
  return clip._decoded()


def feature() -> tfds.features.FeatureConnector:
  """The column of frames."""
  return tfds.features.Sequence(tfds.features.Image())


def find(raw: raw_lib.Raw, name: str, folders: tuple[str, ...]) -> raw_lib.RawFile | None:
  """The video called `name` (no ending) in one of the folders, or None."""
  for folder in folders:
    for ending in _ENDINGS:
      found = raw.find(f"{folder}/{name}{ending}")
      if found is not None:
        return found
  return None


def with_video(
  raw: raw_lib.Raw, rows: list[tuple[str, dict[str, Any]]], *, what: str, folders: tuple[str, ...]
) -> Iterator[tuple[raw_lib.RawFile, dict[str, Any]]]:
  """(video, row) of each (video's name, row) whose video exists; logs how many do not.

  Copies of such a benchmark lack different videos, as some are no longer public; missing ones are
  left out, as in the reference.
  """
  names = dict.fromkeys(name for name, _ in rows)
  files = {name: find(raw, name, folders) for name in names}
  missing = [name for name, file in files.items() if file is None]
  if names and len(missing) == len(names):
    raw.file(f"{folders[0]}/{missing[0]}{_ENDINGS[0]}")  # Raises the error with its name.
  if missing:
    print(
      f"{what}: {len(missing)} of {len(names)} videos are not in {raw.folder} and are left out:"
      f" {', '.join(missing[:3])}{', …' if len(missing) > 3 else ''}",
      file=sys.stderr,
    )
  for name, row in rows:
    file = files[name]
    if file is not None:
      yield file, row


def _jpeg(pixels: np.ndarray) -> bytes:
  """uint8[H, W, 3] as a JPEG, made smaller when its shorter side is above the limit."""
  image = PIL.Image.fromarray(pixels)
  scale = _MAX_SHORTER_SIDE / min(image.size)
  if scale < 1:
    size = (round(image.width * scale), round(image.height * scale))
    image = image.resize(size, PIL.Image.Resampling.BILINEAR, reducing_gap=None)
  file = io.BytesIO()
  image.save(file, "JPEG", quality=_JPEG_QUALITY)
  return file.getvalue()
