"""Hugging Face directories that we write: their tensors to the bit, and read back as ours."""

import functools
import json

import numpy as np
import pytest

from paligemma_jax.checkpoint import export
from paligemma_jax.checkpoint import hf
from paligemma_jax.checkpoint import hf_config
from paligemma_jax.checkpoint import reader
from paligemma_jax.core import errors
from paligemma_jax.models import param_table
from tests import golden_files
from tests.checkpoint import makers


def _read(folder):
  tensors = {}
  for path in folder.glob("*.safetensors"):
    for name, tensor in reader.safetensors_header(path).items():
      tensors[name] = reader.rows(tensor, 0, tensor.entry.shape[0])
  return tensors


@pytest.mark.parametrize("shard_bytes", [5 << 30, 4000])
@pytest.mark.parametrize("post_norms", [False, True])
@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
def test_tensors_are_theirs_and_come_back_as_ours(tmp_path, post_norms, num_kv_heads, shard_bytes):
  model = makers.sizes(post_norms=post_norms, num_kv_heads=num_kv_heads)
  params = makers.params(model)
  folder = export.save_hf(
    tmp_path / "out", params, model, files={"a.txt": b"beside"}, shard_bytes=shard_bytes
  )
  found, expected = _read(folder), makers.hf_tensors(params, model)
  assert found.keys() == expected.keys()
  table = found[param_table.EMBEDDING]
  assert table.shape[0] == 64  # 11 words, the id of image tokens, and what makes a multiple of 64.
  mean = params[param_table.INPUT_EMBEDDING].mean(axis=0)
  np.testing.assert_allclose(table[11:], np.tile(mean, (53, 1)), rtol=1e-6, atol=1e-7)
  for name, array in expected.items():
    part = found[name][:11] if name == param_table.EMBEDDING else found[name]
    np.testing.assert_array_equal(part, array, err_msg=name)
  assert len(list(folder.glob("*.safetensors"))) > 1 or shard_bytes > 4000
  weights = hf.open_hf(folder)
  assert weights.sizes == model
  for name, array in params.items():
    np.testing.assert_array_equal(weights.read(name), array, err_msg=name)
  assert weights.image_token == 11
  assert (folder / "a.txt").read_bytes() == b"beside"
  assert sorted(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("window", [0, 3])
@pytest.mark.parametrize("scale", ["head_dim", "width_per_head"])
def test_what_only_the_configuration_says_comes_back(scale, window):
  model = makers.sizes(post_norms=True)
  model["llm"].update(
    query_scale=scale, sliding_window=window, final_softcap=30.0, attn_softcap=0.0
  )
  assert hf_config.sizes_of(hf_config.config_of(model, "float32", 11, 11), "here") == model


@pytest.mark.parametrize("name", ["hf_paligemma", "hf_paligemma2"])
def test_a_directory_of_transformers_keeps_its_meaning(name, tmp_path):
  path = golden_files.path(name)
  weights = hf.open_hf(path)
  params = {key: weights.read(key) for key in weights.entries}
  folder = export.save_hf(tmp_path / "out", params, weights.sizes, image_token=weights.image_token)
  theirs = {k.replace("vision_model.", ""): v for k, v in _read(folder).items()}
  before = _read(path)
  assert theirs.keys() == before.keys()
  for key, array in before.items():
    np.testing.assert_array_equal(theirs[key], array, err_msg=key)
  ours, config = (json.loads((p / "config.json").read_text()) for p in (folder, path))
  for section in ("text_config", "vision_config"):
    shared = ours[section].keys() & config[section].keys()
    different = {k for k in shared if ours[section][k] != config[section][k]}
    assert different <= {"sliding_window", "projection_dim"}, different
    assert len(shared) > 8
  assert ours["image_token_index"] == config["image_token_index"]


def test_released_sizes_are_padded_as_released_files_are(tmp_path):
  model = makers.sizes()
  model["llm"].update(width=2, vocab_size=257_152)
  folder = export.save_hf(tmp_path / "out", makers.params(model), model)
  config = json.loads((folder / "config.json").read_text())
  assert config["image_token_index"] == 257_152 and config["text_config"]["vocab_size"] == 257_216
  assert config["text_config"]["num_image_tokens"] == 16
  assert _read(folder)[param_table.EMBEDDING].shape == (257_216, 2)
  assert hf.open_hf(folder).sizes == model


def test_a_number_that_float16_cannot_hold_is_refused_and_nothing_is_left(tmp_path):
  model = makers.sizes()
  params = makers.params(model)
  params["llm/layers/mlp/linear"][1, 2, 3] = -1e6
  save = {
    "hf": functools.partial(export.save_hf, sizes=model),
    "npz": export.save_npz,
    "native": functools.partial(export.save_native, sizes=model),
  }
  for kind, write in save.items():
    with pytest.raises(errors.CheckpointError, match=r"mlp/linear: -1e\+06 .* bfloat16"):
      write(tmp_path / kind, params=params, dtype="float16")
    write(tmp_path / f"{kind}.bf16", params=params, dtype="bfloat16")
  params["llm/layers/mlp/linear"][1, 2, 3] = 65504
  save["npz"](tmp_path / "fits", params=params, dtype="float16")
  assert not [p.name for p in tmp_path.iterdir() if p.name in save or "partial" in p.name]


def test_another_dtype_and_a_place_that_is_taken(tmp_path):
  model = makers.sizes()
  folder = export.save_hf(tmp_path / "out", makers.params(model), model, dtype="bfloat16")
  assert {array.dtype for array in _read(folder).values()} == {makers.BFLOAT16}
  assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
  with pytest.raises(errors.CheckpointError, match="exists"):
    export.save_hf(folder, makers.params(model), model)
