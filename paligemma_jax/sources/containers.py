"""Which container a video file is, found by its first bytes, and what its index claims.

FFmpeg picks its reader by the content too, among three hundred, some of which read lists of other
files or of network addresses. Here one of a few is picked, and FFmpeg is told to use that one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

from paligemma_jax.core import errors

# FFmpeg's names. None of these reads another file; references inside of a .mov are switched off.
MOV = "mov,mp4,m4a,3gp,3g2,mj2"
FORMATS = {
    MOV: "MP4 or MOV",
    "matroska,webm": "Matroska or WebM",
    "avi": "AVI",
    "mpegts": "MPEG-TS",
    "mpeg": "MPEG",
    "gif": "GIF",
}
MAX_SAMPLES = 2_000_000  # Of a track: nine hours of video. FFmpeg takes 24 bytes and more for each.

_MOV_STARTS = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot")
_INSIDE = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf", b"edts")
_MAX_BOXES = 100_000
_TS = 188
_ENTRIES_AT_ONCE = 1 << 16


def find(file: BinaryIO) -> str:
  """FFmpeg's name of the file's format.

  Raises:
    DataError: none of FORMATS, or an index that claims more than any video holds. Its text goes on
      from the name of the file.
  """
  file.seek(0)
  start = file.read(1024)
  if start[4:8] in _MOV_STARTS:
    _check_boxes(file)
    return MOV
  if start.startswith(b"\x1aE\xdf\xa3"):
    return "matroska,webm"
  if start.startswith(b"RIFF") and start[8:12] == b"AVI ":
    return "avi"
  if start.startswith((b"GIF87a", b"GIF89a")):
    return "gif"
  if start.startswith(b"\0\0\1\xba"):
    return "mpeg"
  for first, step in ((0, _TS), (4, _TS + 4)):  # As broadcast, and as cameras write it.
    marks = start[first::step]
    if len(marks) > 1 and marks == b"G" * len(marks):
      return "mpegts"
  raise errors.DataError(
      f"is no video that can be decoded: it starts with {start[:12]!r}, like none of"
      f" {', '.join(FORMATS.values())}. Convert it to MP4 before."
  )


def _check_boxes(file: BinaryIO) -> None:
  """Walks the boxes of a MOV; those that count samples must count what a video can have."""
  samples = 0
  for kind, start, end in _boxes(file, 0, file.seek(0, 2)):
    if kind == b"cmov":
      raise errors.DataError("has a compressed header, which no program has written for long.")
    file.seek(start)
    head = file.read(min(12, end - start))
    if len(head) < 12:
      continue
    if kind in (b"stsz", b"stz2"):
      (number,) = struct.unpack_from(">I", head, 8)
      _check_number(number)
    elif kind in (b"stts", b"ctts", b"stsc"):
      (entries,) = struct.unpack_from(">I", head, 4)
      if kind != b"stsc":
        _check_number(_sum_of_counts(file, start + 8, entries, end))
    elif kind == b"trun":
      (number,) = struct.unpack_from(">I", head, 4)
      samples += number
      _check_number(samples)


def _check_number(number: int) -> None:
  if number > MAX_SAMPLES:
    raise errors.DataError(f"claims {number} samples; the limit is {MAX_SAMPLES}.")


def _sum_of_counts(file: BinaryIO, start: int, entries: int, end: int) -> int:
  """Of a table of (count, value), the sum of the counts; as many as there are bytes for."""
  left, total = min(entries, (end - start) // 8), 0
  file.seek(start)
  while left > 0 and total <= MAX_SAMPLES:
    raw = file.read(8 * min(left, _ENTRIES_AT_ONCE))
    raw = raw[: len(raw) // 8 * 8]
    if not raw:
      break
    total += sum(count for count, _ in struct.iter_unpack(">II", raw))
    left -= _ENTRIES_AT_ONCE
  return total


def _boxes(file: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
  """(kind, start, end) of the content of each box, of those in boxes of boxes too."""
  todo, number = [(start, end)], 0
  while todo:
    at, end = todo.pop()
    file.seek(at)
    head = file.read(16)
    if len(head) < 8 or at + 8 > end:
      continue
    size, kind = struct.unpack_from(">I4s", head)
    body = at + 8
    if size == 1 and len(head) == 16:
      (size,) = struct.unpack_from(">Q", head, 8)
      body = at + 16
    stop = end if size == 0 else min(at + size, end)
    if stop < body:  # No box: FFmpeg ends here too.
      continue
    number += 1
    if number > _MAX_BOXES:
      raise errors.DataError(f"has more than {_MAX_BOXES} boxes.")
    yield kind, body, stop
    todo.append((stop, end))
    if kind in _INSIDE:
      todo.append((body, stop))
