"""Masks made by hand, as rows hold them: polygons, run lengths, PNG files."""

import io
import json
import pickle
import zlib

from PIL import Image

from tests.hostile import bombs
from tests.hostile import images
from tests.hostile.made import Case
from tests.hostile.made import cut
from tests.hostile.made import traps

_POLYGON, _TEXT_RUNS, _PNG = "polygon.json", "text.json", "mask.png"


def _mask(value, expected):
  return Case(_POLYGON, json.dumps({"segmentation": value}).encode(), expected)


def _runs(counts, expected, shape=(10, 20)):
  return _mask({"size": list(shape), "counts": counts}, expected)


def _png(data, expected):
  return Case(_PNG, data, expected)


def _picture(mode, side=(20, 10), **options):
  buffer = io.BytesIO()
  Image.new(mode, side).save(buffer, "PNG", **options)
  return buffer.getvalue()


MASKS = {
    **traps(_POLYGON, "DataError", missing="not in", pipe="regular", device="symlink"),
    **traps(_PNG, "DataError", missing="not in", pipe="regular", device="symlink"),
    "null": _mask(None, "DataError polygons or run lengths"),
    "a list of none": _mask([], "DataError polygons or run lengths"),
    "a text": _mask("j2:T3", "DataError polygons or run lengths"),
    "a number": _mask(7, "DataError polygons or run lengths"),
    "one polygon, not a list of them": _mask([1, 1, 9, 1, 9, 8], "DataError three points"),
    "points by twos": _mask([[[1, 1], [9, 1], [9, 8]]], "DataError three points"),
    "of two points": _mask([[1, 1, 9, 1]], "DataError three points"),
    "of five numbers": _mask([[1, 1, 9, 1, 9]], "DataError three points"),
    "of a million points": _mask([[1, 2] * 10**6], "DataError three points"),
    "100000 points in one place": _mask([[1, 2] * 10**5], "value"),
    "of dicts": _mask([{"x": 1}], "DataError polygon"),
    "of nulls": _mask([[None] * 8], "DataError"),
    "of bools": _mask([[True, True, False, True, False, False]], "DataError polygon"),
    "of words": _mask([["a"] * 6], "DataError three points"),
    "with 1e300": _mask([[1, 1, 1e300, 1, 9, 8]], "DataError no number of pixels"),
    "with -1e300": _mask([[1, 1, -1e300, 1, 9, 8]], "DataError no number of pixels"),
    "with 10 ** 299": _mask([[1, 1, 10**299, 1, 9, 8]], "DataError no number of pixels"),
    "with NaN": Case(_POLYGON, b'{"segmentation": [[1, 1, NaN, 1, 9, 8]]}', "DataError NaN"),
    "to and fro": _mask([[0, 0, 999_999, 9] * 200], "DataError longer to draw"),
    "100000 polygons": _mask([[1, 1, 9, 1, 9, 8]] * 10**5, "DataError longer to draw"),
    "5000 polygons": _mask([[1, 1, 9, 1, 9, 8]] * 5000, "value"),
    "one that crosses itself": _mask([[0, 0, 9, 9, 9, 0, 0, 9]], "value"),
    "all outside": _mask([[-90, -90, -80, -90, -80, -80]], "value"),
    "no area": _mask([[1, 1, 1, 1, 1, 1]], "value"),
    "runs": _runs([90, 10, 100], "value"),
    "runs transposed": _runs([200], "DataError of the size", (20, 10)),
    "runs of a size of texts": _runs([200], "DataError of the size", ("10", "20")),
    "runs of no size": _runs([], "DataError of the size", ()),
    "runs of a size null": _mask({"size": None, "counts": [200]}, "DataError of the size"),
    "runs of none": _runs([], "DataError add up"),
    "runs one short": _runs([90, 10, 99], "DataError add up"),
    "runs negative": _runs([90, -10, 120], "DataError add up"),
    "runs of halves": _runs([90.0, 10.0, 100.0], "DataError add up"),
    "runs of bools": _runs([True, 199], "DataError add up"),
    "runs of texts": _runs(["90", "10", "100"], "DataError add up"),
    "runs of 10 ** 299": _runs([10**299], "DataError add up"),
    "runs, a hundred thousand": _runs([0] * 100_000 + [200], "DataError run lengths for"),
    "runs of zeros": _runs([0] * 1000 + [200], "value"),
    "runs a dict": _runs({"0": 200}, "DataError add up"),
    "packed, of no letter": _runs("", "DataError add up"),
    "packed, breaks off": _runs("j2:T3o", "DataError"),
    "packed, never ends": _runs("o" * 1000, "DataError none of COCO's"),
    "packed, other letters": _runs("j2 T3", "DataError none of COCO's"),
    "packed, accents": _runs("j2é3", "DataError none of COCO's"),
    "packed, base64": _runs("eJxjYBgFo2AU", "DataError"),
    "packed, negative": _runs("N5", "DataError add up"),
    "cut": Case(_TEXT_RUNS, cut, "DataError"),
    "a key twice": Case(_POLYGON, b'{"segmentation": 1, "segmentation": 2}', "DataError twice"),
    "a PNG of RGB": _png(_picture("RGB"), "value"),
    "a PNG of RGBA": _png(_picture("RGBA"), "value"),
    "a PNG of 16 bits": _png(_picture("I;16"), "value"),
    "a PNG of one bit": _png(_picture("1"), "value"),
    "a PNG of a palette": _png(_picture("P"), "value"),
    "a PNG of 0 x 0": _png(images.huge(0, 0), "DataError no intact PNG"),
    "a PNG of 2 ** 31 rows": _png(images.huge(1, 2**31 - 1), "DataError no intact PNG"),
    "a PNG of 51 Mpx": _png(images.huge(7200, 7200), "DataError pixels"),
    "a PNG of 49 Mpx in little": _png(bombs._big(), "value"),
    "a PNG cut": _png(bombs.short_png(), "DataError no intact PNG"),
    "a PNG of a million chunks": _png(
        bombs.png_of(64, 64, bombs.rows(64), chunks=[(b"prIv", b"")] * 10**6), "DataError PNG"
    ),
    "a PNG with a text of 100 MB": _png(bombs.png_of(64, 64, bombs.rows(64), chunks=[
        (b"zTXt", b"a\0\0" + zlib.compress(bytes(100 << 20), 9))]), "value"),
    "a JPEG": _png(images.rgb("JPEG"), "DataError no intact PNG"),
    "a TIFF": _png(images.rgb("TIFF"), "DataError no intact PNG"),
    "an NPY file": _png(b"\x93NUMPY\x01\x00v\0" + bytes(200), "DataError no intact PNG"),
    "a pickle": _png(pickle.dumps({"a": 1}), "DataError no intact PNG"),
}  # fmt: skip

CASES = {"masks": MASKS}
