"""Adapters as PEFT has them: B A of a module is what our merged matrix gained, as torch has it."""

import json
import re

import jax
import numpy as np
import pytest

from paligemma_jax.checkpoint import load
from paligemma_jax.checkpoint import opening
from paligemma_jax.checkpoint import peft_export
from paligemma_jax.checkpoint import reader
from paligemma_jax.core import errors
from paligemma_jax.models import linear
from paligemma_jax.models import lora
from paligemma_jax.models import paligemma
from paligemma_jax.models import variants
from tests import golden_files
from tests.checkpoint import makers

_PREFIX = "base_model.model."
_PARTS = ("lora_A.weight", "lora_B.weight", "lora_magnitude_vector")


def _random_adapters(spec, shapes, seed=0):
  rng = np.random.default_rng(seed)
  adapters = {}
  for name in lora.targets(spec, shapes):
    stack, inputs, out = linear.in_out(name, shapes[name])
    adapters[name] = {
      "lora_a": 0.3 * rng.normal(size=(*stack, *inputs, spec.rank)),
      "lora_b": 0.3 * rng.normal(size=(*stack, spec.rank, *out)),
    }
    if spec.dora:
      adapters[name]["lora_magnitude"] = rng.uniform(0.5, 2, (*stack, *out))
  return {n: {k: x.astype(np.float32) for k, x in parts.items()} for n, parts in adapters.items()}


def _save(path, spec, adapters, sizes):
  return peft_export.save_peft(path, adapters, sizes, spec)


def _read(path):
  tensors = reader.safetensors_header(path / "adapter_model.safetensors")
  return {n: reader.rows(t, 0, t.entry.shape[0]) for n, t in tensors.items()}


@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
@pytest.mark.parametrize("dora", [False, True])
def test_every_module_gains_what_our_matrix_gained(num_kv_heads, dora, tmp_path):
  sizes = makers.sizes(post_norms=num_kv_heads == 2, num_kv_heads=num_kv_heads)
  base = makers.params(sizes)
  spec = variants.Lora(rank=3, alpha=5.0, dora=dora, targets=("llm/layers/.*", "img/.*"))
  adapters = _random_adapters(spec, {name: x.shape for name, x in base.items()})
  merged = {
    name: lora.merged(spec, name, base[name], **_short(parts)) for name, parts in adapters.items()
  }
  before = makers.hf_tensors(base, sizes)
  after = makers.hf_tensors({**base, **merged}, sizes)
  found = _read(_save(tmp_path / "out", spec, adapters, sizes))
  for name in [n for n in found if ".vision_model." in n]:  # Once more, as older versions say it.
    assert np.array_equal(found.pop(name), found[name.replace(".vision_model.", ".")])
  modules = {name.removesuffix(f".{part}") for name in found for part in _PARTS if part in name}
  changed = {_in_memory(name) for name in after if not np.array_equal(after[name], before[name])}
  assert {name.removeprefix(_PREFIX) for name in modules} == changed
  for their, w in after.items():
    module = _PREFIX + _in_memory(their)
    if module in modules:
      a, b = (found[f"{module}.{part}"] for part in _PARTS[:2])
      want = before[their] + spec.scale * b @ a
      if dora:
        length = np.linalg.norm(want, axis=1, keepdims=True)
        want = found[f"{module}.{_PARTS[2]}"][:, None] * want / length
      np.testing.assert_allclose(w, want, rtol=1e-5, atol=1e-5)


def test_the_regex_of_targets_matches_the_modules_and_no_others(tmp_path):
  sizes = makers.sizes()
  base = makers.params(sizes)
  spec = variants.Lora(rank=2, rslora=True, targets=(".*/q_einsum/w", ".*/gating_einsum"))
  adapters = _random_adapters(spec, {name: x.shape for name, x in base.items()})
  path = _save(tmp_path / "out", spec, adapters, sizes)
  config = json.loads((path / "adapter_config.json").read_text())
  assert (config["peft_type"], config["r"], config["use_rslora"]) == ("LORA", 2, True)
  regex = re.compile(config["target_modules"])
  names = [_in_memory(name) for name in makers.hf_tensors(base, sizes)]
  matched = {name for name in names if regex.fullmatch(name)}
  assert {name.rpartition(".")[2] for name in matched} == {"q_proj", "gate_proj", "up_proj"}
  assert all("language_model" in name for name in matched) and len(matched) == 9
  with pytest.raises(errors.CheckpointError, match="exists"):
    _save(tmp_path / "out", spec, adapters, sizes)


def test_nothing_to_write_is_said(tmp_path):
  with pytest.raises(errors.CheckpointError, match="no adapters"):
    _save(tmp_path / "out", variants.Lora(rank=2), {}, makers.sizes())
  with pytest.raises(errors.CheckpointError, match="only those hold adapters"):
    opening.save_peft(golden_files.path("bv/tiny.npz"), tmp_path / "other")


@pytest.mark.slow  # Starts torch; 30 s.
@pytest.mark.parametrize(
  "spec",
  [
    variants.Lora(rank=4, alpha=8.0, targets=("llm/layers/.*", "img/.*")),
    variants.Lora(rank=4, rslora=True, dora=True, targets=("llm/layers/.*", "img/.*")),
  ],
  ids=["lora", "rslora and dora"],
)
def test_peft_computes_what_we_compute(spec, tmp_path):
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  theirs = pytest.importorskip("peft")
  folder = golden_files.path("hf_paligemma")
  with np.load(golden_files.path("hf_paligemma/golden.npz")) as f:
    golden = {key: f[key] for key in f.files}
  weights = opening.open_weights(folder)
  model_config = opening.config_of(weights.sizes, dtype="float32").replace(lora=spec)
  params = load.load_params(weights, weights.entries, dtype=np.float32)
  adapters = _random_adapters(spec, {name: x.shape for name, x in params.items()})
  for name, parts in adapters.items():
    params.update({linear.beside(name, part): x for part, x in parts.items()})
  first = model_config.num_image_tokens
  ids, real, suffix = (
    golden[key][:, first:] for key in ("input_ids", "attention_mask", "token_type_ids")
  )

  @jax.jit
  def forward(params):
    image = golden["pixel_values"].transpose(0, 2, 3, 1)
    x_BTD = paligemma.text_features(model_config, params, image, ids, suffix, mask_input_BT=real)
    return paligemma.logits(model_config, params, x_BTD)

  ours = np.asarray(forward(params))
  path = _save(tmp_path / "out", spec, adapters, weights.sizes)
  base = transformers.PaliGemmaForConditionalGeneration.from_pretrained(
    folder, dtype=torch.float32, attn_implementation="eager"
  )
  model = theirs.PeftModel.from_pretrained(base, path).eval()
  keys = ("input_ids", "attention_mask", "token_type_ids", "pixel_values")
  with torch.no_grad():
    out = model(**{key: torch.from_numpy(golden[key]) for key in keys})
  found = out.logits.numpy()[:, first:, : ours.shape[-1]]
  error = np.abs(found - ours)[real == 1].max()
  moved = np.abs(golden["logits"][:, first:, : ours.shape[-1]] - ours)[real == 1].max()
  assert error < 1e-4 * max(1.0, np.abs(ours).max()) and moved > 0.1


def _short(parts):
  """The parts under the names of `lora.merged`'s arguments."""
  return {key.removeprefix("lora_"): x for key, x in parts.items()}


def _in_memory(their):
  """A canonical tensor name as transformers 5 calls the module."""
  name = their.removesuffix(".weight").replace("vision_tower.vision_model.", "vision_tower.")
  return "model." + name.replace("language_model.model.", "language_model.")
