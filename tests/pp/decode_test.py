"""Image files: what is accepted, what is rejected, and what comes out."""

import io
import resource
import struct
import zlib

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image

from paligemma_jax import pp
from paligemma_jax.core import errors
from paligemma_jax.pp import decode
from tests import golden_files
from tests.hostile import images

RNG = np.random.default_rng(0)
ENDS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")


@pytest.mark.parametrize("name", sorted(images.MAKERS))
def test_every_kind_of_file_is_decided_as_the_table_says(name):
  maker, decision, notes = images.MAKERS[name]
  data = maker()
  if decision == images.REJECT:
    with pytest.raises(errors.DataError):
      decode.decode_image(data)
    return
  found = []
  pixels = decode.decode_image(data, notes=found)
  assert pixels.dtype == np.uint8
  assert pixels.ndim == 3
  assert pixels.shape[-1] == 3
  assert tuple(found) == notes


@pytest.mark.parametrize("file_format", ENDS)
def test_a_file_cut_at_any_byte_is_rejected(file_format):
  data = images.rgb(file_format)
  decode.decode_image(data)
  for size in range(len(data)):
    with pytest.raises(errors.DataError):
      decode.decode_image(data[:size])


@pytest.mark.parametrize("name", ["a", "b", "gray"])
def test_jpeg_pixels_are_those_of_the_accurate_decoder(name):
  with np.load(golden_files.path("bv/pp.npz")) as golden:
    data, expected = golden[f"bytes_{name}"].tobytes(), golden[f"u8_{name}_56_precise"]
  row = pp.Resize(56)(pp.Decode(dct="accurate")({"image": data}, RNG), RNG)
  np.testing.assert_array_equal(row["image"], expected)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize(
  "options",
  [
    dict(subsampling=0),
    dict(subsampling=1),
    dict(subsampling=2, quality=30),
    dict(progressive=True, optimize=True),
    dict(restart_marker_rows=1),
    dict(keep_rgb=True),
    dict(comment=b"\xff\xd9 no end"),
  ],
  ids=lambda options: "-".join(options),
)
def test_jpeg_pixels_are_pillow_s_in_bits(mode, options):
  rng = np.random.default_rng(0)
  for height, width in ((1, 1), (17, 33), (64, 48), (123, 8)):
    picture = Image.fromarray(rng.integers(0, 255, (height, width, 3), np.uint8)).convert(mode)
    file = io.BytesIO()
    picture.save(file, "JPEG", **options)
    with Image.open(file) as opened:
      expected = np.asarray(opened.convert("RGB"))
    np.testing.assert_array_equal(decode.decode_image(file.getvalue(), dct="accurate"), expected)


def test_what_the_short_way_refuses_is_pillow_s_to_decide():
  data = images.rgb("JPEG")
  between = data[:2] + b"\x00\x00" + data[2:]  # Odd bytes between segments.
  size = (images.WIDTH, images.HEIGHT)
  assert decode._jpeg(between, size, "fast", "RGB") is None
  assert decode._jpeg(data, (images.WIDTH - 1, images.HEIGHT), "fast", "RGB") is None
  assert decode._jpeg(data, size, "fast", "RGB") is not None


def test_16_bits_keep_the_high_byte_and_are_not_clipped():
  pixels = decode.decode_image(images.grey_16_bit())
  levels = np.arange(images.HEIGHT * images.WIDTH) * 65535 // (images.HEIGHT * images.WIDTH - 1)
  np.testing.assert_array_equal(pixels[..., 1].ravel(), levels >> 8)
  np.testing.assert_array_equal(decode.decode_image(images.rgb_16_bit()), images.picture())


def test_a_turned_picture_is_set_upright_unless_asked_not_to():
  stored = decode.decode_image(images.exif(1))
  np.testing.assert_array_equal(decode.decode_image(images.exif(3)), stored[::-1, ::-1])
  np.testing.assert_array_equal(decode.decode_image(images.exif(6)), np.rot90(stored, -1))
  np.testing.assert_array_equal(decode.decode_image(images.exif(8)), np.rot90(stored, 1))
  np.testing.assert_array_equal(decode.decode_image(images.exif(6), exif=False), stored)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
  ("file_format", "options"),
  [
    ("PNG", {}),
    ("WEBP", dict(lossless=True)),
    ("TIFF", {}),
    ("TIFF", dict(compression="tiff_lzw")),
  ],
  ids=str,
)
def test_every_orientation_of_every_format_is_the_same_picture(file_format, options, orientation):
  exif = Image.Exif()
  exif[0x112] = orientation
  stored = Image.fromarray(images.picture())
  transposed = {
      2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
      4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
      6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90,
  }  # fmt: skip
  data = images.encode(stored, file_format, exif=exif, **options)
  upright = stored.transpose(transposed[orientation]) if orientation > 1 else stored
  notes = []
  np.testing.assert_array_equal(decode.decode_image(data, notes=notes), np.asarray(upright))
  assert notes == (["exif_rotated"] if orientation > 1 else [])
  np.testing.assert_array_equal(decode.decode_image(data, exif=False), images.picture())


def test_texts_and_profiles_of_a_png_change_no_pixel():
  for kind in (b"zTXt", b"iCCP"):
    found = decode.decode_image(images.with_chunk(kind, 3 << 20))
    np.testing.assert_array_equal(found, images.picture())


def test_tiffs_as_hugging_face_s_library_writes_them_are_the_same_pixels():
  np.testing.assert_array_equal(
    decode.decode_image(images.tiff_16_bit()), np.repeat(images.picture()[..., :1], 3, -1)
  )
  for mode in ("CMYK", "P", "YCbCr"):
    image = Image.fromarray(images.picture()).convert(mode)
    expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(decode.decode_image(images.as_tiff(mode)), expected)


@pytest.mark.parametrize(
    ("data", "hint"),
    [
        (b"\0\0\0 ftypavif\0\0\0\0avifmif1" + b"\0" * 99, "an AVIF file. .*Convert"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 99, "a HEIC file. .*pillow-heif"),
        (images.SVG, "an SVG drawing.*Convert"),
        (images.HTML, "an HTML page.*Download"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git-lfs pointer.*git lfs pull"),
        (b'{"error": "not found"}', "JSON text"),
        (b"\0\0\0\x0cJXL \r\n", "JPEG XL"),
        (b"\0\0\0 ftypisom\0\0\0\0", "a video.*sources.Video"),
    ],
)  # fmt: skip
def test_what_is_no_image_is_named_with_a_remedy(data, hint):
  with pytest.raises(errors.DataError, match=f"(?s){hint}"):
    decode.decode_image(data)
  with pytest.raises(errors.DataError, match=f"(?s){hint}"):
    decode.check_header(data)


def test_a_damaged_exif_block_says_nothing_about_the_pixels():
  np.testing.assert_array_equal(
    decode.decode_image(images.damaged_exif()), decode.decode_image(images.rgb("JPEG"))
  )


@pytest.mark.parametrize("exif", [True, False])
def test_a_png_with_damaged_pixels_and_a_right_checksum_is_rejected(exif):
  data = images.rgb("PNG")
  start = data.index(b"IDAT")
  (size,) = struct.unpack(">I", data[start - 4 : start])
  for place in range(2, size, 9):
    body = bytearray(data[start : start + 4 + size])
    body[4 + place] ^= 0xFF
    checksum = struct.pack(">I", zlib.crc32(body))
    damaged = data[:start] + body + checksum + data[start + 8 + size :]
    with pytest.raises(errors.DataError, match="damaged"):
      decode.decode_image(damaged, exif=exif)


def test_alpha_is_dropped_or_painted_over():
  np.testing.assert_array_equal(decode.decode_image(images.rgba()), images.picture())
  on_white = decode.decode_image(images.rgba(), alpha="white")
  mixed = (images.picture() * 128.0 + 255 * 127) / 255
  np.testing.assert_array_equal(on_white, np.round(mixed).astype(np.uint8))
  assert (decode.decode_image(images.rgba(), alpha="black") <= on_white).all()


def test_cmyk_comes_out_in_colour():
  pixels = decode.decode_image(images.cmyk()).astype(int)
  assert abs(pixels - images.picture()).mean() < 4  # JPEG at quality 95, four channels.


def test_the_first_frame_of_an_animation_is_taken():
  pixels = decode.decode_image(images.animated("WEBP")).astype(int)
  assert abs(pixels - images.picture()).mean() < 8  # Lossy WebP.


def test_a_header_that_promises_too_much_takes_no_memory():
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  for data in (images.bomb(), images.huge(12_000, 12_000)):
    with pytest.raises(errors.DataError, match="pixels"):
      decode.decode_image(data)
  assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64_000  # KiB


def test_the_pixel_limit_can_be_lowered():
  with pytest.raises(errors.DataError, match="32 x 24"):
    pp.Decode(max_pixels=700)({"image": images.rgb("PNG")}, RNG)


def test_arrays_are_taken_as_pixels():
  picture = images.picture()
  for value in (picture, picture.astype(np.uint16) << 8):
    np.testing.assert_array_equal(pp.Decode()({"image": value}, RNG)["image"], picture)
  grey = pp.Decode()({"image": picture[..., 0]}, RNG)["image"]
  np.testing.assert_array_equal(grey, np.repeat(picture[..., :1], 3, axis=-1))


@pytest.mark.parametrize(
  "value", ["a.jpg", 3, None, [], np.zeros((2, 2, 3), np.float32), np.zeros((0, 2, 3), np.uint8)]
)
def test_what_is_no_image_is_a_data_error_that_names_the_column(value):
  with pytest.raises(errors.DataError, match="image"):
    pp.Decode()({"image": value}, RNG)


def test_a_list_becomes_frames_of_one_size():
  row = {"image": [images.rgb("PNG"), encoded_at((40, 8))]}
  out = pp.Resize(16)(pp.Decode()(row, RNG), RNG)
  assert out["image"].shape == (2, 16, 16, 3)


def test_remarks_are_collected_and_the_row_is_left_alone():
  row = {"image": images.rgba(), "_notes": ("before",)}
  out = pp.Decode()(row, RNG)
  assert out["_notes"] == ("before", "alpha_dropped")
  assert row["_notes"] == ("before",)
  assert isinstance(row["image"], bytes)


@hypothesis.settings(deadline=None, max_examples=300)
@hypothesis.given(
  file_format=st.sampled_from(ENDS),
  edits=st.lists(st.tuples(st.integers(0, 1 << 16), st.binary(min_size=0, max_size=4)), max_size=6),
)
def test_mutated_files_are_pixels_or_a_data_error(file_format, edits):
  data = bytearray(images.rgb(file_format))
  for position, replacement in edits:
    at = position % len(data)
    data[at : at + len(replacement)] = replacement
  try:
    pixels = decode.decode_image(bytes(data), max_pixels=100_000)
  except errors.DataError:
    return
  assert pixels.dtype == np.uint8
  assert pixels.ndim == 3
  assert pixels.shape[0] * pixels.shape[1] <= 100_000


def encoded_at(size):
  out = io.BytesIO()
  Image.new("RGB", size, "red").save(out, "PNG")
  return out.getvalue()


def test_the_pictures_of_a_row_share_a_limit():
  picture = images.rgb("PNG")
  num = images.HEIGHT * images.WIDTH
  op = pp.Decode(max_pixels=num, max_row_pixels=3 * num)
  assert len(op({"image": [picture] * 3}, RNG)["image"]) == 3
  with pytest.raises(errors.DataError, match=r"image 4 of 4: .* leave 0 pixels .*max_row_pixels"):
    op({"image": [picture] * 4}, RNG)
  with pytest.raises(errors.DataError, match="1001 images; a row may have 1000"):
    op({"image": [picture] * 1001}, RNG)
  with pytest.raises(errors.DataError, match="a row may have 75000000 pixels in all"):
    pp.Resize(1000)({"image": [images.picture()] * 76}, RNG)
  with pytest.raises(errors.DataError, match="after the resize"):
    pp.ResizeSmall(3000)({"image": np.zeros((1, 9, 3), np.uint8)}, RNG)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "GIF", "WEBP", "BMP"])
def test_a_cut_file_with_a_forged_end_is_rejected_or_whole(file_format):
  data = images.rgb(file_format, **({"quality": 95} if file_format == "JPEG" else {}))
  whole = decode.decode_image(data)
  ends = {"JPEG": b"\xff\xd9", "PNG": images.chunk(b"IEND", b""), "GIF": b"\0;"}
  for size in range(20, len(data), max(1, len(data) // 200)):
    cut = bytearray(data[:size] + ends.get(file_format, b""))
    if file_format in ("WEBP", "BMP"):  # The size in the header is made to fit.
      struct.pack_into("<I", cut, 4 if file_format == "WEBP" else 2, size - 8)
    try:
      found = decode.decode_image(bytes(cut))
    except errors.DataError:
      continue
    np.testing.assert_array_equal(found, whole)
