"""Images as callers have them: the same pixels by every way, upright, in every mode of PIL."""

import functools
import io

import numpy as np
import pytest
from PIL import Image

from paligemma_jax.core import errors
from paligemma_jax.pp import image_input
from tests.hostile import images

_MODES = (
    "1", "CMYK", "HSV", "I;16", "I;16B", "I;16L", "L", "LA", "LAB", "La", "P", "PA", "RGB", "RGBA",
    "RGBX", "RGBa", "YCbCr",
)  # fmt: skip


def _file(form, orientation):
  exif = Image.Exif()
  exif[0x112] = orientation
  return images.encode(Image.fromarray(images.picture()), form, exif=exif)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_path_bytes_open_file_and_pil_image_are_the_same_pixels(form, orientation, tmp_path):
  data = _file(form, orientation)
  (tmp_path / "a").write_bytes(data)
  expected = image_input.read(data, 28)
  file = io.BytesIO(data)
  file.read()  # To its end, as if somebody had looked at it.
  for value in (tmp_path / "a", str(tmp_path / "a"), file, Image.open(io.BytesIO(data))):
    np.testing.assert_array_equal(image_input.read(value, 28), expected)
  with Image.open(tmp_path / "a") as image:
    np.testing.assert_array_equal(image_input.read(image, 28), expected)
    image.load()  # It can still be read by its owner.
    read = image_input.read(image, 28).astype(int)
  # Pillow's own pixels of a JPEG are up to seven levels away.
  assert np.abs(read - expected).max() <= (7 if form == "JPEG" else 0)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_without_exif_the_pixels_are_as_stored(form, orientation, tmp_path):
  data = _file(form, orientation)
  (tmp_path / "a").write_bytes(data)
  stored = image_input.read(_file(form, 1), 28)
  as_stored = functools.partial(image_input.read, res=28, exif=False)
  for value in (data, tmp_path / "a", io.BytesIO(data), Image.open(io.BytesIO(data))):
    np.testing.assert_array_equal(as_stored(value), stored)
  np.testing.assert_array_equal(as_stored([data, data]), np.stack([stored, stored]))
  upright = image_input.read(data, 28)
  np.testing.assert_array_equal(image_input.read(data, 28, exif="auto"), upright)
  assert (orientation == 1) == np.array_equal(upright, stored)
  image = Image.open(tmp_path / "a")
  image.load()
  read = as_stored(image).astype(int)  # By Pillow, which turns a TIFF and keeps no word of it.
  expected = upright if form == "TIFF" else stored
  assert np.abs(read - expected).max() <= (7 if form == "JPEG" else 0)


@pytest.mark.parametrize("mode", _MODES)
def test_every_mode_of_pil_is_read(mode):
  picture = Image.new("RGB", (24, 16), (255, 255, 255) if mode == "1" else (255, 0, 0))
  if mode == "LAB":
    image = Image.new("LAB", (24, 16), (0, 128, 128))  # Black.
    expected = [0, 0, 0]
  elif mode.startswith("I;16"):
    image = Image.new(mode, (24, 16), 200 << 8)
    expected = [200, 200, 200]
  else:
    image = picture.convert("LA").convert(mode) if mode == "La" else picture.convert(mode)
    grey = {"1": 255, "L": 76, "LA": 76, "La": 76}
    expected = [grey[mode]] * 3 if mode in grey else [255, 0, 0]
  read = image_input.read(image, 14)
  assert read.shape == (14, 14, 3)
  np.testing.assert_allclose(read[7, 7].astype(int), expected, rtol=0, atol=2)  # Of LAB: rounding.


@pytest.mark.parametrize("mode", ["I", "F"])
def test_modes_without_a_range_are_refused_with_a_remedy(mode):
  with pytest.raises(errors.DataError, match=r"no known range.*Save them as 8 or 16 bits"):
    image_input.read(Image.new(mode, (24, 16)), 14)


def test_what_is_open_as_text_or_holds_no_image_is_an_error(tmp_path):
  with pytest.raises(errors.DataError, match="not in binary mode; open it with 'rb'"):
    image_input.read(io.StringIO("x"), 14)
  with pytest.raises(errors.DataError, match="git lfs pull"):
    image_input.read(io.BytesIO(b"version https://git-lfs.github.com/spec/v1\n"), 14)
  (tmp_path / "a").write_bytes(_file("PNG", 1)[:-40])
  with pytest.raises(errors.DataError, match="cut short"):
    image_input.read(Image.open(tmp_path / "a"), 14)
