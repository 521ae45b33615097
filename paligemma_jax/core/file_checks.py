"""Checks of files before they are decoded: complete, cheap to read, of the right kind.

They find image files that are cut short or made to be slow, bad zip directories, and files that a
download left in place of others: pointers of git-lfs, web pages, other formats.
"""

from __future__ import annotations

import math
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from paligemma_jax.core import atomic_io
from paligemma_jax.core import errors

MAX_SCANS = 64  # Of a JPEG. Encoders write 10 to 20; each scan costs a pass over the image.
MAX_PARTS = 50_000  # PNG chunks, JPEG segments or WebP chunks.
MAX_GIF_BLOCKS = 500_000  # Of up to 255 bytes each.
_MAX_EXIF_BYTES = 1 << 20  # Of a JPEG; a segment has 64 KiB at most.
_MAX_TAG_BYTES = 16 << 20  # Of all entries of an EXIF block.

_PNG = b"\x89PNG\r\n\x1a\n"
_EXIF = b"Exif\0\0"
# A marker starts a segment; stuffed zeros, fill bytes and restarts do not.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_TAG_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 16: 8}
_PASSES = (  # Of an interlaced PNG: first column and row, and the steps between them.
    (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)
)  # fmt: skip
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_ORIENTING = (b"Raw profile type exif\0", b"XML:com.adobe.xmp\0")  # Texts that may hold EXIF.
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_INFLATE_BYTES = 1 << 20
_TIFF_TAGS = (256, 257, 258, 259, 273, 277, 279, 322, 323, 324, 325)
_MAX_PAGES = 1000  # Of a TIFF; the first is read.
_MAX_TILE_PIXELS = 1 << 22  # A decoder allocates a whole tile.
_PLAIN = 1  # A TIFF without compression. The others are fax, LZW, deflate and packed bits.
_COMPRESSIONS = (_PLAIN, 2, 3, 4, 5, 8, 32773, 32946)


def check(data: bytes) -> None:
  """Passes complete files, and files of other formats, which the decoder rejects.

  Bytes after the end of the image are ignored. A DataError for a file that ends early, a PNG chunk
  of a wrong checksum, and what would take more time or memory than its pixels explain.
  """
  if not data:
    raise errors.DataError("the image file is empty.")
  try:
    if data.startswith(_PNG):
      _png(data)
    elif data.startswith(b"\xff\xd8"):
      _jpeg(data)
    elif data[:6] in (b"GIF87a", b"GIF89a"):
      _gif(data)
    elif data.startswith(b"RIFF"):
      _riff(data)
    elif data.startswith(b"BM"):
      (size,) = struct.unpack_from("<I", data, 2)  # Some writers leave it 0.
      if len(data) < size:
        raise IndexError
    elif data.startswith((b"II*\0", b"MM\0*")):
      _tiff(data)
  except (IndexError, struct.error):
    raise errors.DataError(f"the image file is cut short after {len(data)} bytes.") from None


def check_tags(block: bytes) -> None:
  """Passes EXIF blocks of a plausible size, and damaged ones, which the decoder handles.

  A DataError where entries claim more bytes than any camera writes; they would all be copied.
  """
  block = block.removeprefix(_EXIF)
  order = {b"II": "<", b"MM": ">"}.get(block[:2], "")
  claimed = 0
  try:
    magic, start = struct.unpack_from(f"{order}HI", block, 2)
    if magic == 43:  # BigTIFF, whose entries have another size.
      raise errors.DataError("an EXIF block of a kind that no camera writes (BigTIFF).")
    (number,) = struct.unpack_from(f"{order}H", block, start)
    for at in range(start + 2, start + 2 + 12 * number, 12):
      _, kind, count = struct.unpack_from(f"{order}HHI", block, at)
      claimed += count * _TAG_SIZES.get(kind, 0)
  except struct.error:
    pass  # It is cut short; the entries before are counted.
  if claimed > _MAX_TAG_BYTES:
    raise errors.DataError(f"an EXIF block of {len(block)} bytes that claims to hold {claimed}.")


def png_holds_all_rows(data: bytes) -> bool:
  """Whether the compressed data of an intact PNG file hold all rows of the image.

  Decoders leave missing rows blank.
  """
  header: tuple[int, ...] = ()
  body: list[tuple[int, int]] = []
  for kind, start, end in _chunks(data):
    if kind == b"IHDR":
      header = struct.unpack_from(">IIBBxxB", data, start)
    elif kind == b"IDAT":
      body.append((start, end))
  width, height, depth, color, interlaced = header
  bits = depth * _PNG_CHANNELS[color]
  needed = 0
  for x, y, step_x, step_y in _PASSES if interlaced else ((0, 0, 1, 1),):
    columns, rows = -(-(width - x) // step_x), -(-(height - y) // step_y)
    if columns > 0 and rows > 0:
      needed += rows * (1 + (columns * bits + 7) // 8)
  inflate = zlib.decompressobj()
  try:
    for start, end in body:
      piece: bytes | memoryview = memoryview(data)[start:end]
      while piece and needed > 0:
        needed -= len(inflate.decompress(piece, _INFLATE_BYTES))
        piece = inflate.unconsumed_tail
    return needed <= 0 or needed <= len(inflate.flush())
  except zlib.error:
    return False


def without_texts(data: bytes) -> bytes:
  """An intact PNG file without its texts and color profile, but with those that may hold EXIF.

  Other files are returned as they are.
  """
  if not data.startswith(_PNG):
    return data
  chunks = list(_chunks(data))
  kept = [
    (start, end)
    for kind, start, end in chunks
    if kind != b"iCCP" and (kind not in _TEXTS or data.startswith(_ORIENTING, start))
  ]
  if len(kept) == len(chunks):
    return data
  return b"".join((_PNG, *(data[start - 8 : end + 4] for start, end in kept)))


def png_says_orientation(data: bytes) -> bool:
  """Whether an intact PNG file has a chunk that may hold an EXIF orientation."""
  return any(
    kind == b"eXIf" or (kind in _TEXTS and data.startswith(_ORIENTING, start))
    for kind, start, _ in _chunks(data)
  )


def _png(data: bytes) -> None:
  for kind, start, end in _chunks(data):
    (crc,) = struct.unpack_from(">I", data, end)
    if zlib.crc32(memoryview(data)[start - 4 : end]) != crc:
      raise errors.DataError(f"the PNG chunk {kind!r} at byte {start - 8} has a wrong checksum.")
    if kind == b"eXIf":
      check_tags(data[start:end])


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
  """(kind, start, end) of the content of each chunk of a PNG file, up to IEND."""
  pos = len(_PNG)
  for _ in range(MAX_PARTS):
    size, kind = struct.unpack_from(">I4s", data, pos)
    yield kind, pos + 8, pos + 8 + size
    if kind == b"IEND":
      return
    pos += 12 + size
  raise errors.DataError(f"a PNG of more than {MAX_PARTS} chunks.")


def _jpeg(data: bytes) -> None:
  """Walks from segment to segment, over the data of each scan, up to the end marker."""
  pos, scans, components, lossless, exif = 2, 0, 0, False, b""
  seen: set[int] = set()  # The components that some scan holds, in whatever detail.
  for _ in range(MAX_PARTS):
    found = _MARKER.search(data, pos)
    if found is None:
      raise IndexError
    pos = found.end()
    marker = data[pos - 1]
    if marker == 0xD9:
      break
    if marker in (0x01, 0xD8):
      continue
    (size,) = struct.unpack_from(">H", data, pos)
    body = data[pos + 2 : pos + size]
    if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
      components, lossless = body[5], marker & 3 == 3
    elif marker == 0xDA:
      scans += 1
      if scans > MAX_SCANS:
        raise errors.DataError(
          f"a JPEG of more than {MAX_SCANS} scans; each costs a pass over the whole image."
        )
      if lossless or body[1 + 2 * body[0]] == 0:  # The scan has the mean of each block.
        seen.update(body[1 : 1 + 2 * body[0] : 2])
    elif marker == 0xE1 and body.startswith(_EXIF):
      exif += body if not exif else body[len(_EXIF) :]  # Pillow joins them, too.
      if len(exif) > _MAX_EXIF_BYTES:
        raise errors.DataError(f"a JPEG with more than {_MAX_EXIF_BYTES} bytes of EXIF.")
    elif marker == 0xE2 and body.startswith(b"MPF\0"):
      check_tags(body[4:])
    pos += size
  else:
    raise errors.DataError(f"a JPEG of more than {MAX_PARTS} segments.")
  check_tags(exif)
  if scans and len(seen) < components:
    raise errors.DataError(
      f"the JPEG is cut short: it does not have all of its {components} components."
    )


def _gif(data: bytes) -> None:
  flags = data[10]
  pos = 13 + (3 << ((flags & 7) + 1) if flags & 0x80 else 0)
  blocks = 0
  while data[pos] != 0x3B:
    if data[pos] == 0x2C:
      flags = data[pos + 9]
      pos += 11 + (3 << ((flags & 7) + 1) if flags & 0x80 else 0)
    elif data[pos] == 0x21:
      pos += 2
    else:
      raise errors.DataError(f"the GIF has no block at byte {pos}.")
    blocks += 1
    while data[pos]:
      pos += 1 + data[pos]
      blocks += 1
      if blocks > MAX_GIF_BLOCKS:
        raise errors.DataError(f"a GIF of more than {MAX_GIF_BLOCKS} blocks.")
    pos += 1


def _riff(data: bytes) -> None:
  (size,) = struct.unpack_from("<I", data, 4)
  if len(data) < 8 + size:
    raise IndexError
  pos, end = 12, 8 + size
  for _ in range(MAX_PARTS):
    if pos + 8 > end:
      return
    kind, length = struct.unpack_from("<4sI", data, pos)
    if kind == b"EXIF":
      check_tags(data[pos + 8 : pos + 8 + length])
    pos += 8 + length + length % 2
  raise errors.DataError(f"a WebP of more than {MAX_PARTS} chunks.")


def _tiff(data: bytes) -> None:
  """Checks that the file holds the data of the first page, and as many as its pixels need."""
  check_tags(data)
  order = "<" if data.startswith(b"II") else ">"
  (start,) = struct.unpack_from(f"{order}I", data, 4)
  tags, later = _page(data, order, start)
  pages = 1
  while later:
    pages += 1
    if pages > _MAX_PAGES:
      raise errors.DataError(f"a TIFF of more than {_MAX_PAGES} pages.")
    _, later = _page(data, order, later, tags=False)
  (width,), (height,) = tags.get(256, (0,)), tags.get(257, (0,))
  compression = tags.get(259, (_PLAIN,))[0]
  if compression not in _COMPRESSIONS:
    raise errors.DataError(
      f"a TIFF that is compressed by method {compression}, which is not read. Convert it before:"
      " image.convert('RGB').save('….png') with Pillow does."
    )
  if math.prod(tags.get(tag, (0,))[0] for tag in (322, 323)) > _MAX_TILE_PIXELS:
    raise errors.DataError(f"a TIFF with tiles of more than {_MAX_TILE_PIXELS} pixels.")
  places = tags.get(273) or tags.get(324) or ()
  sizes = tags.get(279) or tags.get(325) or ()
  if len(places) != len(sizes) or not places or sum(sizes) > len(data):
    raise errors.DataError("a TIFF whose list of strips is damaged.")
  if any(place + size > len(data) for place, size in zip(places, sizes, strict=True)):
    raise IndexError
  depths, samples = tags.get(258, (1,)), tags.get(277, (1,))[0]
  bits = sum(depths) if len(depths) == samples else depths[0] * samples
  if compression == _PLAIN and sum(sizes) < height * ((width * bits + 7) // 8):
    raise IndexError


def _page(
  data: bytes, order: str, start: int, *, tags: bool = True
) -> tuple[dict[int, tuple[int, ...]], int]:
  """{tag of _TIFF_TAGS: numbers} of a TIFF's page, and the place of the next page (0: none)."""
  (number,) = struct.unpack_from(f"{order}H", data, start)
  (later,) = struct.unpack_from(f"{order}I", data, start + 2 + 12 * number)
  found = {}
  for at in range(start + 2, start + 2 + 12 * number, 12) if tags else ():
    tag, kind, count = struct.unpack_from(f"{order}HHI", data, at)
    letter = {3: "H", 4: "I"}.get(kind)
    if letter is None or tag not in _TIFF_TAGS or not count:
      continue
    if count > MAX_PARTS:
      raise errors.DataError(f"a TIFF of more than {MAX_PARTS} strips.")
    place = at + 8
    if count * struct.calcsize(letter) > 4:
      (place,) = struct.unpack_from(f"{order}I", data, place)
    found[tag] = struct.unpack_from(f"{order}{count}{letter}", data, place)
  return found, later


HEAD_BYTES = 1024  # Enough to recognize a format.

_LFS = b"version https://git-lfs.github.com/spec/"
_AVIF = (b"avif", b"avis")
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_CONVERT = "Convert it before: image.convert('RGB').save('….png') with Pillow does"
_AGAIN = "Download the file again"
_STARTS = {
    b"8BPS": "a Photoshop file", b"%PDF": "a PDF document", b"\xff\x0a": "a JPEG XL file",
    b"\0\0\0\x0cJXL ": "a JPEG XL file", b"\0\0\0\x0cjP  ": "a JPEG 2000 file",
    b"\xff\x4f\xff\x51": "a JPEG 2000 file", b"\0\0\1\0": "an icon (ICO)",
    b"v/1\x01": "an OpenEXR file", b"II+\0": "a BigTIFF file", b"MM\0+": "a BigTIFF file",
}  # fmt: skip


def not_downloaded(data: bytes) -> tuple[str, str]:
  """(what the file is, the remedy) where a download gave another file; else ('', '')."""
  text = _text(data)
  if data.startswith(_LFS):
    remedy = "Run 'git lfs pull' where it was cloned, or download the file"
    return "a git-lfs pointer, not the file itself", remedy
  if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
    remedy = f"{_AGAIN}; it may need a login, or be gone"
    return "an HTML page: a web site answered a download with it", remedy
  if text.startswith(b"<?xml") and b"<svg" not in text:
    return "XML text", f"{_AGAIN}; it may be the error message of a server"
  return "", ""


def unread_format(data: bytes) -> tuple[str, str]:
  """As `not_downloaded`, and for images of formats that are not read."""
  found, text = not_downloaded(data), _text(data)
  if found[0]:
    return found
  if b"<svg" in text and text.startswith(b"<"):
    return "an SVG drawing, which has no pixels", "Convert it to PNG before"
  if text.startswith((b'{"', b"{\n", b"{ ")):
    return "JSON text", f"{_AGAIN}; it may be the error message of a server"
  if data.startswith((b"PK\x03\x04", b"\x1f\x8b")):
    return "an archive (ZIP or gzip)", "Unpack it before"
  if data[4:8] == b"ftyp":
    brands = (data[8:12], *(data[i : i + 4] for i in range(16, 64, 4)))
    if any(brand in _AVIF for brand in brands):
      return "an AVIF file", _CONVERT
    if any(brand in _HEIC for brand in brands):
      return "a HEIC file", f"{_CONVERT}, after 'pip install pillow-heif'"
    return "a video", "Read it with sources.Video"
  kinds = (what for start, what in _STARTS.items() if data.startswith(start))
  return next(((what, _CONVERT) for what in kinds), ("", ""))


def _text(data: bytes) -> bytes:
  return data[:HEAD_BYTES].lstrip(b"\xef\xbb\xbf \t\r\n").lower()


def of_file(path: str | os.PathLike[str]) -> str:
  """' It is an HTML page…' for a regular file that a download gave in place of another; else ''."""
  try:
    with atomic_io.open_regular(path) as f:
      what, remedy = not_downloaded(f.read(HEAD_BYTES))
  except OSError:
    return ""
  return f" It is {what}. {remedy}." if what else ""


# At most 40 000 members; zipfile takes 400 bytes of memory for each 47 bytes of a directory.
_MAX_BYTES = 2 << 20
_END_BYTES = 1 << 17  # The end record with its comment.
_PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def members(file: BinaryIO) -> list[zipfile.ZipInfo]:
  """The members of a zip file, in the order of its directory.

  Errors of zipfile for a damaged directory, and for one of more than _MAX_BYTES.
  """
  with zipfile.ZipFile(_Bounded(file)) as archive:
    return archive.infolist()


def is_plain(info: zipfile.ZipInfo) -> bool:
  """Whether a member is stored or deflated; others choose how much memory they take."""
  return not info.flag_bits & 0x1 and info.compress_type in _PACKED


class _Bounded:
  """A file with bounded reads, for zipfile, which reads a directory of any size at once."""

  def __init__(self, file: BinaryIO):
    self._file = file
    self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

  def read(self, num_bytes: int = -1) -> bytes:
    if num_bytes > _MAX_BYTES:
      raise zipfile.BadZipFile(f"a directory of {num_bytes} bytes, the limit is {_MAX_BYTES}")
    return self._file.read(_END_BYTES if num_bytes < 0 else num_bytes)
