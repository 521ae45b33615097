"""A run with a quantized base, adapters, 8-bit moments and averages: resumed, opened, exported."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

import paligemma_jax
from configs import tiny
from paligemma_jax import presets
from paligemma_jax.checkpoint import export
from paligemma_jax.checkpoint import opening
from paligemma_jax.checkpoint import reader
from paligemma_jax.config import load as configs
from paligemma_jax.core import errors
from paligemma_jax.models import linear
from paligemma_jax.models import paligemma
from paligemma_jax.models import variants
from paligemma_jax.trainer import loop
from paligemma_jax.trainer import setup as setups
from tests import run_train

_LINEAR = "llm/layers/mlp/linear"


def _config(tune):
  c = tiny.get_config(steps=4)
  c.init = "tiny_112"
  presets.apply(c, tune)
  c.evals = (c.evals[0].replace(every="2 steps", limit=8),)
  c.ckpt.update(every="2 steps", keep=3, export="npz", async_save=False)
  if c.lora.rank:
    c.lora.update(rank=8, dropout=0.1)
  configs.validate(c)
  return c


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  path = tmp_path_factory.mktemp("run") / "qlora"
  loop.train(_config("adam8bit+qlora+ema"), path)
  return path


@pytest.mark.slow  # One run of four steps; 25 s.
def test_adapters_alone_are_saved_with_each_step_and_the_base_once_in_4_bits(workdir):
  state = run_train.state_arrays(workdir)
  trained = {name for name in state if name.startswith("trainable/")}
  assert trained and all("lora_" in name for name in trained)
  assert {n.replace("trainable/", "ema/") for n in trained} <= set(state)
  coded = f"opt_state/rule/mu/{_LINEAR}_lora_a"
  assert state[coded].dtype == np.uint8
  base = workdir / "checkpoints" / "base"
  num_bytes = sum(path.stat().st_size for path in base.rglob("*") if path.is_file())
  tuned = opening.open_run(workdir).tuned.entries
  assert tuned[f"{_LINEAR}_nf4"].dtype == np.uint8 and _LINEAR not in tuned
  model_config = setups.lay_out(_config("qlora")).model_config
  num_params = sum(leaf.size for leaf in paligemma.param_shapes(model_config.plain()).values())
  assert num_bytes < 0.75 * num_params  # With norms, biases and positions, of a tiny model.


@pytest.mark.slow  # The second half of that run once more.
def test_a_resumed_run_ends_in_the_same_bits(workdir, tmp_path):
  again = tmp_path / "again"
  shutil.copytree(workdir, again)
  shutil.rmtree(again / "checkpoints" / "4")
  loop.train(_config("adam8bit+qlora+ema"), again)
  state, want = run_train.state_arrays(again), run_train.state_arrays(workdir)
  assert state.keys() == want.keys()
  for name, array in want.items():
    np.testing.assert_array_equal(state[name], array, err_msg=name)
  assert run_train.metric_lines(again) == run_train.metric_lines(workdir)


@pytest.mark.slow
def test_the_run_opens_as_published_weights_with_its_averages_merged(workdir):
  run = opening.open_run(workdir)
  plain = paligemma.param_shapes(opening.model_of(run.config).plain())
  assert {n: e.shape for n, e in run.weights.entries.items()} == {
    n: leaf.shape for n, leaf in plain.items()
  }
  exported = opening.open_weights(next(workdir.glob("*.npz")))
  for name in run.weights.entries:
    np.testing.assert_array_equal(exported.read(name), run.weights.read(name), err_msg=name)
  model_config = opening.model_of(run.config)
  codes, scale = (run.tuned.read(n) for n in linear.quantized_names(_LINEAR, "nf4"))
  base = linear.dequantize_param(_LINEAR, "nf4", codes, scale, plain[_LINEAR].shape, np.float32)
  state = run_train.state_arrays(workdir)
  a, b = (state[f"ema/{_LINEAR}_{part}"] for part in ("lora_a", "lora_b"))
  gained = run.weights.read(_LINEAR) - base
  np.testing.assert_allclose(gained, model_config.lora.scale * a @ b, rtol=0, atol=1e-6)
  assert np.abs(gained).max() > 1e-5


@pytest.mark.slow
def test_the_run_answers_as_any_weights_do(workdir):
  pg = paligemma_jax.load(workdir, dtype="float32")
  assert not any("lora_" in name or "_nf4" in name for name in pg.params)
  image = np.zeros((56, 56, 3), np.uint8)
  (answer,) = pg.generate([image], ["caption en"], max_new_tokens=2)
  assert len(answer.tokens) == 2 and np.isfinite(answer.logprob)


@pytest.mark.slow
def test_its_adapters_are_written_for_peft(workdir, tmp_path):
  path = opening.save_peft(workdir, tmp_path / "adapters")
  tensors = reader.safetensors_header(path / "adapter_model.safetensors")
  name = "base_model.model.model.language_model.layers.3.mlp.down_proj.lora_A.weight"
  assert tensors[name].entry.shape == (8, 512)
  assert len(tensors) == 4 * 7 * 2


def _base_and_adapters(workdir, tmp_path):
  """The run's base as transformers opens it, its adapters over that, and what was said."""
  weights = opening.open_base(workdir)
  params = {name: weights.read(name) for name in weights.entries}
  base = export.save_hf(tmp_path / "base", params, weights.sizes)
  logged = []
  adapters = opening.save_peft(workdir, tmp_path / "own", base=str(base), log=logged.append)
  return base, adapters, logged


def _assert_is_the_run(adapters, workdir):
  found, run = opening.open_weights(adapters), opening.open_run(workdir)
  for name in run.weights.entries:
    np.testing.assert_allclose(
      found.read(name), run.weights.read(name), rtol=1e-5, atol=1e-6, err_msg=name
    )


@pytest.mark.slow
def test_adapters_over_the_base_as_the_run_saw_it_are_the_run(workdir, tmp_path):
  base, adapters, logged = _base_and_adapters(workdir, tmp_path)
  settings = json.loads((adapters / "adapter_config.json").read_text())
  assert settings["base_model_name_or_path"] == str(base) and not settings["modules_to_save"]
  assert settings["auto_mapping"]["base_model_class"] == "PaliGemmaForConditionalGeneration"
  assert any("quantized to nf4" in sentence for sentence in logged)
  assert "quantized to nf4" in (adapters / "README.md").read_text()
  _assert_is_the_run(adapters, workdir)
  unnamed = opening.save_peft(workdir, tmp_path / "unnamed", log=logged.append)
  with pytest.raises(errors.CheckpointError, match="names no base"):
    opening.open_weights(unnamed)  # The demo's weights are nothing that transformers opens.


@pytest.mark.slow  # Four steps; 25 s.
def test_all_that_trained_is_in_an_export_for_peft(tmp_path):
  c = _config("lora")
  c.evals, c.ckpt.export = (), ""
  c.optim.update(train_only=(".*lora_.*", "llm/.*norm/scale", "img/head/.*", "img/pos_embedding"))
  c.optim.update(lr=1e-2, lr_mults=())
  loop.train(c, tmp_path / "run")
  _, adapters, _ = _base_and_adapters(tmp_path / "run", tmp_path)
  saved = json.loads((adapters / "adapter_config.json").read_text())["modules_to_save"]
  assert {"multi_modal_projector.linear", "language_model.norm", "embeddings.position_embedding",
          "language_model.layers.3.input_layernorm"} <= set(saved)  # fmt: skip
  _assert_is_the_run(adapters, tmp_path / "run")
  # Over the weights that the run began with, the export alone gives all that it learned.
  _assert_is_the_run(f"{adapters}:base=tiny_112", tmp_path / "run")


@pytest.mark.slow  # One command; 20 s.
def test_the_command_that_evaluates_it_finds_what_training_found(workdir):
  command = [sys.executable, "-m", "paligemma_jax.evaluate", "--workdir", str(workdir)]
  done = subprocess.run(
    command, cwd=run_train.ROOT, text=True, capture_output=True, timeout=900, check=False
  )
  assert done.returncode == 0, done.stderr[-3000:]
  evaluated = json.loads(done.stdout)
  trained = json.loads(run_train.metric_lines(workdir)[-1])
  names = [name for name in trained if name.startswith("val/loss/")]
  assert evaluated["step"] == trained["step"] == 4 and "val/loss/loss" in names
  for name in names:
    # The adapters are merged now, and the base unpacked: the same but for rounding.
    np.testing.assert_allclose(evaluated[name], trained[name], rtol=1e-5, atol=0)


@pytest.mark.parametrize("tune", ["lora", "qlora", "adafactor+qlora_int8"])
def test_a_transfer_takes_the_presets(tune):
  c = configs.load(f"{run_train.ROOT}/transfers/okvqa.py:tune={tune}")
  configs.validate(c, variants=variants.VARIANTS)
  setup = setups.lay_out(c)
  assert setup.trainable and all("lora_" in name for name in setup.trainable)
  num_quantized = sum(paligemma.is_quantized(name) for name in setup.frozen)
  assert num_quantized == (2 * 13 if "qlora" in tune else 0)  # Codes and scales.
  # At ten times the page's rate.
  assert c.optim.lr_mults == ((".*lora_.*", 10.0),) and c.optim.lr == 5e-6


def test_a_packed_matrix_that_would_train_is_named():
  c = _config("qlora")
  c.optim.train_only = (".*lora_.*", "llm/layers/mlp/.*")
  with pytest.raises(errors.ConfigError, match=r"are quantized .*and cannot train"):
    setups.lay_out(c)


def test_a_base_is_packed_as_it_is_loaded_to_what_packing_the_whole_gives():
  setup = setups.lay_out(_config("qlora_int8"))
  params = setups.initial_params(setup, lambda text: None)
  assert set(params) == set(setup.shapes)
  whole = opening.open_weights("tiny_112").read(_LINEAR)
  for name, want in linear.quantize_param(_LINEAR, "int8", np.float32(whole)).items():
    np.testing.assert_array_equal(params[name], want)
    assert params[name].dtype == setup.shapes[name].dtype
  assert params["llm/layers/pre_ffw_norm/scale"].dtype == np.float32
