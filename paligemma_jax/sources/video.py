"""Videos from JSON lines: each row names a video file or a folder of frames.

Of the row's clip a model sees frames 0, stride, 2 stride, … at the video's own rate, as in the
reference's evaluation; a clip that is too short is repeated. Without a stride the frames are spread
evenly over the clip. They are decoded in bounded time and memory.

A video is not trusted. FFmpeg is given the container's format, opens no other file, and uses known
codecs only. It has one thread, as other rows are read meanwhile and each thread holds frames.
"""

from __future__ import annotations

import io
import math
import struct
import time
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from paligemma_jax.core import errors
from paligemma_jax.core import file_checks
from paligemma_jax.core import spec as spec_lib
from paligemma_jax.sources import files
from paligemma_jax.sources import jsonl

MAX_VIDEO_BYTES = 1 << 30
MAX_FRAME_PIXELS = 4096 * 2176
MAX_KEPT_PIXELS = 75_000_000
MAX_STREAMS = 32
MAX_DECODED = 1_500_000_000  # Pixels: about five seconds of a core.
MAX_SECS = 10.0

CODECS = (
    "h264", "hevc", "av1", "libdav1d", "vp8", "vp9", "mpeg4", "mpeg1video", "mpeg2video", "h263",
    "msmpeg4v1", "msmpeg4v2", "msmpeg4", "msmpeg4v3", "wmv1", "wmv2", "flv", "theora", "mjpeg",
    "prores", "dvvideo", "gif",
)  # fmt: skip
_LEAST_PIXELS = 100_000  # The least cost of a frame.
_BYTE_PIXELS = 40  # The cost of a byte of a stream.
_FRAME_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")

# FFmpeg's names. None of these reads another file; references in a .mov are disabled.
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


@spec_lib.spec
class Video:
  """Rows of a .jsonl file whose videos become `frames`: a list of images, for Decode and Resize.

  The frames are the same in every epoch. Files are read by PyAV (pip install av). Each read decodes
  them; long trainings are faster with `paligemma_jax.prepare`, which stores frames as JPEGs.

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
  max_decoded: int = MAX_DECODED
  max_secs: float = MAX_SECS

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
    return ("frames", *self._columns()) if self.columns else ()

  def _columns(self) -> tuple[str, ...]:
    return tuple(dict.fromkeys((self.video, *self.columns)))


class VideoRows(jsonl.JsonlRows):
  """The rows of a `Video`: lines of JSON, whose videos are decoded. Picklable."""

  def __init__(self, source: Video):
    root = files.folder(source.videos, source.path)
    super().__init__(source.path, root, source._columns(), image_columns=())
    self._spec = source

  def _row(self, i: int) -> dict[str, Any]:
    row, s = super()._row(i), self._spec
    with errors.within(f"column {s.video!r}"):
      start, end = (_seconds(row, column) for column in (s.start, s.end))
      return {**row, "frames": self._frames(row[s.video], start, end)}

  def fingerprint(self) -> str:
    """Of the .jsonl file's content, not of the videos."""
    return f"video:{self._spec.num}x{self._spec.stride}:{super().fingerprint()}"

  def _frames(self, name: str, start: float, end: float) -> list[Any]:
    """The frames of a part of a video, as arrays, or those of a folder, as bytes."""
    s = self._spec
    if 0 < end <= start:
      raise errors.DataError(f"the part from {start} s to {end} s is empty.")
    inside = files.paths_under(self._images, name)
    if inside is None:
      with files.open_under(self._images, name, max_bytes=MAX_VIDEO_BYTES) as file:
        return decode(
          file, repr(name), num=s.num, stride=s.stride, start=start, end=end,
          max_decoded=s.max_decoded, max_secs=s.max_secs,
        )  # fmt: skip
    if start or end:
      raise errors.DataError(f"{name!r} is a folder of frames, which has no seconds to cut it by.")
    there = [p for p in inside[1] if "/" not in p and p.lower().endswith(_FRAME_ENDINGS)]
    if not there:
      raise errors.DataError(f"folder {name!r} has no images ({', '.join(_FRAME_ENDINGS)}).")
    chosen = positions(len(there), s.num, s.stride)
    return files.read_all_under(self._images, [f"{name}/{there[k]}" for k in chosen])


def _seconds(row: dict[str, Any], column: str) -> float:
  """A time in the row, 0 without one."""
  value = row.get(column) if column else None
  if value is None:
    return 0.0
  if type(value) not in (int, float) or not 0 <= value < math.inf:  # NaN too.
    raise errors.DataError(f"{column!r} is {value!r}: expected seconds, 0 or more.")
  return float(value)


def positions(total: int, num: int, stride: int) -> list[int]:
  """Which of `total` frames to take; with stride 0 the middles of `num` parts of equal length."""
  if stride:
    there = range(0, min(total, (num - 1) * stride + 1), stride)
    return [there[i % len(there)] for i in range(num)]
  return [(2 * i + 1) * total // (2 * num) for i in range(num)]


def decode(
  data: bytes | BinaryIO,
  what: str,
  *,
  num: int,
  stride: int,
  start: float = 0.0,
  end: float = 0.0,
  max_decoded: int = MAX_DECODED,
  max_secs: float = MAX_SECS,
) -> list[np.ndarray]:
  """`num` frames, uint8[H, W, 3], of a video file's content.

  Args:
    data: the content, or the file opened for reading; `what` is its name in errors.
    stride: the distance in frames of the video; 0 spreads them evenly.
    start, end: seconds; an end of 0 is the video's. A part in which no frame begins gives the last
      frame before it.
    max_decoded: the limit of pixels of all frames that must be decoded, kept or not; `max_secs` is
      that of seconds of one core, in all.

  ConfigError without PyAV; DataError of no video of a known format, one without frames, or one that
  exceeds the limits.
  """
  try:
    import av  # Optional: only videos need it.
  except ImportError as e:
    raise errors.ConfigError("Reading videos needs PyAV: pip install av") from e
  file = io.BytesIO(data) if isinstance(data, bytes) else data
  total = (num - 1) * stride + 1  # Later frames are not decoded.
  try:
    video = _Video(av, file, max_decoded, max_secs)
    if not stride:
      total = video.count(start, end)
    wanted = positions(max(total, 1), num, stride)
    kept, seen = video.kept(set(wanted), start, end)
  except errors.DataError as e:
    raise errors.DataError(f"{what} {e}") from None
  except Exception as e:  # Whatever PyAV raises on damaged files: many types.
    if isinstance(e, MemoryError) and not isinstance(e, av.error.FFmpegError):
      raise  # FFmpeg raises its own when a stream limit is reached.
    raise errors.DataError(f"{what} is no video that can be decoded: {e}") from None
  if not kept:
    raise errors.DataError(f"{what} has no frames.")
  if stride:
    wanted = positions(max(seen, 1), num, stride)
  # A broken end has fewer frames than its container claims: the last one is repeated.
  last = kept[max(kept)]
  return [kept.get(i, last) for i in wanted]


class _Video:
  """A video file and the rest of its limits, for one row and one thread."""

  def __init__(self, av: Any, file: BinaryIO, max_decoded: int, max_secs: float):
    self._av, self._file = av, file
    self._max_decoded, self._max_secs = max_decoded, max_secs
    self._decoded = 0
    self._until = time.thread_time() + max_secs
    self._format = find(file)

  def count(self, start: float, end: float) -> int:
    """How many frames begin from start to end; nothing is decoded."""
    number = 0
    for packet in self._packets(0.0):
      if packet.size:
        at = packet.pts if packet.pts is not None else packet.dts or 0
        seconds = float(at * packet.time_base)
        number += start <= seconds and (not end or seconds < end)
    return number

  def kept(self, wanted: set[int], start: float, end: float) -> tuple[dict[int, np.ndarray], int]:
    """({position: frame} of the existing `wanted`, number of frames read) from start to end."""
    found: dict[int, np.ndarray] = {}
    seen, before, left = 0, None, MAX_KEPT_PIXELS
    for frame in self._frames(start):
      seconds = frame.time or 0.0
      if seconds < start:
        before = frame
        continue
      if seen > max(wanted) or (end and seconds >= end):
        break
      if seen in wanted:
        left -= frame.width * frame.height
        if left < 0:
          raise errors.DataError(
            f"has {len(wanted)} frames of {frame.width} x {frame.height} pixels; a row may have"
            f" {MAX_KEPT_PIXELS} pixels in all. Make the video smaller."
          )
        found[seen] = frame.to_ndarray(format="rgb24")
      seen += 1
    if not seen and before is not None:
      found[0] = before.to_ndarray(format="rgb24")
    return found, seen

  def _frames(self, start: float) -> Iterator[Any]:
    for packet in self._packets(start):
      self._spend(_BYTE_PIXELS * packet.size)
      is_jpeg = packet.stream.codec_context.name == "mjpeg"
      if is_jpeg and bytes(packet).count(b"\xff\xda") > file_checks.MAX_SCANS:
        raise errors.DataError(f"has a JPEG frame of more than {file_checks.MAX_SCANS} scans.")
      for frame in packet.decode():
        self._check_frame(frame.width, frame.height)
        self._spend(max(frame.width * frame.height, _LEAST_PIXELS))
        yield frame

  def _packets(self, start: float) -> Iterator[Any]:
    """The packets of the first video stream, from the key frame before `start`."""
    self._file.seek(0)
    options = {
      "format_whitelist": self._format,
      "codec_whitelist": ",".join(CODECS),
      "protocol_whitelist": "none",
      "max_streams": str(MAX_STREAMS),
      "max_pixels": str(MAX_FRAME_PIXELS),
    }
    if self._format == MOV:
      options |= {"enable_drefs": "0", "use_absolute_path": "0"}
    with self._av.open(
      _Watched(self._file, self._check_time),
      format=self._format.split(",")[0],
      options=options,
      metadata_errors="replace",
      io_open=_open_nothing,
    ) as container:
      stream = container.streams.video[0]
      codec = stream.codec_context
      name = "unknown" if codec is None else codec.name
      if name not in CODECS:
        raise errors.DataError(
          f"has the codec {name!r}, which is none of {', '.join(CODECS)}. Convert it to H.264"
          " first."
        )
      self._check_frame(codec.width, codec.height)
      codec.thread_count = 1
      codec.options = {"max_pixels": str(MAX_FRAME_PIXELS)}
      if start:
        container.seek(int(start * self._av.time_base))
      for packet in container.demux(stream):
        self._check_time()
        yield packet

  def _check_frame(self, width: int, height: int) -> None:
    if width * height > MAX_FRAME_PIXELS:
      raise errors.DataError(
        f"has frames of {width} x {height}; the limit is {MAX_FRAME_PIXELS} pixels. Make it"
        " smaller first."
      )

  def _spend(self, pixels: int) -> None:
    self._decoded += pixels
    if self._decoded > self._max_decoded:
      raise errors.DataError(
        f"has its frames behind more than {self._max_decoded} pixels to decode. Cut it"
        " first, store its frames as images, or raise Video.max_decoded."
      )

  def _check_time(self) -> None:
    if time.thread_time() > self._until:
      raise errors.DataError(
        f"takes more than {self._max_secs:g} s of a core to decode. Cut it first, store its"
        " frames as images, or raise Video.max_secs."
      )


class _Watched:
  """A file that FFmpeg can only read; each read checks the time limit."""

  def __init__(self, file: BinaryIO, check: Any):
    self._file, self._check = file, check
    self.seek, self.tell = file.seek, file.tell

  def read(self, size: int) -> bytes:
    self._check()
    return self._file.read(size)


def _open_nothing(url: str, flags: int, options: dict[str, str]) -> Any:
  raise errors.DataError(f"refers to another file, {url[:80]!r}, which is never opened.")


def find(file: BinaryIO) -> str:
  """FFmpeg's name of the file's format.

  DataError of none of FORMATS, and of an index that claims too many samples; its text continues a
  sentence that starts with the file's name.
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
  for first, step in ((0, _TS), (4, _TS + 4)):  # Of broadcasts and of cameras.
    marks = start[first::step]
    if len(marks) > 1 and marks == b"G" * len(marks):
      return "mpegts"
  raise errors.DataError(
    f"is no video that can be decoded: it starts with {start[:12]!r}, like none of"
    f" {', '.join(FORMATS.values())}. Convert it to MP4 first."
  )


def _check_boxes(file: BinaryIO) -> None:
  """DataError where a box of a MOV claims more than MAX_SAMPLES."""
  samples = 0
  for kind, start, end in _boxes(file, 0, file.seek(0, 2)):
    if kind == b"cmov":
      raise errors.DataError("has a compressed header, which is obsolete.")
    file.seek(start)
    head = file.read(min(12, end - start))
    if len(head) < 12:
      continue
    first, second = struct.unpack_from(">II", head, 4)
    number = 0
    if kind in (b"stsz", b"stz2"):
      number = second
    elif kind in (b"stts", b"ctts"):
      number = _sum_of_counts(file, start + 8, first, end)
    elif kind == b"trun":
      number = samples = samples + first
    if number > MAX_SAMPLES:
      raise errors.DataError(f"claims {number} samples; the limit is {MAX_SAMPLES}.")


def _sum_of_counts(file: BinaryIO, start: int, entries: int, end: int) -> int:
  """The sum of the counts in a table of (count, value), up to the end of the file."""
  left, total = min(entries, (end - start) // 8), 0
  file.seek(start)
  while left > 0 and total <= MAX_SAMPLES:
    raw = file.read(8 * min(left, _ENTRIES_AT_ONCE))
    if len(raw) < 8:
      break
    total += sum(count for count, _ in struct.iter_unpack(">II", raw[: len(raw) // 8 * 8]))
    left -= _ENTRIES_AT_ONCE
  return total


def _boxes(file: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
  """(kind, start, end) of the content of each box, nested ones too."""
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
    if stop < body:  # No box: FFmpeg stops here too.
      continue
    number += 1
    if number > _MAX_BOXES:
      raise errors.DataError(f"has more than {_MAX_BOXES} boxes.")
    yield kind, body, stop
    todo.append((stop, end))
    if kind in _INSIDE:
      todo.append((body, stop))
