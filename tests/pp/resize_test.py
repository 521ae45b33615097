"""Resizing equals the reference's and transformers'; crops draw from their generator alone."""

import numpy as np
import pytest
from PIL import Image

from paligemma_jax import pp
from paligemma_jax.core import errors
from paligemma_jax.core import image_files
from paligemma_jax.core import prng
from paligemma_jax.pp import decode
from paligemma_jax.pp import resize
from tests import golden_files

RNG = np.random.default_rng(0)


def noise(height, width, seed=0):
  return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("name", ["a", "b", "gray", "png_rgba"])
@pytest.mark.parametrize("antialias", [True, False])
def test_bilinear_equals_the_reference(name, antialias):
  with np.load(golden_files.path("bv/pp.npz")) as golden:
    data = golden[f"bytes_{name}"].tobytes()
    expected = golden[f"u8_{name}_56_{'train' if antialias else 'noaa'}"]
  image = decode.decode_image(data)
  found = resize.resize(image, (56, 56), method="bilinear", antialias=antialias)
  if antialias:
    np.testing.assert_array_equal(found, expected)
  else:  # There TensorFlow has another kernel, with another order of operations.
    difference = np.abs(found.astype(int) - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() <= 0.002


def test_a_large_photo_at_224_equals_the_reference():
  with np.load(golden_files.path("bv/pp.npz")) as golden:
    data, expected = golden["bytes_big"].tobytes(), golden["u8_big_224_train"]
  found = pp.Resize(224)(pp.Decode()({"image": data}, RNG), RNG)["image"]
  np.testing.assert_array_equal(found, expected)


def test_hf_bicubic_is_pillow_s():
  image = noise(40, 52)
  expected = np.asarray(Image.fromarray(image).resize((28, 14), Image.Resampling.BICUBIC))
  found = pp.Resize((14, 28), method="hf_bicubic")({"image": image}, RNG)["image"]
  np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("method", ["bilinear", "bicubic", "area"])
@pytest.mark.parametrize("sizes", [(7, 3), (3, 7), (480, 224), (1, 5), (5, 1), (13, 13)])
@pytest.mark.parametrize("antialias", [True, False])
def test_the_weights_of_a_pixel_sum_to_one(method, sizes, antialias):
  matrix = image_files.resize_matrix(*sizes, method, antialias)
  assert matrix.shape == sizes[::-1]
  assert matrix.dtype == np.float32
  # Places of up to 480 in float32 are known to 3e-5, and "area" takes differences of them.
  atol = 3e-5 if method == "area" else 2e-6
  np.testing.assert_allclose(np.asarray(matrix.sum(axis=1)).ravel(), 1, rtol=0, atol=atol)


def test_shrinking_by_two_averages_with_the_triangle_kernel():
  # Output pixel 1 lies at 3.0: taps at 1.5, 2.5, 3.5, 4.5 with weights 1/8, 3/8, 3/8, 1/8.
  row = image_files.resize_matrix(6, 3, "bilinear", True).toarray()[1]
  np.testing.assert_allclose(row, [0, 1 / 8, 3 / 8, 3 / 8, 1 / 8, 0], rtol=0, atol=1e-7)


# TensorFlow's resize_area, by hand: 5 pixels to 2 are stretches of 2.5 pixels, from 0 and from 2.5;
# 3 to 2 of 1.5; 2 to 3 of two thirds, the middle one half in each input pixel.
@pytest.mark.parametrize(
  ("sizes", "weights"),
  [
    ((5, 2), [[0.4, 0.4, 0.2, 0, 0], [0, 0, 0.2, 0.4, 0.4]]),
    ((3, 2), [[2 / 3, 1 / 3, 0], [0, 1 / 3, 2 / 3]]),
    ((2, 3), [[1, 0], [0.5, 0.5], [0, 1]]),
    ((4, 2), [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]]),
  ],
)
def test_by_area_pixels_count_by_the_share_they_cover(sizes, weights):
  found = image_files.resize_matrix(*sizes, "area", False).toarray()
  np.testing.assert_allclose(found, weights, rtol=0, atol=1e-6)


def test_the_shorter_side_by_area_is_as_in_the_reference():
  # resize_small(4) of 6 x 9: the factor is 2/3, so 4 x 6; each output pixel is the mean of a
  # stretch of 1.5 pixels both ways, truncated.
  image = noise(6, 9)
  found = pp.ResizeSmall(4, method="area")({"image": image}, RNG)["image"]
  spread = image.astype(float).repeat(2, axis=0).repeat(2, axis=1)  # Halves of pixels.
  expected = spread.reshape(4, 3, 6, 3, 3).mean(axis=(1, 3))
  assert found.shape == (4, 6, 3)
  np.testing.assert_allclose(found, np.floor(expected + 1e-4), rtol=0, atol=1)
  assert (found == np.floor(expected + 1e-4)).mean() > 0.9


def test_flat_pictures_stay_flat_and_bicubic_stays_in_range():
  grey = np.full((31, 17, 3), 200, np.uint8)
  out = resize.resize(grey, (12, 12), method="bilinear", antialias=True)
  assert set(np.unique(out)) <= {199, 200}  # Truncation, as in the reference: 199.99998 is 199.
  checks = np.where(np.indices((32, 32)).sum(0)[..., None] % 8 < 4, 0, 255).astype(np.uint8)
  out = resize.resize(np.repeat(checks, 3, -1), (45, 45), method="bicubic", antialias=True)
  assert out.min() == 0  # Without clipping, undershoot would wrap around to 250 and more.
  assert np.abs(np.diff(out[0, :, 0].astype(int))).max() < 255


def test_an_image_of_the_right_size_is_left_as_it_is():
  image = noise(8, 8)
  assert resize.resize(image, (8, 8), method="bilinear", antialias=True) is image


def test_frames_are_resized_one_by_one():
  frames = np.stack([noise(9, 12, seed) for seed in (1, 2)])
  out = pp.Resize(6)({"image": frames}, RNG)["image"]
  assert out.shape == (2, 6, 6, 3)
  np.testing.assert_array_equal(out[1], pp.Resize(6)({"image": frames[1]}, RNG)["image"])


def test_resize_small_keeps_proportions():
  out = pp.ResizeSmall(10)({"image": noise(20, 31)}, RNG)["image"]
  assert out.shape == (10, 16, 3)


def test_stack_images_makes_frames_and_refuses_different_shapes():
  row = {"left": noise(4, 4), "right": noise(4, 4, 1)}
  out = pp.StackImages(("left", "right"))(row, RNG)["image"]
  np.testing.assert_array_equal(out[1], row["right"])
  with pytest.raises(errors.DataError, match="different shapes"):
    pp.StackImages(("left", "right"))({**row, "right": noise(4, 5)}, RNG)


@pytest.mark.parametrize("op", [pp.RandomCrop(5), pp.InceptionCrop(5)])
def test_crops_depend_on_the_generator_alone(op):
  row = {"image": noise(24, 30)}
  outs = [op(row, prng.generator(0, seed))["image"] for seed in (1, 1, 2, 4, 5)]
  np.testing.assert_array_equal(outs[0], outs[1])
  assert all(out.shape == (5, 5, 3) for out in outs)
  assert len({out.tobytes() for out in outs}) == 4


def test_a_random_crop_reaches_every_corner_and_refuses_small_images():
  image = np.arange(9, dtype=np.uint8).reshape(3, 3, 1).repeat(3, -1)
  seen = {
    int(pp.RandomCrop(2)({"image": image}, prng.generator(i))["image"][0, 0, 0]) for i in range(60)
  }
  assert seen == {0, 1, 3, 4}
  with pytest.raises(errors.DataError, match="too small"):
    pp.RandomCrop(4)({"image": image}, RNG)


def test_inception_crop_takes_the_whole_image_when_nothing_fits():
  image = noise(6, 600)
  out = pp.InceptionCrop(6, area=(99, 100), ratio=(1, 1))({"image": image}, RNG)["image"]
  np.testing.assert_array_equal(out, pp.Resize(6)({"image": image}, RNG)["image"])


def test_crops_of_frames_are_alike():
  frames = np.stack([noise(9, 9)] * 2)
  out = pp.RandomCrop(4)({"image": frames}, RNG)["image"]
  np.testing.assert_array_equal(out[0], out[1])


@pytest.mark.parametrize(
  "make",
  [
    lambda: pp.Resize(224, method="bilinaer"),
    lambda: pp.Resize(0),
    lambda: pp.InceptionCrop(8, area=(0, 100)),
    lambda: pp.Decode(alpha="withe"),
  ],
)
def test_wrong_settings_fail_when_the_config_is_read(make):
  with pytest.raises(errors.ConfigError):
    make()


def test_an_undecoded_image_is_named_with_the_remedy():
  with pytest.raises(errors.DataError, match="Decode"):
    pp.Resize(8)({"image": b"bytes"}, RNG)
