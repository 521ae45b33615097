"""Tensors of a Hugging Face directory: wrapped names, tied pairs, left-over files, padding."""

import json

import numpy as np
import pytest

from paligemma_jax.checkpoint import hf
from paligemma_jax.core import errors
from paligemma_jax.models import param_table
from tests.checkpoint import makers


def _directory(tmp_path, tensors=None, *, num_shards=0, seed=0, **config):
  model = makers.sizes()
  target = makers.params(model, seed=seed)
  tensors = makers.hf_tensors(target, model) if tensors is None else tensors
  settings = {**makers.hf_config(model), **config}
  return makers.write_hf(tmp_path / "hf", tensors, settings, num_shards=num_shards), target


def _assert_equal(path, target):
  weights = hf.open_hf(path)
  for name, array in target.items():
    assert np.array_equal(weights.read(name), array), name


def _tensors(seed=0):
  return makers.hf_tensors(makers.params(makers.sizes(), seed=seed), makers.sizes())


@pytest.mark.parametrize("num_shards", [0, 2])
@pytest.mark.parametrize(
  "prefix", ["module.", "_orig_mod.", "base_model.model.", "module._orig_mod.model."]
)
def test_what_a_wrapper_put_before_all_names_is_taken_off(tmp_path, prefix, num_shards):
  tensors = {prefix + name: array for name, array in _tensors().items()}
  _assert_equal(*_directory(tmp_path, tensors, num_shards=num_shards))


def test_a_prefix_of_some_names_alone_is_an_error(tmp_path):
  tensors = {(f"module.{n}" if "layers" in n else n): x for n, x in _tensors().items()}
  path, _ = _directory(tmp_path, tensors)
  with pytest.raises(errors.CheckpointError, match=r"surplus module\."):
    hf.open_hf(path)


@pytest.mark.parametrize("spelling", ["lm_head.weight", "language_model.lm_head.weight"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_head_without_an_embedding_is_the_embedding(tmp_path, spelling, prefix):
  tensors = _tensors()
  tensors[spelling] = tensors.pop(param_table.EMBEDDING)
  _assert_equal(*_directory(tmp_path, {prefix + n: x for n, x in tensors.items()}))


@pytest.mark.parametrize("num_shards", [0, 2])
def test_buffers_among_the_parameters_are_ignored(tmp_path, num_shards):
  makers_dtypes = makers._SAFE_DTYPES  # Buffers are whole numbers, which no parameter is.
  makers_dtypes[np.dtype(np.int64)] = "I64"
  try:
    tensors = {
      "vision_tower.vision_model.embeddings.position_ids": np.arange(16)[None],
      **_tensors(),
      "language_model.model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(7, np.float32),
    }
    path, target = _directory(tmp_path, tensors, num_shards=num_shards)
    _assert_equal(path, target)
    tensors["language_model.model.norm.weight"] = np.ones(8, np.int64)
    makers.write_safetensors(path / "model.safetensors", tensors)
    if not num_shards:
      with pytest.raises(errors.CheckpointError, match=r"norm.weight' has dtype 'I64'"):
        hf.open_hf(path)
  finally:
    del makers_dtypes[np.dtype(np.int64)]


def test_of_a_file_and_an_index_the_one_that_fits_is_taken(tmp_path, caplog):
  path, target = _directory(tmp_path, num_shards=2)
  makers.write_safetensors(path / "model.safetensors", {"other": np.ones(3, np.float32)})
  with caplog.at_level("WARNING"):
    _assert_equal(path, target)
  assert "takes model.safetensors.index.json; model.safetensors does not fit" in caplog.text
  makers.write_safetensors(path / "model.safetensors", _tensors(seed=1))
  (path / "model-00001-of-00002.safetensors").unlink()
  _assert_equal(path, makers.params(makers.sizes(), seed=1))


def test_two_sets_of_weights_that_both_fit_are_refused(tmp_path):
  path, _ = _directory(tmp_path, num_shards=2)
  makers.write_safetensors(path / "model.safetensors", _tensors(seed=1))
  with pytest.raises(errors.CheckpointError, match=r"two sets of weights .* left over"):
    hf.open_hf(path)
  (path / "model.safetensors").unlink()
  weight_map = dict.fromkeys(_tensors(), "model.safetensors")
  (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
  makers.write_safetensors(path / "model.safetensors", _tensors(seed=1))
  _assert_equal(path, makers.params(makers.sizes(), seed=1))  # One set, listed in two ways.


def _padded(tmp_path, rows_behind, **files):
  """A directory of 63 words, with one row behind them for the image's id."""
  model = makers.sizes()
  model["llm"]["vocab_size"] = 64
  target = makers.params(model)
  table = target[param_table.INPUT_EMBEDDING]
  table[63:] = rows_behind
  settings = {**makers.hf_config(model), "_vocab_size": 63, "image_token_index": 63}
  path = makers.write_hf(tmp_path / "hf", makers.hf_tensors(target, model), settings)
  for name, content in files.items():
    (path / f"{name}.json").write_text(json.dumps(content))
  return hf.open_hf(path), table


def test_rows_that_only_pad_are_left_out(tmp_path):
  weights, table = _padded(tmp_path, 0.01, added_tokens={"<image>": 63})
  assert weights.sizes["llm"]["vocab_size"] == 63 and weights.image_token == 63
  assert np.array_equal(weights.read(param_table.INPUT_EMBEDDING), table[:63])


@pytest.mark.parametrize(
  "files",
  [
    {"added_tokens": {"<mine>": 63}},
    {"tokenizer_config": {"added_tokens_decoder": {"63": {"content": "<mine>"}}}},
    {"tokenizer": {"added_tokens": [{"id": 63, "content": "<mine>"}]}},
  ],
)
def test_rows_of_added_tokens_are_kept(tmp_path, files):
  weights, table = _padded(tmp_path, 0.01, **files)
  assert weights.sizes["llm"]["vocab_size"] == 64
  assert np.array_equal(weights.read(param_table.INPUT_EMBEDDING), table)


def test_trained_rows_in_the_padding_are_kept_without_any_tokenizer(tmp_path):
  model = makers.sizes()
  model["llm"]["vocab_size"] = 128
  target = makers.params(model)
  target[param_table.INPUT_EMBEDDING][100:] = 0.01
  settings = {**makers.hf_config(model), "_vocab_size": 100}
  path = makers.write_hf(tmp_path / "hf", makers.hf_tensors(target, model), settings)
  assert hf.open_hf(path).sizes["llm"]["vocab_size"] == 100
  target[param_table.INPUT_EMBEDDING][101] = np.random.default_rng(5).normal(size=8)
  makers.write_safetensors(path / "model.safetensors", makers.hf_tensors(target, model))
  weights = hf.open_hf(path)
  assert weights.sizes["llm"]["vocab_size"] == 128
  assert np.array_equal(
    weights.read(param_table.INPUT_EMBEDDING), target[param_table.INPUT_EMBEDDING]
  )


def test_tokenizer_files_that_name_nonsense_are_named(tmp_path):
  with pytest.raises(errors.CheckpointError, match=r"added_tokens.json: names the token 'x'"):
    _padded(tmp_path, 0.01, added_tokens={"x": "63"})
