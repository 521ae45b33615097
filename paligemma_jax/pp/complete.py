"""Is this image file all there? Decoders forgive a cut end or a wrong checksum; labels do not.

Only containers are walked here, from length field to length field; pixels are Pillow's business.
"""

from __future__ import annotations

import struct
import zlib

from paligemma_jax.core import errors

_PNG = b"\x89PNG\r\n\x1a\n"


def check(data: bytes) -> None:
  """Passes complete files and whatever is no image at all (which the decoder will say).

  Bytes after the end of the image are harmless and pass.

  Raises:
    DataError: the file ends early, or a PNG chunk has a wrong checksum.
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
      _bmp(data)
  except (IndexError, struct.error):
    raise errors.DataError(f"the image file is cut short after {len(data)} bytes.") from None


def _png(data: bytes) -> None:
  pos = len(_PNG)
  while True:
    size, kind = struct.unpack_from(">I4s", data, pos)
    end = pos + 8 + size
    (crc,) = struct.unpack_from(">I", data, end)
    if zlib.crc32(memoryview(data)[pos + 4 : end]) != crc:
      raise errors.DataError(f"the PNG chunk {kind!r} at byte {pos} has a wrong checksum.")
    if kind == b"IEND":
      return
    pos = end + 4


def _jpeg(data: bytes) -> None:
  """Walks the segments to each scan, and from there to the next marker, up to the end marker."""
  pos = 2
  while True:
    while data[pos] != 0xFF or data[pos + 1] in (0x00, 0xFF) or 0xD0 <= data[pos + 1] <= 0xD7:
      found = data.find(b"\xff", pos + 1)  # Fill bytes, stuffed zeros and restarts are no segments.
      if found < 0:
        raise IndexError
      pos = found
    marker = data[pos + 1]
    pos += 2
    if marker == 0xD9:
      return
    if marker not in (0x01, 0xD8):
      pos += struct.unpack_from(">H", data, pos)[0]


def _gif(data: bytes) -> None:
  flags = data[10]
  pos = 13 + (3 << ((flags & 7) + 1) if flags & 0x80 else 0)
  while data[pos] != 0x3B:
    if data[pos] == 0x2C:
      flags = data[pos + 9]
      pos += 11 + (3 << ((flags & 7) + 1) if flags & 0x80 else 0)
    elif data[pos] == 0x21:
      pos += 2
    else:
      raise errors.DataError(f"the GIF has no block at byte {pos}.")
    while data[pos]:
      pos += 1 + data[pos]
    pos += 1


def _riff(data: bytes) -> None:
  (size,) = struct.unpack_from("<I", data, 4)
  if len(data) < 8 + size:
    raise IndexError


def _bmp(data: bytes) -> None:
  """The size in the file header; some writers leave it 0."""
  (size,) = struct.unpack_from("<I", data, 2)
  if len(data) < size:
    raise IndexError
