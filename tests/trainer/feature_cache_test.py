"""A frozen vision tower whose results are kept: the same run, the tower once per image."""

import re
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paligemma_jax import pp
from paligemma_jax.config import load as configs
from paligemma_jax.config import validation
from paligemma_jax.core import errors
from paligemma_jax.models import paligemma
from paligemma_jax.models import variants
from paligemma_jax.trainer import feature_cache
from paligemma_jax.trainer import loop
from paligemma_jax.trainer import setup as setups
from tests import run_train

_ROWS, _BATCH, _STEPS = 12, 4, 9  # Three epochs.


def _config(**train):
  c = configs.load(f"configs/tiny.py:steps={_STEPS},batch_size={_BATCH},num_rows={_ROWS}")
  c.evals = ()
  c.optim.freeze = ("img/(?!head/).*",)
  c.model.overrides = {"img": {"depth": 1}, "llm": {"depth": 1}}
  c.train.update(**train)
  return c


def _train(config, folder, capsys):
  """(its metrics lines, what it said of the tower)."""
  loop.train(config, folder)
  logged = re.search(r"vision tower: .*", capsys.readouterr().err)
  return run_train.metric_lines(folder), logged[0] if logged else ""


@pytest.mark.slow  # 60 s: five runs of nine steps.
@pytest.mark.as_used  # At the lowest level of XLA the last bit depends on what is beside it.
def test_the_run_is_the_same_and_each_image_is_computed_once(tmp_path, capsys):
  plain, logged = _train(_config(), tmp_path / "plain", capsys)
  assert len(plain) == _STEPS and not logged
  lines, logged = _train(_config(cache_image_features="memory"), tmp_path / "memory", capsys)
  # In bits on CPU: the tower's output is the same array, computed in the step or before it.
  assert lines == plain
  assert f"{_ROWS} images computed, {2 * _ROWS} found in memory" in logged

  kept = str(tmp_path / "kept")
  for name, computed in (("first", _ROWS), ("second", 0)):
    config = _config(cache_image_features=kept, grad_accum_steps=1)
    lines, logged = _train(config, tmp_path / name, capsys)
    assert lines == plain
    assert f"{computed} images computed, {3 * _ROWS - computed} found" in logged
  files = [f for f in (tmp_path / "kept").rglob("*") if f.is_file()]
  assert len(files) == _ROWS
  files[0].write_bytes(files[0].read_bytes()[:-1])
  # Other weights of the tower: nothing of the above is right for them. Cut in two, and no room.
  config = _config(cache_image_features=kept, feature_cache_gb=0.0, grad_accum_steps=2)
  config.seed = 1
  _, logged = _train(config, tmp_path / "other", capsys)
  assert (
    f"{3 * _ROWS} images computed, 0 found" in logged and f"{3 * _ROWS} were not kept" in logged
  )


@pytest.fixture(scope="module")
def filled():
  """Fills batches of images by a new cache at `place`: (features, its summary, its notes)."""
  setup = setups.prepare(_config(cache_image_features="memory"))
  params = paligemma.init_params(setup.model_config, jax.random.key(0))

  def fill(place, *batches):
    setup.config.train.cache_image_features = str(place)
    notes = []
    cache = feature_cache.FeatureCache(setup, notes.append)
    features = [cache.fill({"image": images}, params)["encoded"] for images in batches]
    return features, cache.summary(), notes

  return fill


def _images(seed, num=8):
  return np.random.default_rng(seed).integers(0, 256, (num, 56, 56, 3), np.uint8)


def _requests(gcs, since, place):
  """How many of each method came since, for objects in the place; listings name none."""
  methods = [method for method, name in gcs.requests()[since:] if f"/{place}/" in name]
  return {method: methods.count(method) for method in methods}


def test_a_bucket_keeps_what_a_folder_does_with_a_request_for_each_image(filled, gcs, tmp_path):
  images = _images(0)
  images[7] = images[2]
  (wanted,), _, _ = filled(tmp_path, images)
  place = f"gs://test-bucket/{tmp_path.name}"
  for num_computed in (7, 0):
    before = len(gcs.requests())
    (found,), summary, notes = filled(place, images)
    assert found.tobytes() == wanted.tobytes() and not notes
    assert f"{num_computed} images computed, {7 - num_computed} found in gs://" in summary
    written = {"POST": num_computed} if num_computed else {}
    assert _requests(gcs, before, tmp_path.name) == {"GET": 7, **written}
  names = sorted(name for name in gcs.objects() if f"/{tmp_path.name}/" in name)
  local = sorted(f.relative_to(tmp_path).as_posix() for f in tmp_path.rglob("*") if f.is_file())
  assert [name.split("/", 2)[2] for name in names] == local
  for name, kind in zip(names, ("delete", "half", "empty", "flip"), strict=False):
    gcs.damage(name, kind)
  (found,), summary, _ = filled(place, images)
  assert found.tobytes() == wanted.tobytes()
  assert "4 images computed, 3 found" in summary and "3 were damaged" in summary
  assert "0 images computed, 7 found" in filled(place, images)[1]


@pytest.mark.parametrize("status, reason", [(403, "refuses it (Forbidden)"), (507, "Insufficient")])
def test_a_store_that_takes_nothing_is_told_once(filled, gcs, tmp_path, caplog, status, reason):
  batches = [_images(seed, 4) for seed in (1, 2)]
  wanted, _, _ = filled("memory", *batches)
  gcs.plan(dict(method="POST", status=status))
  before = len(gcs.requests())
  found, summary, notes = filled(f"gs://test-bucket/{tmp_path.name}", *batches)
  assert [x.tobytes() for x in found] == [x.tobytes() for x in wanted]
  assert len(notes) == 1 and reason in notes[0] and "computed every time" in notes[0]
  assert "8 were not kept" in summary and reason in summary
  asked = _requests(gcs, before, tmp_path.name)
  assert asked["GET"] == 8 and 1 <= asked["POST"] <= 4  # Nothing is written after a refusal.
  assert not caplog.records  # The client would log every refusal with a traceback.


def test_a_batch_waits_for_one_request_not_for_each(filled, gcs, tmp_path):
  gcs.plan(dict(path=tmp_path.name, delay=0.2))
  begin = time.monotonic()
  filled(f"gs://test-bucket/{tmp_path.name}", _images(3))
  assert time.monotonic() - begin < 1.6  # To list, read and write: 0.6 s, and 3.4 s one by one.


def test_a_bucket_that_cannot_be_listed_is_named(filled, gcs, tmp_path):
  gcs.plan(dict(path="test-bucket", status=403))
  with pytest.raises(errors.WorkdirError, match=r"cache_image_features.*gs://.*refuses"):
    filled(f"gs://test-bucket/{tmp_path.name}", _images(4))
  with pytest.raises(errors.ConfigError, match="gs:// and s3://"):
    filled("hdfs://host/kept")


def test_a_tower_that_trains_is_refused():
  config = _config(cache_image_features="memory")
  config.optim.freeze = ("img/embedding/.*",)
  setup = setups.prepare(config)
  with pytest.raises(
    errors.ConfigError, match=r"train.cache_image_features.*'img/Transformer/.*freeze_vit"
  ):
    feature_cache.FeatureCache(setup, print)


def test_images_that_are_drawn_anew_every_epoch_are_refused():
  config = _config(cache_image_features="memory", pp=(pp.Decode(), pp.InceptionCrop(56)))
  with pytest.raises(errors.ConfigError, match="InceptionCrop makes another image"):
    validation.validate(config)


@pytest.mark.parametrize("shape", [(2, 28, 28, 3), (2, 3, 28, 28, 3)])
def test_the_head_of_the_encoded_images_gives_the_image_tokens(shape):
  overrides = {"img": {"depth": 1}, "llm": {"depth": 1}}
  model_config = variants.get("tiny", res=28, overrides=overrides, dtype="float32")
  params = paligemma.init_params(model_config, jax.random.key(0))
  image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
  encoded = jax.jit(paligemma.encode_images, static_argnums=0)(model_config, params, image)
  frames = shape[1] if len(shape) == 5 else 1
  assert encoded.shape == (2, frames * model_config.num_image_tokens, model_config.img.width)
  image_tokens = jax.jit(paligemma.image_tokens, static_argnums=0)
  tokens = image_tokens(model_config, params, None, encoded=encoded)
  wanted = image_tokens(model_config, params, image)
  np.testing.assert_array_equal(tokens, wanted)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.uint8])
def test_the_checksum_sees_a_bit_and_two_numbers_that_change_places(dtype):
  x = jnp.arange(24).reshape(2, 3, 4).astype(dtype)
  sums = {
    tuple(np.asarray(feature_cache._checksum(y)).tolist())
    for y in (x, x.at[1, 2, 3].set(22), x[::-1], x.swapaxes(0, 1), x.at[0].set(x[0, ::-1]))
  }
  assert len(sums) == 5
