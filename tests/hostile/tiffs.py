"""TIFF files that ask for gigabytes or minutes, or that point out of themselves."""

import struct
import zlib

ACCEPT, REJECT = "accept", "reject"


def tiff(data=b"\0" * 64, *, width=8, height=8, pages=1, loop=False, **tags):
  """A grey TIFF of one strip; `tags` are t<number>=(values), which may be anything."""
  start = 8 + len(data)
  fields = {
      256: (width,), 257: (height,), 258: (8,), 259: (1,), 262: (1,), 273: (8,), 277: (1,),
      278: (height,), 279: (len(data),),
  } | {int(name[1:]): values for name, values in tags.items()}  # fmt: skip
  fields = {tag: values for tag, values in sorted(fields.items()) if values}
  size = 2 + 12 * len(fields) + 4
  entries, outside = b"", b""
  after = start + size * pages
  for tag, values in fields.items():
    body = struct.pack(f"<{len(values)}I", *values)
    if len(body) > 4:
      entries += struct.pack("<HHII", tag, 4, len(values), after + len(outside))
      outside += body
    else:
      entries += struct.pack("<HHI", tag, 4, 1) + body
  ifds = b""
  for page in range(pages):
    last = start if loop else 0
    later = start + size * (page + 1) if page < pages - 1 else last
    ifds += struct.pack("<H", len(fields)) + entries + struct.pack("<I", later)
  return struct.pack("<2sHI", b"II", 42, start) + data + ifds + outside


def _claimed(count):
  """A file whose list of strips claims so many values."""
  plain = bytearray(tiff())
  at = plain.index(struct.pack("<HHI", 273, 4, 1))
  plain[at : at + 8] = struct.pack("<HHI", 273, 4, count)
  return bytes(plain)


def _deflated(side):
  data = zlib.compress(bytes(side * side), 9)
  return tiff(data, width=side, height=side, t259=(8,))


IMAGES = {
    "tiff plain": (tiff, ACCEPT),
    "tiff of 20 pages": (lambda: tiff(pages=20), ACCEPT),
    "tiff deflate of 24 Mpx": (lambda: _deflated(4900), ACCEPT),
    "tiff deflate of 49 Mpx": (lambda: _deflated(7000), REJECT),
    "tiff header of 30000 x 30000": (lambda: tiff(width=30_000, height=30_000), REJECT),
    "tiff short of rows": (lambda: tiff(height=64), REJECT),
    "tiff strip behind the end": (lambda: tiff(t273=(5000,)), REJECT),
    "tiff strips that overlap": (lambda: tiff(t273=(8,) * 999, t279=(64,) * 999), REJECT),
    "tiff 60000 strips": (lambda: tiff(t273=(8,) * 60_000, t279=(0,) * 60_000), REJECT),
    "tiff a list of 2 million strips": (lambda: _claimed(2_000_000), REJECT),
    "tiff a list of 4 billion strips": (lambda: _claimed(2**32 - 1), REJECT),
    "tiff tile of 30000 x 30000": (
        lambda: tiff(t273=(), t278=(), t279=(), t322=(30_000,), t323=(30_000,), t324=(8,),
                     t325=(64,)), REJECT,
    ),
    "tiff pages in a circle": (lambda: tiff(pages=3, loop=True), REJECT),
    "tiff of 2000 pages": (lambda: tiff(pages=2000), REJECT),
    "tiff 200 channels": (lambda: tiff(t277=(200,), t258=(8,) * 200), REJECT),
    "tiff 64 bits": (lambda: tiff(t258=(64,)), REJECT),
    "tiff jpeg inside": (lambda: tiff(t259=(7,)), REJECT),
}  # fmt: skip
