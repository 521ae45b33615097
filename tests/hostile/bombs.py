"""Small inputs that ask for gigabytes or minutes, and files that end early in odd ways.

`IMAGES`, `VIDEOS` and `ANNOTATIONS` map a name to (maker, decision). Makers of images and videos
return the file's bytes, those of annotations write a folder and return the source that reads it.
Each is to be refused with a DataError, or read, within the same time and memory.
"""

import functools
import json
import struct
import zlib

import numpy as np
from PIL import Image

from paligemma_jax import sources
from tests.hostile import images

ACCEPT, REJECT = images.ACCEPT, images.REJECT


def flat(file_format, side, mode="RGB", **options):
  return images.encode(Image.new(mode, (side, side)), file_format, **options)


def png_of(width, height, data, *, depth=8, color=2, interlaced=0, chunks=()):
  header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlaced)
  body = b"".join(images.chunk(kind, content) for kind, content in chunks)
  packed = zlib.compress(data, 9)
  return (
      b"\x89PNG\r\n\x1a\n" + images.chunk(b"IHDR", header) + body + images.chunk(b"IDAT", packed)
      + images.chunk(b"IEND", b"")
  )  # fmt: skip


def rows(num, *, line=3 * 64):
  return (b"\0" + b"\x80" * line) * num


def scan_bomb(side, num):
  """A progressive JPEG that says its shortest scan again and again."""
  data = flat("JPEG", side, progressive=True, quality=50)
  at = [i for i in range(len(data) - 1) if data[i : i + 2] == b"\xff\xda"]
  scans = [data[a:b] for a, b in zip(at, [*at[1:], len(data) - 2], strict=True)]
  scan = min(scans[1:], key=len)
  return data[:-2] + scan.split(b"\xff\xc4")[0] * num + b"\xff\xd9"


def jpeg_with(segments):
  data = images.rgb("JPEG")
  return data[:2] + segments + data[2:]


def tags(num, size):
  """An EXIF block of `num` entries that all mean the same `size` bytes."""
  entries = b"".join(struct.pack("<HHII", 40_000 + i % 20_000, 7, size, 8) for i in range(num))
  return b"II*\0\x08\0\0\0" + struct.pack("<H", num) + entries + bytes(4)


def app(marker, body):
  return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def cut_with_end(data, end, share=2):
  return data[: len(data) // share] + end


def gif_of(width, height, blocks, *, before=b""):
  head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(range(6)) + before
  return head + b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02" + blocks + b"\0;"


def webp_chunks(num):
  body = b"WEBP" + images.rgb("WEBP", lossless=True)[12:] + (b"JUNK" + bytes(4)) * num
  return b"RIFF" + struct.pack("<I", len(body)) + body


def webp_header(width, height):
  """Lossless, with next to no data."""
  data = bytearray(images.rgb("WEBP", lossless=True))
  struct.pack_into("<I", data, 21, (width - 1) | (height - 1) << 14)
  return bytes(data)


def packed_bmp(width, height, data, bits=8):
  start = 14 + 40 + 4 * (1 << bits)
  head = struct.pack("<2sIHHI", b"BM", start + len(data), 0, 0, start)
  info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, 1, len(data), 0, 0, 0, 0)
  return head + info + bytes(4 * (1 << bits)) + data


@functools.cache
def noise():
  y, x = np.mgrid[0:60, 0:80]
  pixels = np.stack([x * 3 + y, x + y * 4, x * y], -1) % 200 + 20
  return Image.fromarray(pixels.astype(np.uint8))


def of_noise(file_format, **options):
  return images.encode(noise(), file_format, **options)


def short_png(**options):
  """Whole chunks with right checksums, and half of the rows."""
  return png_of(64, 64, rows(32), **options)


def animated_png_cut():
  data = images.animated("PNG")
  return data[: data.index(b"fdAT") + 20]


IMAGES = {
  "jpeg of 8000 scans": (lambda: scan_bomb(7000, 8000), REJECT),
  "jpeg of 60 scans and 49 Mpx": (lambda: scan_bomb(7000, 50), ACCEPT),
  "jpeg progressive, 49 Mpx": (lambda: flat("JPEG", 7000, progressive=True), ACCEPT),
  "jpeg cmyk progressive, 49 Mpx": (
    lambda: flat("JPEG", 7000, "CMYK", progressive=True),
    REJECT,
  ),
  "jpeg cmyk progressive, 24 Mpx": (
    lambda: flat("JPEG", 4900, "CMYK", progressive=True),
    ACCEPT,
  ),
  "jpeg cmyk, 49 Mpx": (lambda: flat("JPEG", 7000, "CMYK"), ACCEPT),
  "jpeg of a million segments": (lambda: jpeg_with(app(0xE5, b"") * 1_000_000), REJECT),
  "jpeg of 16 million stuffed bytes": (
    lambda: images.rgb("JPEG")[:-2] + b"\xff\0" * (16 << 20) + b"\xff\xd9",
    ACCEPT,
  ),
  "jpeg with exif tags that overlap": (
    lambda: jpeg_with(app(0xE1, b"Exif\0\0" + tags(5000, 60_000))),
    REJECT,
  ),
  "jpeg with 60 MB of exif": (
    lambda: jpeg_with(app(0xE1, b"Exif\0\0" + tags(5000, 0)) * 1000),
    REJECT,
  ),
  "jpeg with mpf tags that overlap": (
    lambda: jpeg_with(app(0xE2, b"MPF\0" + tags(5000, 60_000))),
    REJECT,
  ),
  "jpeg cut, with an end": (lambda: cut_with_end(of_noise("JPEG"), b"\xff\xd9"), REJECT),
  "jpeg progressive cut, with an end": (
    lambda: cut_with_end(of_noise("JPEG", progressive=True), b"\xff\xd9", 4),
    REJECT,
  ),
  "jpeg cmyk cut, with an end": (
    lambda: cut_with_end(images.encode(noise().convert("CMYK"), "JPEG"), b"\xff\xd9"),
    REJECT,
  ),
  "png short of rows": (short_png, REJECT),
  "png short of one row": (lambda: png_of(64, 64, rows(63)), REJECT),
  "png short of a part of a row": (lambda: png_of(64, 64, rows(64)[:-1]), REJECT),
  "png interlaced, short of rows": (lambda: short_png(interlaced=1), REJECT),
  "png whose last row is black": (
    lambda: png_of(64, 64, rows(63) + bytes(3 * 64 + 1)),
    ACCEPT,
  ),
  "png animated, short of rows": (
    lambda: short_png(
      chunks=[
        (b"acTL", struct.pack(">II", 2, 0)),
        (b"fcTL", struct.pack(">IIIIIHHBB", 0, 64, 64, 0, 0, 1, 10, 0, 0)),
      ]
    ),
    REJECT,
  ),
  "png animated, cut in its second frame": (animated_png_cut, REJECT),
  "png of a million chunks": (
    lambda: png_of(64, 64, rows(64), chunks=[(b"prIv", b"")] * 1_000_000),
    REJECT,
  ),
  "png with exif tags that overlap": (
    lambda: png_of(64, 64, rows(64), chunks=[(b"eXIf", tags(60_000, 700_000))]),
    REJECT,
  ),
  "png with a text of exif tags that overlap": (
    lambda: png_of(
      64,
      64,
      rows(64),
      chunks=[
        (
          b"zTXt",
          b"Raw profile type exif\0\0"
          + zlib.compress(b"\nexif\n9\n" + tags(30_000, 300_000).hex().encode()),
        )
      ],
    ),
    None,  # Whatever is said of the text: the pixels are whole.
  ),
  "png of two thousand million frames": (
    lambda: png_of(64, 64, rows(64), chunks=[(b"acTL", struct.pack(">II", 1 << 31, 0))]),
    ACCEPT,
  ),
  "png of 1 bit, 49 Mpx": (
    lambda: png_of(7000, 7000, (b"\0" + bytes(875)) * 7000, depth=1, color=0),
    ACCEPT,
  ),
  "png rgba, 49 Mpx": (
    lambda: png_of(7000, 7000, (b"\0" + bytes(28_000)) * 7000, color=6),
    ACCEPT,
  ),
  "png of 16 bits, 49 Mpx": (
    lambda: png_of(7000, 7000, (b"\0" + bytes(14_000)) * 7000, depth=16, color=0),
    ACCEPT,
  ),
  "png palette with alpha, 49 Mpx": (
    lambda: png_of(
      7000,
      7000,
      (b"\0" + bytes(7000)) * 7000,
      color=3,
      chunks=[(b"PLTE", bytes(768)), (b"tRNS", b"\0")],
    ),
    ACCEPT,
  ),
  "png of 51 Mpx": (lambda: images.huge(7200, 7200), REJECT),
  "gif of 49 Mpx and no data": (lambda: gif_of(7000, 7000, b""), REJECT),
  "gif of 65535 x 65535": (lambda: gif_of(65_535, 65_535, b""), REJECT),
  "gif of ten million blocks": (
    lambda: images.rgb("GIF")[:-1] + b"!\xfe" + b"\1x" * 10_000_000 + b"\0;",
    REJECT,
  ),
  "gif with a comment of 50 MB": (
    lambda: gif_of(64, 64, b"", before=b"!\xfe" + (b"\xff" + b"x" * 255) * 200_000 + b"\0"),
    REJECT,
  ),
  "gif of 100000 frames": (
    lambda: (
      images.rgb("GIF")[:-1]
      + b","
      + struct.pack("<HHHHB", 0, 0, 1, 1, 0)
      + (b"\x02\2D\1\0," + struct.pack("<HHHHB", 0, 0, 1, 1, 0)) * 100_000
      + b"\x02\2D\1\0;"
    ),
    ACCEPT,
  ),
  "webp of 16383 x 16383": (lambda: webp_header(16_383, 16_383), REJECT),
  "webp of 24 Mpx": (lambda: flat("WEBP", 4900, lossless=True, method=0), ACCEPT),
  "webp of a million chunks": (lambda: webp_chunks(1_000_000), REJECT),
  "webp with exif tags that overlap": (
    lambda: images.rgb("WEBP", exif=b"Exif\0\0" + tags(60_000, 700_000)),
    REJECT,
  ),
  "bmp packed, 49 Mpx of ends of lines": (
    lambda: packed_bmp(7000, 7000, b"\1\1\0\0" * 7000),
    REJECT,
  ),
  "bmp packed, 30 MB of nothing": (
    lambda: packed_bmp(64, 64, b"\xff\1" * (15 << 20)),
    REJECT,
  ),
  "bmp packed, cut": (lambda: packed_bmp(64, 64, b"\x40\1\0\0" * 20), REJECT),
  "bmp of 2 ** 31 lines": (lambda: packed_bmp(1, 2**31 - 1, b"\1\1"), REJECT),
}


def coco(folder, picture, segmentations, *, box=(0, 0, 9, 9), area=1):
  _write(folder / "a.png", picture)
  _write(folder / "a.json", json.dumps({
      "images": [{"id": 1, "file_name": "a.png"}], "categories": [{"id": 1, "name": "x"}],
      "annotations": [
          {"id": i + 1, "image_id": 1, "bbox": list(box), "category_id": 1, "area": area,
           "iscrowd": 0, "segmentation": s} for i, s in enumerate(segmentations)],
  }).encode())  # fmt: skip
  return sources.Coco(str(folder / "a.json"), masks=True)


def yolo(folder, picture, label, *, masks=True):
  _write(folder / "images" / "a.png", picture)
  _write(folder / "data.yaml", b"names: [x]\ntrain: images\n")
  _write(folder / "labels" / "a.txt", label)
  return sources.Yolo(str(folder / "data.yaml"), masks=masks)


def voc(folder, inside, *, masks=b"", head=b""):
  _write(folder / "JPEGImages" / "a.jpg", images.rgb("JPEG"))
  _write(folder / "ImageSets" / "Main" / "train.txt", b"a\n")
  thing = (
    b"<object><name>cat</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax>"
    b"</bndbox></object>"
  )
  xml = head + b"<annotation><filename>a.jpg</filename>" + inside + thing + b"</annotation>"
  _write(folder / "Annotations" / "a.xml", xml)
  if masks:
    _write(folder / "SegmentationObject" / "a.png", masks)
  return sources.Voc(str(folder), masks=bool(masks))


def many_files(folder, num, size):
  _write(folder / "a.bin", b"")
  with open(folder / "a.bin", "wb") as f:
    f.truncate(size)
  names = ["a.bin"] * num if num > 9 else [f"{i}.bin" for i in range(num)]
  for name in set(names) - {"a.bin"}:
    (folder / name).symlink_to(folder / "a.bin")
  _write(folder / "a.jsonl", json.dumps({"image": names}).encode())
  return sources.Jsonl(str(folder / "a.jsonl"))


def _write(path, content):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(content)


def _big():
  return png_of(7000, 7000, (b"\0" + bytes(875)) * 7000, depth=1, color=0)


def _small():
  return png_of(64, 64, rows(64))


def _zigzag(num, far):
  return [v for i in range(num) for v in ((0 if i % 2 else far), i % 50)]


_LAUGHS = (
    b"<!DOCTYPE a [<!ENTITY a 'ha'>" + b"".join(
        b"<!ENTITY %c '%s'>" % (98 + i, b"&%c;" % (97 + i) * 10) for i in range(9)) + b"]>"
)  # fmt: skip

ANNOTATIONS = {
  "coco: outline far outside": (
    lambda d: coco(d, _small(), [[_zigzag(120, 999_999)]]),
    REJECT,
  ),
  "coco: outline of a million points": (
    lambda d: coco(d, _small(), [[_zigzag(1_000_000, 60)]]),
    REJECT,
  ),
  "coco: 90000 points to and fro on 49 Mpx": (
    lambda d: coco(d, _big(), [[_zigzag(90_000, 6999)]]),
    REJECT,
  ),
  "coco: 100 masks on 49 Mpx": (
    lambda d: coco(d, _big(), [[[0, 0, 9, 0, 9, 9]]] * 100),
    REJECT,
  ),
  "coco: 5 masks on 49 Mpx": (
    lambda d: coco(d, _big(), [[[0, 0, 6999, 0, 6999, 6999]]] * 5),
    ACCEPT,
  ),
  "coco: 20000 polygons of an object on 49 Mpx": (
    lambda d: coco(d, _big(), [[[0, 0, 6999, 0, 6999, 6999]] * 20_000]),
    REJECT,
  ),
  "coco: run lengths beyond the image": (
    lambda d: coco(d, _small(), [{"size": [64, 64], "counts": [0, 10**12]}]),
    REJECT,
  ),
  "coco: enormous run lengths": (
    lambda d: coco(d, _small(), [{"size": [64, 64], "counts": [10**300, -(10**300), 4096]}]),
    REJECT,
  ),
  "coco: negative run lengths": (
    lambda d: coco(d, _small(), [{"size": [64, 64], "counts": [-5, 4101]}]),
    REJECT,
  ),
  "coco: three million run lengths": (
    lambda d: coco(d, _small(), [{"size": [64, 64], "counts": [0] * 3_000_000 + [4096]}]),
    REJECT,
  ),
  "coco: packed run lengths of 10 MB": (
    lambda d: coco(d, _small(), [{"size": [64, 64], "counts": "0" * 10_000_000}]),
    REJECT,
  ),
  "coco: a box of 300 digits": (
    lambda d: coco(d, _small(), [[[0, 0, 9, 0, 9, 9]]], box=(0, 0, 10**300, 10**400)),
    REJECT,
  ),
  "coco: a point of 400 digits": (
    lambda d: coco(d, _small(), [[[0, 0, 10**400, 0, 9, 9]]]),
    REJECT,
  ),
  "yolo: 20000 points on 49 Mpx": (
    lambda d: yolo(d, _big(), b"0 " + b"0 0 1 1 " * 10_000),
    REJECT,
  ),
  "yolo: a header of 13000 x 13000": (
    lambda d: yolo(d, images.huge(13_000, 13_000), b"0 0 0 1 0 1 1"),
    REJECT,
  ),
  "yolo: one line of 10 MB": (lambda d: yolo(d, _small(), b"0 " * 5_000_000), REJECT),
  "yolo: 300000 boxes": (
    lambda d: yolo(d, _small(), b"0 .5 .5 1 1\n" * 300_000, masks=False),
    ACCEPT,
  ),
  "yolo: 150000 outlines": (
    lambda d: yolo(d, _small(), b"0 0 0 1 0 1 1\n" * 150_000),
    REJECT,
  ),
  "voc: a text of a million lines": (
    lambda d: voc(d, b"<source>" + b"x\n" * 1_000_000 + b"</source>"),
    ACCEPT,
  ),
  "voc: a million elements": (lambda d: voc(d, b"<a/>" * 1_000_000), REJECT),
  "voc: deep": (lambda d: voc(d, b"<a>" * 100_000 + b"</a>" * 100_000), REJECT),
  "voc: billion laughs": (lambda d: voc(d, b"<a>&j;</a>", head=_LAUGHS), REJECT),
  "voc: an entity named often": (
    lambda d: voc(
      d, b"&a;" * 100_000, head=b"<!DOCTYPE a [<!ENTITY a '" + b"x" * 100_000 + b"'>]>"
    ),
    REJECT,
  ),
  "voc: 200000 attributes": (
    lambda d: voc(d, b"<a " + b" ".join(b"a%d=''" % i for i in range(200_000)) + b"/>"),
    ACCEPT,
  ),
  "voc: a mask of 49 Mpx": (lambda d: voc(d, b"", masks=_big()), REJECT),
  "voc: a mask short of rows": (
    lambda d: voc(
      d,
      b"",
      masks=png_of(32, 24, (b"\0" + bytes(32)) * 12, color=3, chunks=[(b"PLTE", bytes(768))]),
    ),
    REJECT,
  ),
  "jsonl: one file of 60 MB named 900 times": (
    lambda d: many_files(d, 900, 60 << 20),
    ACCEPT,
  ),
  "jsonl: 9 files of 60 MB": (lambda d: many_files(d, 9, 60 << 20), REJECT),
  "jsonl: 100000 names": (lambda d: many_files(d, 100_000, 10), REJECT),
}
