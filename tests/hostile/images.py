"""Makers of image files that data sets really contain, and what is decided about each.

`MAKERS` maps a name to (maker, decision): a maker returns the file's bytes; the decision is
"accept" or "reject", and for accepted files the notes that the decoder must leave.
"""

import io
import struct
import zlib

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 24, 32


def picture():
  """uint8[24, 32, 3]: smooth, every side different, so that turns and channel swaps show."""
  y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
  return np.stack([y * 10, x * 7, 255 - y * 5 - x * 3], axis=-1).astype(np.uint8)


def encode(image, file_format, **options):
  out = io.BytesIO()
  image.save(out, file_format, **options)
  return out.getvalue()


def rgb(file_format, **options):
  return encode(Image.fromarray(picture()), file_format, **options)


def png(width, height, *, depth, color, data, extra=b""):
  """A PNG from its parts; `data` are the filtered scan lines."""
  header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
  chunks = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(data))
  return b"\x89PNG\r\n\x1a\n" + chunks + chunk(b"IEND", b"")


def chunk(kind, body):
  return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def rgba(file_format="PNG", **options):
  alpha = np.full((HEIGHT, WIDTH, 1), 128, np.uint8)
  return encode(Image.fromarray(np.concatenate([picture(), alpha], -1)), file_format, **options)


def grey_16_bit():
  levels = np.arange(HEIGHT * WIDTH, dtype=np.uint32) * 65535 // (HEIGHT * WIDTH - 1)
  lines = levels.astype(">u2").reshape(HEIGHT, WIDTH)
  data = b"".join(b"\0" + line.tobytes() for line in lines)
  return png(WIDTH, HEIGHT, depth=16, color=0, data=data)


def rgb_16_bit():
  lines = (picture().astype(np.uint16) * 257).astype(">u2").reshape(HEIGHT, -1)
  data = b"".join(b"\0" + line.tobytes() for line in lines)
  return png(WIDTH, HEIGHT, depth=16, color=2, data=data)


def palette(transparent=False):
  image = Image.fromarray(picture()).quantize(16)
  return encode(image, "PNG", **({"transparency": 0} if transparent else {}))


def cmyk():
  return encode(Image.fromarray(picture()).convert("CMYK"), "JPEG", quality=95)


def animated(file_format):
  frames = [Image.fromarray(np.roll(picture(), i, axis=1)) for i in range(3)]
  return encode(frames[0], file_format, save_all=True, append_images=frames[1:], duration=10)


def exif(orientation):
  data = Image.Exif()
  data[0x0112] = orientation
  return rgb("JPEG", quality=95, exif=data.tobytes())


def damaged_exif():
  return rgb("JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + b"\x41" * 40)


def huge(width, height):
  """A PNG header that promises a lot, over almost no data."""
  return png(width, height, depth=8, color=2, data=b"\0" * 64)


def bomb():
  """50 000 x 50 000 white pixels in 300 kB: as far as the header goes, a sound file."""
  squeeze = zlib.compressobj(9)
  data = squeeze.compress(b"\0" * (1 << 20)) + squeeze.flush()
  header = struct.pack(">IIBBBBB", 50_000, 50_000, 1, 0, 0, 0, 0)
  return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def wrong_checksum():
  data = bytearray(rgb("PNG"))
  at = data.index(b"IDAT")
  (size,) = struct.unpack_from(">I", data, at - 4)
  data[at + 4 + size] ^= 0xFF
  return bytes(data)


def half(data):
  return data[: len(data) // 2]


def no_end_marker(data):
  return data[:-2]


def jpeg_with_thumbnail_cut():
  """The end marker of the embedded thumbnail must not pass for the image's own."""
  thumbnail = rgb("JPEG", quality=10)
  body = b"Exif\0\0" + thumbnail
  app = b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body
  full = rgb("JPEG", quality=95)
  return half(full[:2] + app + full[2:] + b"\0" * 2)


def tiff():
  return rgb("TIFF")


def as_tiff(mode):
  return encode(Image.fromarray(picture()).convert(mode), "TIFF")


def tiff_16_bit():
  return encode(Image.fromarray(picture()[..., 0].astype(np.uint16) * 256), "TIFF")


def with_chunk(kind, size):
  """A PNG with a compressed text or profile that is larger than Pillow reads."""
  plain = rgb("PNG")
  at = plain.index(b"IHDR") + 4 + 13 + 4
  body = b"Name\0\0" + zlib.compress(bytes(range(256)) * (size // 256))
  return plain[:at] + chunk(kind, body) + plain[at:]


def float_tiff():
  return encode(Image.fromarray(picture()[..., 0].astype(np.float32)), "TIFF")


SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><rect width="9" height="9"/></svg>'
HTML = b"<!doctype html><title>404</title>Not found"

ACCEPT, REJECT = "accept", "reject"

MAKERS = {
  "jpeg": (lambda: rgb("JPEG", quality=95), ACCEPT, ()),
  "jpeg progressive": (lambda: rgb("JPEG", quality=95, progressive=True), ACCEPT, ()),
  "jpeg grey": (
    lambda: encode(Image.fromarray(picture()).convert("L"), "JPEG", quality=95),
    ACCEPT,
    (),
  ),
  "jpeg cmyk": (cmyk, ACCEPT, ()),
  "jpeg upside down": (lambda: exif(3), ACCEPT, ("exif_rotated",)),
  "jpeg on its side": (lambda: exif(6), ACCEPT, ("exif_rotated",)),
  "jpeg mirrored": (lambda: exif(5), ACCEPT, ("exif_rotated",)),
  "jpeg upright": (lambda: exif(1), ACCEPT, ()),
  "jpeg orientation 99": (lambda: exif(99), ACCEPT, ()),
  "jpeg then rubbish": (lambda: rgb("JPEG") + b"rubbish" * 99, ACCEPT, ()),
  "png": (lambda: rgb("PNG"), ACCEPT, ()),
  "png then rubbish": (lambda: rgb("PNG") + b"rubbish", ACCEPT, ()),
  "png alpha": (rgba, ACCEPT, ("alpha_dropped",)),
  "png grey alpha": (
    lambda: encode(Image.fromarray(picture()).convert("LA"), "PNG"),
    ACCEPT,
    ("alpha_dropped",),
  ),
  "png palette": (palette, ACCEPT, ()),
  "png palette alpha": (lambda: palette(True), ACCEPT, ("alpha_dropped",)),
  "png 1 bit": (lambda: encode(Image.fromarray(picture()).convert("1"), "PNG"), ACCEPT, ()),
  "png 16 bit grey": (grey_16_bit, ACCEPT, ()),
  "png 16 bit rgb": (rgb_16_bit, ACCEPT, ()),
  "png one pixel": (lambda: encode(Image.new("RGB", (1, 1)), "PNG"), ACCEPT, ()),
  "png animated": (lambda: animated("PNG"), ACCEPT, ("animation_first_frame",)),
  "gif": (lambda: rgb("GIF"), ACCEPT, ()),
  "gif animated": (lambda: animated("GIF"), ACCEPT, ("animation_first_frame",)),
  "webp": (lambda: rgb("WEBP", quality=95), ACCEPT, ()),
  "webp lossless": (lambda: rgb("WEBP", lossless=True), ACCEPT, ()),
  "webp alpha": (lambda: rgba("WEBP"), ACCEPT, ("alpha_dropped",)),
  "webp animated": (lambda: animated("WEBP"), ACCEPT, ("animation_first_frame",)),
  "bmp": (lambda: rgb("BMP"), ACCEPT, ()),
  "empty": (lambda: b"", REJECT, ()),
  "one byte": (lambda: b"\xff", REJECT, ()),
  "html": (lambda: HTML, REJECT, ()),
  "svg": (lambda: SVG, REJECT, ()),
  "tiff": (tiff, ACCEPT, ()),
  "tiff lzw": (lambda: rgb("TIFF", compression="tiff_lzw"), ACCEPT, ()),
  "tiff deflate": (lambda: rgb("TIFF", compression="tiff_adobe_deflate"), ACCEPT, ()),
  "tiff cmyk": (lambda: as_tiff("CMYK"), ACCEPT, ()),
  "tiff palette": (lambda: as_tiff("P"), ACCEPT, ()),
  "tiff ycbcr": (lambda: as_tiff("YCbCr"), ACCEPT, ()),
  "tiff 16 bit": (tiff_16_bit, ACCEPT, ()),
  "tiff jpeg": (lambda: rgb("TIFF", compression="jpeg"), REJECT, ()),
  "tiff lzw half": (lambda: half(rgb("TIFF", compression="tiff_lzw")), REJECT, ()),
  "png text of 3 MB": (lambda: with_chunk(b"zTXt", 3 << 20), ACCEPT, ()),
  "png profile of 2 MB": (lambda: with_chunk(b"iCCP", 2 << 20), ACCEPT, ()),
  "tiff float": (float_tiff, REJECT, ()),
  "ico": (lambda: rgb("ICO"), REJECT, ()),
  "pdf": (lambda: rgb("PDF"), REJECT, ()),
  "jpeg half": (lambda: half(rgb("JPEG")), REJECT, ()),
  "jpeg progressive half": (lambda: half(rgb("JPEG", progressive=True)), REJECT, ()),
  "jpeg without end": (lambda: no_end_marker(rgb("JPEG")), REJECT, ()),
  "jpeg thumbnail whole, image cut": (jpeg_with_thumbnail_cut, REJECT, ()),
  "jpeg header only": (lambda: rgb("JPEG")[:160], REJECT, ()),
  "png half": (lambda: half(rgb("PNG")), REJECT, ()),
  "png wrong checksum": (wrong_checksum, REJECT, ()),
  "png header only": (lambda: rgb("PNG")[:33], REJECT, ()),
  "png too little data": (lambda: huge(64, 64), REJECT, ()),
  "png too many pixels": (lambda: huge(12_000, 12_000), REJECT, ()),
  "png side too long": (lambda: huge(40_000, 2), REJECT, ()),
  "png bomb": (bomb, REJECT, ()),
  "gif half": (lambda: half(rgb("GIF")), REJECT, ()),
  "webp half": (lambda: half(rgb("WEBP")), REJECT, ()),
  "bmp half": (lambda: half(rgb("BMP")), REJECT, ()),
}
