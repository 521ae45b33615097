"""The mask codec against definitions written out in loops, and files that must be refused."""

import inspect
import io
import os
import zipfile

import numpy as np
import pytest

from paligemma_jax.core import errors
from paligemma_jax.regions import mask_codec
from tests.checkpoint import hostile_npz
from tests.checkpoint import makers

SMALL = dict(num_codes=9, code_dim=5, encoder=(2, 3, 2, 4), decoder=(4, 3, 2, 2, 3))


def weights(seed=0, **sizes):
  """Random weights in the published layout."""
  rng = np.random.default_rng(seed)
  shapes = mask_codec.shapes(**sizes)
  return {
    name: rng.normal(0, 0.4 if len(shape) > 1 else 0.1, shape).astype(np.float32)
    for name, shape in shapes.items()
  }


def conv(x, w, b, stride=1):
  """float64[C_out, H', W'] of [C_in, H, W]: PyTorch's layout, SAME padding, plain loops."""
  num_out, _, kernel, _ = w.shape
  side = -(-x.shape[1] // stride)
  before = max((side - 1) * stride + kernel - x.shape[1], 0) // 2
  out = np.zeros((num_out, side, side))
  for y in range(side):
    for z in range(side):
      for ky in range(kernel):
        for kx in range(kernel):
          iy, ix = y * stride + ky - before, z * stride + kx - before
          if 0 <= iy < x.shape[1] and 0 <= ix < x.shape[2]:
            out[:, y, z] += w[:, :, ky, kx] @ x[:, iy, ix]
  return out + b[:, None, None]


def up(x, w, b):
  """Transposed convolution as PyTorch defines it: kernel 4, stride 2, padding 1."""
  side = x.shape[1]
  out = np.zeros((w.shape[1], 2 * side, 2 * side))
  for y in range(side):
    for z in range(side):
      for ky in range(4):
        for kx in range(4):
          oy, ox = 2 * y + ky - 1, 2 * z + kx - 1
          if 0 <= oy < 2 * side and 0 <= ox < 2 * side:
            out[:, oy, ox] += w[:, :, ky, kx].T @ x[:, y, z]
  return out + b[:, None, None]


def reference_outputs(w, mask):
  """float64[D, 4, 4] of float[64, 64]: the encoder, before the nearest codes are taken."""
  p = {k: v.astype(np.float64) for k, v in w.items()}

  def layer(x, name, stride=1):
    return conv(x, p[f"{name}.weight"], p[f"{name}.bias"], stride)

  def block(x, name):
    y = np.maximum(layer(x, f"{name}.net.0"), 0)
    return x + layer(np.maximum(layer(y, f"{name}.net.2"), 0), f"{name}.net.4")

  x = mask[None].astype(np.float64)
  for i in (0, 2, 4, 6):
    x = np.maximum(layer(x, f"encoder.{i}", 2), 0)
  return layer(block(block(x, "encoder.8"), "encoder.9"), "encoder.10")


def reference_mask(w, codes):
  """float64[64, 64] of 16 codes."""
  p = {k: v.astype(np.float64) for k, v in w.items()}
  x = p["_vq_vae._embedding"][codes].T.reshape(-1, 4, 4)
  x = np.maximum(conv(x, p["decoder.0.weight"], p["decoder.0.bias"]), 0)
  for name in ("decoder.2.net", "decoder.3.net"):
    y = np.maximum(conv(x, p[f"{name}.0.weight"], p[f"{name}.0.bias"]), 0)
    y = np.maximum(conv(y, p[f"{name}.2.weight"], p[f"{name}.2.bias"]), 0)
    x = x + conv(y, p[f"{name}.4.weight"], p[f"{name}.4.bias"])
  for i in (4, 6, 8, 10):
    x = np.maximum(up(x, p[f"decoder.{i}.weight"], p[f"decoder.{i}.bias"]), 0)
  return conv(x, p["decoder.12.weight"], p["decoder.12.bias"])[0]


def test_the_default_shapes_are_the_published_ones():
  shapes = mask_codec.shapes()
  assert shapes["_vq_vae._embedding"] == (128, 512)
  assert shapes["decoder.0.weight"] == (128, 512, 1, 1)
  assert shapes["decoder.2.net.0.weight"] == shapes["decoder.3.net.2.weight"] == (128, 128, 3, 3)
  assert shapes["decoder.2.net.4.weight"] == (128, 128, 1, 1)
  ups = [shapes[f"decoder.{i}.weight"] for i in (4, 6, 8, 10)]  # (in, out, 4, 4)
  assert ups == [(128, 128, 4, 4), (128, 64, 4, 4), (64, 32, 4, 4), (32, 16, 4, 4)]
  assert shapes["decoder.12.weight"] == (1, 16, 1, 1)
  assert set(shapes) == set(mask_codec.NAMES) and len(shapes) == 47


def test_encoding_and_decoding_equal_the_definition_in_loops():
  w = weights(**SMALL)
  codec = mask_codec.MaskCodec(w)
  masks = np.random.default_rng(1).random((3, 64, 64)) < 0.5
  codes = codec.encode(masks)
  for mask, found in zip(masks, codes, strict=True):
    z = reference_outputs(w, mask * 2.0 - 1).reshape(5, 16).T
    distance = ((z[:, None] - w["_vq_vae._embedding"][None]) ** 2).sum(axis=2)
    np.testing.assert_array_equal(found, distance.argmin(axis=1))
  for decoded, found in zip(codec.decode(codes), codes, strict=True):
    np.testing.assert_allclose(decoded, reference_mask(w, found), rtol=0, atol=1e-4)
  assert len(np.unique(codes)) > 1  # Or the comparison would say little.


def test_floats_and_bools_are_the_same_masks_and_batches_do_not_matter():
  codec = mask_codec.MaskCodec(weights(**SMALL))
  masks = np.random.default_rng(2).random((70, 64, 64)) < 0.3
  codes = codec.encode(masks)
  np.testing.assert_array_equal(codes, codec.encode(masks * 2.0 - 1))
  np.testing.assert_array_equal(codes[33:36], codec.encode(masks[33:36]))
  # The order in which BLAS sums depends on the size of a batch, on some processors.
  np.testing.assert_allclose(
    codec.decode(codes)[33:36], codec.decode(codes[33:36]), rtol=0, atol=1e-6
  )
  assert codec.encode(masks[:0]).shape == (0, 16) and codec.decode(codes[:0]).shape == (0, 64, 64)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_what_is_written_is_read(tmp_path, dtype):
  w = weights(**SMALL)
  mask_codec.write(tmp_path / "c.npz", w, dtype)
  read = mask_codec.open_codec(str(tmp_path / "c.npz")).weights
  assert set(read) == set(w)
  for name, value in w.items():
    assert read[name].dtype == np.float32
    np.testing.assert_array_equal(read[name], value.astype(dtype).astype(np.float32))


def test_a_file_of_the_published_sizes_with_what_training_left_in_it_is_read(tmp_path):
  w = weights()
  extra = {"_vq_vae._ema_w": np.zeros(3), "_vq_vae._ema_cluster_size": np.zeros(128)}
  np.savez(tmp_path / "oid.npz", **w, **extra)
  codec = mask_codec.open_codec(str(tmp_path / "oid.npz"))
  assert codec.codebook.shape == (128, 512) and codec.decode(np.zeros((1, 16), int)).shape[0] == 1


def test_a_file_written_anew_is_read_anew(tmp_path):
  path = tmp_path / "c.npz"
  for seed in (0, 1):
    mask_codec.write(path, weights(seed, **SMALL))
    os.utime(path, ns=(seed, seed))
    expected = weights(seed, **SMALL)["decoder.0.bias"].astype(np.float16)
    read = mask_codec.open_codec(str(path)).weights["decoder.0.bias"]
    np.testing.assert_array_equal(read, expected.astype(np.float32))


def test_the_embedded_codec_is_small_and_good_on_drawings_it_never_saw():
  from configs import mask_codec as config
  from tools import train_mask_codec

  assert mask_codec.EMBEDDED.stat().st_size <= 1 << 20
  held_out = config.get_config().held_out
  assert held_out.classes == "heldout"
  # 0.840 of all 240, as docs/segmentation.md says; each drawing four times is enough here.
  masks = held_out.replace(num_rows=48)
  assert train_mask_codec.held_out_iou(masks, mask_codec.EMBEDDED) >= 0.82


def _change(**changes):
  return lambda w: {**w, **changes}


def _rename(old, new):
  return lambda w: {new if k == old else k: v for k, v in w.items()}


@pytest.mark.parametrize(
  "change, hint",
  [
    (_rename("decoder.4.bias", "decoder.4.bais"), r"missing decoder.4.bias. \(near: .*bais\)"),
    (_change(extra=np.zeros(3)), "surplus extra"),
    (_change(**{"decoder.0.bias": np.zeros((1, 4))}), r"decoder.0.bias is \[1, 4\]; expect"),
    (_change(**{"decoder.6.weight": np.zeros((2, 3, 4, 4))}), r"\(transposed\?\)"),
    (_change(**{"encoder.0.weight": np.zeros((2, 1, 9, 9))}), "up to 7 x 7"),
    (_change(**{"_vq_vae._embedding": np.zeros((129, 5))}), "codes up to 128"),
    (_change(**{"decoder.0.bias": np.zeros(4, np.int32)}), "dtype int32"),
    (_change(**{"decoder.0.bias": np.full(4, np.nan)}), "not finite"),
  ],
)
def test_a_file_that_is_no_codec_is_named_with_what_is_wrong(tmp_path, change, hint):
  np.savez(tmp_path / "c.npz", **change(weights(**SMALL)))
  with pytest.raises(errors.CheckpointError, match=hint):
    mask_codec.open_codec(str(tmp_path / "c.npz"))


def _pickled(tmp_path, touched):
  path = tmp_path / "w.npz"
  np.savez(path, **weights(**SMALL))
  return _add(path, "decoder.99.npy", hostile_npz._object_npy(touched))


def _twice(tmp_path, touched):
  path = tmp_path / "w.npz"
  np.savez(path, **weights(**SMALL))
  with pytest.warns(UserWarning, match="Duplicate"):
    return _add(path, "decoder.0.bias.npy", makers.npy(np.zeros(4, np.float32)))


def _lying_header(tmp_path, touched):
  buffer = io.BytesIO()
  header = {"descr": "<f4", "fortran_order": False, "shape": (1 << 40,)}
  np.lib.format.write_array_header_1_0(buffer, header)
  return _add(tmp_path / "w.npz", "decoder.0.bias.npy", buffer.getvalue())


def _add(path, name, content):
  with zipfile.ZipFile(path, "a") as archive:
    archive.writestr(name, content)
  return path


_HOSTILE = [
  make
  for name, make in vars(hostile_npz).items()
  if inspect.isfunction(make) and not name.startswith("_")
]


@pytest.mark.parametrize("make", [_pickled, _twice, _lying_header, *_HOSTILE])
def test_a_hostile_file_is_refused_and_nothing_in_it_runs(tmp_path, make):
  touched = tmp_path / "touched"
  path = make(tmp_path, touched)
  with pytest.raises(errors.CheckpointError):
    mask_codec.open_codec(str(path))
  assert not touched.exists()


def test_a_missing_file_says_where_the_published_one_is():
  with pytest.raises(errors.CheckpointError, match=r"vae-oid\.npz"):
    mask_codec.open_codec("/nowhere/vae-oid.npz")
