"""Adapters that PEFT saved: merged into their base they compute what PEFT computes."""

import json
import shutil

import numpy as np
import pytest

import paligemma_jax as pj
from paligemma_jax.checkpoint import opening
from paligemma_jax.checkpoint import peft_export
from paligemma_jax.checkpoint import reader
from paligemma_jax.core import errors
from paligemma_jax.models import variants
from tests import golden_files
from tests.checkpoint import makers

_NUM_IMAGE_TOKENS = 16
_KINDS = ("all_linear", "dora_projector", "embeddings")


@pytest.fixture(scope="module")
def golden():
  with np.load(golden_files.path("hf_paligemma2/golden.npz")) as file:
    return {key: file[key][:1] for key in file.files if file[key].ndim}


@pytest.mark.parametrize("kind", _KINDS)
def test_logits_and_greedy_tokens_are_those_of_peft(kind, golden):
  folder = golden_files.path(f"peft/{kind}")
  with np.load(folder / "expected.npz") as file:
    expected = dict(file)
  pg = pj.load(folder, dtype="float32", base=golden_files.path("hf_paligemma2"))
  keys = ("input_ids", "attention_mask", "token_type_ids")
  text, valid, suffix = (golden[key][:, _NUM_IMAGE_TOKENS:] for key in keys)
  image = golden["pixel_values"].transpose(0, 2, 3, 1)
  logits = np.asarray(pg.logits(image, text, np.where(valid, suffix, 1), valid))
  real = valid[0].astype(bool)
  # 1e-5 of the logits' size is asked for; float32 sums in another order.
  bar = 1e-5 * max(1.0, np.abs(expected["logits"]).max())
  np.testing.assert_allclose(logits[0][real], expected["logits"][real], rtol=0, atol=bar)
  moved = np.abs(golden["logits"][0, _NUM_IMAGE_TOKENS:] - logits[0])[real].max()
  assert moved > 0.05  # The adapter does something.
  prompt = golden["prompt_ids"][0][golden["prompt_mask"][0].astype(bool)][_NUM_IMAGE_TOKENS:]
  (answer,) = pg.generate(image, [prompt.tolist()], max_new_tokens=6)
  assert list(answer.tokens) == expected["generated"].tolist()


def _copy(tmp_path, kind="all_linear", **settings):
  folder = tmp_path / "adapter"
  shutil.copytree(golden_files.path(f"peft/{kind}"), folder)
  config = json.loads((folder / "adapter_config.json").read_text())
  config |= {"base_model_name_or_path": str(golden_files.path("hf_paligemma2")), **settings}
  (folder / "adapter_config.json").write_text(json.dumps(config))
  return folder


def _tensors(folder):
  header = reader.safetensors_header(folder / peft_export.TENSORS)
  return {n: reader.rows(t, 0, t.entry.shape[0]) for n, t in header.items()}


def test_the_base_is_the_one_that_the_adapters_name_or_another(tmp_path):
  folder = _copy(tmp_path)
  named = opening.open_weights(folder)
  assert named.kind == "peft" and named.path == folder
  other = tmp_path / "base.npz"
  pj.load(golden_files.path("hf_paligemma2"), dtype="float32").save(other, format="npz")
  for weights in (
    opening.open_weights(f"{folder}:base={other}"),
    opening.open_weights(folder, base=other),
  ):
    for name in named.entries:
      np.testing.assert_array_equal(weights.read(name), named.read(name))
  with pytest.raises(errors.ConfigError, match="no directory of PEFT adapters"):
    opening.open_weights(other, base=folder)
  (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
  with pytest.raises(errors.CheckpointError, match=r"names no base.*base=PATH"):
    opening.open_weights(folder)
  with pytest.raises(errors.CheckpointError, match="directory of adapters, too"):
    opening.open_weights(folder, base=folder)


def test_names_of_older_versions_are_read(tmp_path):
  folder = _copy(tmp_path)
  weights = opening.open_weights(folder)
  want = {name: weights.read(name) for name in weights.entries}
  tensors = {}
  for name, array in _tensors(folder).items():
    name = name.replace("model.vision_tower.", "vision_tower.vision_model.")
    name = name.replace("model.multi_modal_projector.", "multi_modal_projector.")
    tensors[name.replace("model.language_model.", "language_model.model.")] = array
  makers.write_safetensors(folder / peft_export.TENSORS, tensors)
  found = opening.open_weights(folder)
  for name, array in want.items():
    np.testing.assert_array_equal(found.read(name), array)


@pytest.mark.parametrize(
  ("settings", "says"),
  [
    ({"peft_type": "LOHA"}, "kind 'LOHA'"),
    ({"init_lora_weights": "pissa_niter_4"}, "changed the base"),
    ({"layer_replication": [[0, 2]]}, "layer_replication"),
    ({"use_something_new": True}, "use_something_new=True"),
    ({"lora_alpha": "5"}, "is no scale"),
    ({"alpha_pattern": {"(": 3}}, "is no regex"),
    ({"alpha_pattern": [3]}, "no table"),
  ],
)
def test_what_cannot_be_merged_exactly_is_named(tmp_path, settings, says):
  with pytest.raises(errors.CheckpointError, match=says):
    opening.open_weights(_copy(tmp_path, **settings))


_TABLE = "base_model.model.model.language_model.embed_tokens"
_LAYER = "base_model.model.model.language_model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ({f"{_LAYER}.lora_A.weight": np.ones((2, 63))}, "does not fit"),
        ({f"{_LAYER}.lora_B.weight": np.ones((64, 3))}, "does not fit"),
        ({_LAYER.replace("layers.0", "layers.7") + ".lora_A.weight": np.ones((2, 64))}, "none of"),
        ({f"{_LAYER}.lora_B.bias": np.ones(64)}, r"none of this base .*q_proj\.bias"),
        ({"base_model.model.lm_head.lora_A.weight": np.ones((2, 64))}, "lm_head in another way"),
        ({f"{_TABLE}.lora_embedding_A": np.ones((2, 9))}, "low-rank adapter on the token embed"),
        (
            {f"{_LAYER.replace('model.language_model', 'language_model.model', 1)}.lora_A.weight":
             np.ones((2, 64))},
            "there twice, with other numbers",
        ),
    ],
)  # fmt: skip
def test_tensors_that_fit_nothing_are_named(tmp_path, extra, says):
  folder = _copy(tmp_path)
  tensors = {**_tensors(folder), **{n: x.astype(np.float32) for n, x in extra.items()}}
  makers.write_safetensors(folder / peft_export.TENSORS, tensors)
  with pytest.raises(errors.CheckpointError, match=says):
    opening.open_weights(folder)


def test_an_embedding_that_was_saved_whole_brings_its_vocabulary(tmp_path):
  folder = _copy(tmp_path)
  table = np.random.default_rng(0).normal(size=(645, 64)).astype(np.float32)
  name = "base_model.model.model.language_model.embed_tokens.weight"
  tensors = {**_tensors(folder), name: table, "base_model.model.lm_head.weight": table}
  makers.write_safetensors(folder / peft_export.TENSORS, tensors)
  weights = opening.open_weights(folder)
  assert weights.sizes["llm"]["vocab_size"] == 645
  np.testing.assert_array_equal(weights.read("llm/embedder/input_embedding"), table)
  tensors["base_model.model.lm_head.weight"] = table + 1
  makers.write_safetensors(folder / peft_export.TENSORS, tensors)
  with pytest.raises(errors.CheckpointError, match="ties the two"):
    opening.open_weights(folder)


def test_what_we_write_we_read(tmp_path):
  """Adapters, norms, the projector and the table: exported and merged again by the other reader."""
  from paligemma_jax.models import linear
  from paligemma_jax.models import lora

  base = opening.open_weights(golden_files.path("hf_paligemma2"))
  params = {name: base.read(name) for name in base.entries}
  spec = variants.Lora(rank=2, alpha=3.0, dora=True, targets=("llm/layers/attn/.*", "img/T.*"))
  rng = np.random.default_rng(0)
  adapters = {}
  for name in lora.targets(spec, params):
    stack, inputs, out = linear.in_out(name, params[name].shape)
    adapters[name] = {
      "lora_a": rng.normal(size=(*stack, *inputs, 2)).astype(np.float32),
      "lora_b": rng.normal(size=(*stack, 2, *out)).astype(np.float32),
      "lora_magnitude": rng.uniform(1, 2, (*stack, *out)).astype(np.float32),
    }
  names = {"llm/layers/pre_attention_norm/scale", "img/head/kernel", "img/pos_embedding",
           "llm/final_norm/scale", "llm/embedder/input_embedding"}  # fmt: skip
  trained = {n: params[n] + 1 for n in peft_export.modules_of(names, base.sizes)}
  assert trained.keys() - names == {"img/head/bias"}  # The rest of a module.
  folder = peft_export.save_peft(
      tmp_path / "out", adapters, base.sizes, spec, trained=trained, base=str(base.path),
  )  # fmt: skip
  found = opening.open_weights(folder)
  want = {**params, **trained}
  for name, parts in adapters.items():
    short = {key.removeprefix("lora_"): x for key, x in parts.items()}
    want[name] = lora.merged(spec, name, params[name], **short)
  for name, array in want.items():
    np.testing.assert_allclose(found.read(name), array, rtol=1e-5, atol=1e-5, err_msg=name)


def test_a_module_that_trained_under_its_adapter_is_refused(tmp_path):
  base = opening.open_weights(golden_files.path("hf_paligemma2"))
  name = "llm/layers/mlp/linear"
  shape = base.entries[name].shape
  a, b = np.zeros((*shape[:2], 2)), np.zeros((shape[0], 2, shape[2]))
  adapters = {name: {"lora_a": a, "lora_b": b}}
  with pytest.raises(errors.CheckpointError, match=r"linear trained although .*down_proj"):
    peft_export.save_peft(
        tmp_path / "out", adapters, base.sizes, variants.Lora(rank=2, alpha=1.0),
        trained={name: base.read(name)},
    )  # fmt: skip
  assert not list(tmp_path.iterdir())
