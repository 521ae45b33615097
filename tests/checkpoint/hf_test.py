"""Hugging Face directories: both generations, all spellings, and what is refused."""

import json
import os

import numpy as np
import pytest

from paligemma_jax.checkpoint import hf
from paligemma_jax.checkpoint import hf_config
from paligemma_jax.checkpoint import reader
from paligemma_jax.core import errors
from paligemma_jax.models import param_table
from tests import golden_files
from tests.checkpoint import makers

_Q = "language_model.model.layers.1.self_attn.q_proj.weight"
_SPELLINGS = {
  "hub": lambda n: n,
  "transformers 5 files": lambda n: n.replace("vision_model.", ""),
  "transformers 5 in memory": lambda n: (
    "model." + n.replace("vision_model.", "").replace("language_model.model", "language_model")
  ),
  "model. in front": lambda n: "model." + n,
}


def _directory(tmp_path, *, post_norms=False, num_kv_heads=1, num_shards=0, spell=None, **text):
  model = makers.sizes(post_norms=post_norms, num_kv_heads=num_kv_heads)
  target = makers.params(model)
  tensors = makers.hf_tensors(target, model)
  if spell:
    tensors = {spell(name): array for name, array in tensors.items()}
  config = makers.hf_config(model, **text)
  path = makers.write_hf(tmp_path / "hf", tensors, config, num_shards=num_shards)
  return path, target, model


def _assert_equal(weights, target):
  assert set(weights.entries) == set(target)
  for name, array in target.items():
    found = weights.read(name)
    assert found.shape == array.shape == weights.entries[name].shape
    assert np.array_equal(found, array), name


@pytest.mark.parametrize("num_shards", [0, 3])
@pytest.mark.parametrize("post_norms", [False, True])
@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
def test_tensors_become_ours(tmp_path, post_norms, num_kv_heads, num_shards):
  path, target, model = _directory(
    tmp_path, post_norms=post_norms, num_kv_heads=num_kv_heads, num_shards=num_shards
  )
  weights = hf.open_hf(path)
  _assert_equal(weights, target)
  assert weights.sizes == model


@pytest.mark.parametrize("spelling", sorted(_SPELLINGS))
def test_every_spelling_is_read(tmp_path, spelling):
  path, target, _ = _directory(tmp_path, spell=_SPELLINGS[spelling], num_shards=2)
  _assert_equal(hf.open_hf(path), target)


@pytest.mark.parametrize("name", ["hf_paligemma", "hf_paligemma2"])
def test_a_directory_that_transformers_wrote_is_read(name):
  path = golden_files.path(name)
  weights = hf.open_hf(path)
  raw = reader.safetensors_header(path / "model.safetensors")
  k = reader.rows(raw["language_model.model.layers.2.self_attn.k_proj.weight"], 0, 16)
  heads = weights.sizes["llm"]["num_kv_heads"]
  ours = weights.read("llm/layers/attn/kv_einsum/w")
  assert np.array_equal(ours[2, 0, 0], k[:16].T) and ours.shape == (3, 2, heads, 64, 16)
  assert weights.sizes["llm"]["attn_softcap"] == (50.0 if name.endswith("2") else 0.0)
  assert weights.sizes["llm"]["final_softcap"] == 0.0
  assert weights.sizes["llm"]["sliding_window"] == (4096 if name.endswith("2") else 0)


@pytest.mark.parametrize("dtype", [np.float16, makers.BFLOAT16])
def test_half_precisions_keep_their_bits(tmp_path, dtype):
  model = makers.sizes()
  target = makers.params(model, dtype)
  path = makers.write_hf(tmp_path / "hf", makers.hf_tensors(target, model), makers.hf_config(model))
  weights = hf.open_hf(path)
  assert all(weights.read(n).tobytes() == a.tobytes() for n, a in target.items())


def test_padding_rows_of_released_embeddings_are_dropped(tmp_path):
  model = makers.sizes()
  model = {**model, "llm": {**model["llm"], "width": 2, "vocab_size": 257_216}}
  target = makers.params(model)
  # As in released files: around the mean, with 0.003 of the spread.
  target[param_table.INPUT_EMBEDDING][257_152:] *= 0.003
  path = makers.write_hf(tmp_path / "hf", makers.hf_tensors(target, model), makers.hf_config(model))
  for stored in (257_216, 257_152):  # Releases give one or the other.
    config = makers.hf_config(model, vocab_size=stored)
    (path / "config.json").write_text(json.dumps(config))
    weights = hf.open_hf(path)
    assert weights.sizes["llm"]["vocab_size"] == 257_152
    embedding = weights.read(param_table.INPUT_EMBEDDING)
    assert np.array_equal(embedding, target[param_table.INPUT_EMBEDDING][:257_152])


def test_a_tied_head_is_accepted_and_another_one_is_not(tmp_path):
  path, target, model = _directory(tmp_path)
  tensors = makers.hf_tensors(target, model)
  tensors["lm_head.weight"] = target[param_table.INPUT_EMBEDDING].copy()
  makers.write_safetensors(path / "model.safetensors", tensors)
  _assert_equal(hf.open_hf(path), target)
  tensors["lm_head.weight"][-1, -1] += 1
  makers.write_safetensors(path / "model.safetensors", tensors)
  with pytest.raises(errors.CheckpointError, match="lm_head differs"):
    hf.open_hf(path).read(param_table.INPUT_EMBEDDING)


def test_all_differences_are_in_one_error(tmp_path):
  path, target, model = _directory(tmp_path)
  tensors = makers.hf_tensors(target, model)
  tensors["language_model.model.layers.1.self_attn.q_prj.weight"] = tensors.pop(_Q)
  tensors["multi_modal_projector.linear.bias"] = np.zeros(9, np.float32)
  tensors["vision_tower.vision_model.head.probe"] = np.zeros(9, np.float32)
  makers.write_safetensors(path / "model.safetensors", tensors)
  with pytest.raises(errors.CheckpointError) as caught:
    hf.open_hf(path)
  message = str(caught.value)
  assert "1 missing, 2 surplus, 1 of another shape" in message
  assert f"missing {_Q} [56, 8] (near: language_model.model.layers.1.self_attn.q_prj" in message
  assert "surplus vision_tower.vision_model.head.probe [9]" in message
  assert "multi_modal_projector.linear.bias: [9] in the file, [8] expected" in message


@pytest.mark.parametrize(
  ("change", "says"),
  [
    ({"model_type": "llava"}, "model_type is 'llava'"),
    ({"text_config": {"model_type": "qwen2"}}, "'qwen2', expected 'gemma' or 'gemma2'"),
    ({"text_config": None}, "has no text_config"),
    ({"text_config": {"hidden_size": "8"}}, "hidden_size is '8', not a whole number"),
    ({"text_config": {"num_hidden_layers": 10**12}}, "not a whole number"),
    ({"text_config": {"num_hidden_layers": 2**31 - 1}}, "layers is 2147483647, not a whole"),
    ({"text_config": {"num_hidden_layers": True}}, "num_hidden_layers is True, not a whole"),
    ({"text_config": {"num_hidden_layers": -1}}, "num_hidden_layers is -1, not a whole"),
    ({"text_config": {"hidden_size": 8.0}}, "hidden_size is 8.0, not a whole number"),
    ({"text_config": {"hidden_size": float("nan")}}, "NaN"),
    ({"text_config": {"hidden_size": 1 << 30}}, "hidden_size is 1073741824, not a whole"),
    ({"text_config": {"model_type": []}}, r"model_type is \[\], expected"),
    ({"vision_config": {"num_hidden_layers": 10**9}}, "layers is 1000000000, not a whole"),
    ({"vision_config": {"image_size": 1 << 28}}, "image_size is 268435456, not a whole"),
    *[
      (
        {"text_config": {"model_type": "gemma2", f"{which}_logit_softcapping": value}},
        f"{which}_logit_softcapping is .*; expected null or a number from 0",
      )
      for which in ("attn", "final")
      for value in (10**30, -30.0, True, "50")
    ],
    ({"text_config": {"attn_logit_softcapping": float("nan")}}, "NaN"),
    ({"text_config": {"final_logit_softcapping": float("inf")}}, "Infinity"),
    ({"text_config": {"hidden_activation": "relu"}}, "hidden_activation is 'relu'"),
    ({"text_config": {"rms_norm_eps": 1e-5}}, "rms_norm_eps is 1e-05"),
    ({"text_config": {"rope_theta": 5e5}}, "rope_theta is 500000"),
    ({"text_config": {"rope_parameters": {"rope_type": "linear"}}}, "scales rotary positions"),
    ({"text_config": {"tie_word_embeddings": False}}, "tie_word_embeddings is False"),
    ({"vision_config": {"layer_norm_eps": 1e-5}}, "layer_norm_eps is 1e-05"),
    ({"vision_config": {"image_size": 9}}, "must be multiples"),
    ({"vision_config": {"image_size": 12}}, r"\[16, 6\] in the file, \[36, 6\] expected"),
  ],
)
def test_a_config_that_we_do_not_compute_is_refused(tmp_path, change, says):
  path, _, model = _directory(tmp_path)
  config = makers.hf_config(model)
  for key, value in change.items():
    config[key] = {**config[key], **value} if isinstance(value, dict) else value
  (path / "config.json").write_text(json.dumps(config))
  with pytest.raises(errors.CheckpointError, match=says):
    hf.open_hf(path)


def test_absent_keys_mean_the_defaults_of_transformers_and_null_means_off():
  text = {"model_type": "gemma2"}
  config = {"model_type": "paligemma", "text_config": text, "vision_config": {"patch_size": 14}}
  llm = hf_config.sizes_of(config, "config.json")["llm"]
  assert (llm["attn_softcap"], llm["final_softcap"], llm["sliding_window"]) == (50.0, 30.0, 4096)
  assert (llm["width"], llm["depth"], llm["num_kv_heads"], llm["head_dim"]) == (2304, 26, 4, 256)
  text.update(attn_logit_softcapping=None, final_logit_softcapping=None, sliding_window=None)
  llm = hf_config.sizes_of(config, "config.json")["llm"]
  assert (llm["attn_softcap"], llm["final_softcap"], llm["sliding_window"]) == (0.0, 0.0, 0)


@pytest.mark.parametrize(
  ("scalar", "expected"), [(128, "head_dim"), (144, "width_per_head"), (100, None)]
)
def test_the_query_scale_is_read(scalar, expected):
  text = {"model_type": "gemma2", "hidden_size": 4608, "num_attention_heads": 32, "head_dim": 128}
  config = {
    "model_type": "paligemma",
    "text_config": {**text, "query_pre_attn_scalar": scalar},
    "vision_config": {"patch_size": 14},
  }
  if expected is None:
    with pytest.raises(errors.CheckpointError, match="query_pre_attn_scalar is 100"):
      hf_config.sizes_of(config, "config.json")
  else:
    assert hf_config.sizes_of(config, "config.json")["llm"]["query_scale"] == expected


@pytest.mark.parametrize(
  "shard", ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", None, "x.bin"]
)
def test_a_shard_outside_the_directory_is_never_opened(tmp_path, shard):
  path, _, _ = _directory(tmp_path, num_shards=2)
  makers.write_safetensors(tmp_path / "secret.safetensors", {_Q: np.zeros((56, 8), np.float32)})
  index = path / "model.safetensors.index.json"
  content = json.loads(index.read_text())
  content["weight_map"][_Q] = shard
  index.write_text(json.dumps(content))
  with pytest.raises(errors.CheckpointError, match="expected the plain name"):
    hf.open_hf(path)


def test_an_index_that_disagrees_with_its_shards_is_refused(tmp_path):
  path, _, _ = _directory(tmp_path, num_shards=2)
  index = path / "model.safetensors.index.json"
  content = json.loads(index.read_text())
  del content["weight_map"][_Q]
  index.write_text(json.dumps(content))
  with pytest.raises(errors.CheckpointError, match=f"differs from .* in 1 names.*{_Q}"):
    hf.open_hf(path)


def test_a_missing_shard_or_no_weights_is_named(tmp_path):
  path, _, _ = _directory(tmp_path, num_shards=2)
  (path / "model-00002-of-00002.safetensors").unlink()
  with pytest.raises(errors.CheckpointError, match=r"00002-of-00002\.safetensors: cannot be"):
    hf.open_hf(path)
  (path / "model.safetensors.index.json").unlink()
  with pytest.raises(errors.CheckpointError, match="holds neither"):
    hf.open_hf(path)


def test_one_tensor_under_two_spellings_is_refused(tmp_path):
  path, target, model = _directory(tmp_path)
  tensors = makers.hf_tensors(target, model)
  tensors["model." + _Q] = tensors[_Q]
  makers.write_safetensors(path / "model.safetensors", tensors)
  with pytest.raises(errors.CheckpointError, match="twice, under two spellings"):
    hf.open_hf(path)


@pytest.mark.parametrize(
  "change, says",
  [
    ({"attn_logit_softcapping": 10**400}, "400 digits|401 digits"),
    ({"attn_logit_softcapping": 10**200}, "from 0 to 1e"),
    ({"final_logit_softcapping": -1.0}, "from 0 to 1e"),
    ({"attn_logit_softcapping": float("nan")}, "NaN is not JSON"),
    ({"attn_logit_softcapping": float("inf")}, "Infinity is not JSON"),
    ({"attn_logit_softcapping": True}, "True; expected null"),
    ({"model_type": ["gemma2"]}, r"model_type is \['gemma2'\]"),
    ({"num_hidden_layers": 10**9}, "whole number from 1 to 1000"),
    ({"vocab_size": 1 << 40}, "not a whole number"),
    ({"head_dim": 2.0}, "not a whole number"),
    ({"layer_types": 5, "sliding_window": 64}, "layer_types is 5"),
    ({"rope_scaling": [1]}, "rotary"),
    ({"hidden_activation": {"a": 1}}, "computes"),
  ],
)
def test_a_hostile_value_in_config_json_is_refused(change, says, tmp_path):
  path, _, _ = _directory(tmp_path, post_norms=True)
  config = json.loads((path / "config.json").read_text())
  config["text_config"].update(change)
  (path / "config.json").write_text(json.dumps(config))
  with pytest.raises(errors.CheckpointError, match=says):
    hf.open_hf(path)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_pipe_in_place_of_a_file_is_not_opened(file, tmp_path):
  path, _, _ = _directory(tmp_path)
  (path / file).unlink()
  os.mkfifo(path / file)
  with pytest.raises(errors.CheckpointError, match="not a regular file"):
    hf.open_hf(path)
