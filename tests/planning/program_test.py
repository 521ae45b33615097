"""The step is measured as it will run, and no array is made."""

import dataclasses
import functools

import jax
import pytest

from paligemma_jax.core import errors
from paligemma_jax.planning import program
from paligemma_jax.planning import targets
from tests.planning import small


@pytest.fixture(scope="module", autouse=True)
def quick_compiler():
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", False)


@functools.cache
def _measured(compiled=True, frames=0, target="local", **train):
  return program.measure(
    small.config(**train),
    targets.get(target),
    frames=frames,
    num_supervised=0,
    compiled=compiled,
  )


def test_arguments_are_the_state_and_the_batch():
  found = _measured()
  parts = found["parts"]
  assert parts["parameters"] == 4 * found["num_params"] == parts["gradients"]
  # Adam's two moments, its count and the step.
  assert parts["optimizer"] == 2 * parts["parameters"] + 8
  # 4 rows: pixels, three arrays of 13 words, a flag.
  assert parts["batch"] == 4 * (28 * 28 * 3 + 3 * 13 * 4 + 1)
  arguments = sum(parts.values()) - parts["gradients"]
  assert found["bytes"]["arguments"] == pytest.approx(arguments, rel=0.05)
  assert found["fits"] and not found["error"]


def test_the_total_is_the_sum_of_what_is_held_at_once():
  sizes = _measured()["bytes"]
  # The state is donated: what comes out lies where it came in.
  assert sizes["aliased"] >= 0.9 * sizes["outputs"]
  assert sizes["total"] == (
    sizes["arguments"] + sizes["outputs"] - sizes["aliased"] + sizes["temporaries"]
  )


def test_operations_are_those_of_the_model():
  """By hand: weights x tokens x 6, attention, head; nothing is computed again without remat."""
  found = _measured()
  img, llm = small.OVERRIDES["img"], small.OVERRIDES["llm"]
  patches, text, rows = 4, 12, 4
  layer = 4 * img["width"] ** 2 + 2 * img["width"] * img["mlp_dim"]
  vit = img["depth"] * (layer + 2 * patches * img["width"]) * patches
  vit += patches * img["width"] * llm["width"]
  patch = patches * 14 * 14 * 3 * img["width"]
  heads = llm["num_heads"] * llm["head_dim"]
  seq = patches + text
  # Of what a position does in a layer all but its key and value is for what it hands on.
  key_value = 2 * llm["width"] * llm["head_dim"]
  rest = 2 * llm["width"] * heads + 3 * llm["width"] * llm["mlp_dim"] + 2 * seq * heads
  decoder = llm["depth"] * key_value * seq + (llm["depth"] - 1) * rest * seq
  decoder += rest * text  # The last layer: on CPU for text alone.
  head = text * llm["width"] * llm["vocab_size"]
  # Nothing flows back into the pixels: of the patch product there is one pass less.
  by_hand = 2 * rows * (3 * (vit + decoder + head) + 2 * patch)
  assert found["flops_needed"] == found["flops"] == by_hand


def test_without_compiling_only_the_state_is_added_up():
  found = _measured(compiled=False)
  assert found["parts"] == _measured()["parts"] and "bytes" not in found


def test_frames_are_part_of_the_batch():
  more = _measured(compiled=False, frames=3)["parts"]["batch"]
  assert more - _measured(compiled=False)["parts"]["batch"] == 2 * 4 * 28 * 28 * 3


def test_activations_are_what_the_layers_keep_and_too_little_memory_is_refused(monkeypatch):
  devices = jax.devices()[:1]
  monkeypatch.setattr(program, "_devices", lambda target: (devices, 1000, 1000))
  config = small.config()
  config.model.remat = "full"
  found = program.measure(config, targets.get("local"), frames=0, num_supervised=0, compiled=True)
  sizes = small.OVERRIDES["llm"]
  carry = sizes["depth"] * 4 * 16 * sizes["width"] * 4  # One input per layer, 4 + 12 positions.
  assert carry <= found["activations"] < _measured()["activations"] / 3
  assert found["flops"] > found["flops_needed"] == _measured()["flops_needed"]
  assert not found["fits"] and not found["fits_with"] and found["bytes"]["total"] > 1000


def test_what_fits_once_jax_takes_more_of_the_card_is_told_how(monkeypatch):
  total = _measured()["bytes"]["total"]
  devices = jax.devices()[:1]
  monkeypatch.setattr(program, "_devices", lambda target: (devices, total - 1, total))
  found = program.measure(
    small.config(), targets.get("local"), frames=0, num_supervised=0, compiled=True
  )
  assert not found["fits"] and found["fits_with"] == "export XLA_CLIENT_MEM_FRACTION=0.9"


def test_a_batch_that_does_not_divide_is_an_error():
  with pytest.raises(errors.ConfigError, match=r"train.batch_size=4"):
    _measured(compiled=False, grad_accum_steps=8)


def test_what_a_compiler_says_it_used_is_read():
  logged = "RESOURCE_EXHAUSTED: … Used 45.61G of 15.75G hbm. Exceeded hbm capacity by 29.86G."
  assert program._used(logged) == pytest.approx(45.61 * 2**30)
  logged = "RESOURCE_EXHAUSTED: … for HLO temporaries (53.03G) exceeds available HBM (15.75G)."
  assert program._used(logged) == pytest.approx(53.03 * 2**30)
  assert program._used("RESOURCE_EXHAUSTED: out of luck") == 0


def test_groups_that_cannot_be_read_leave_the_rest_of_the_plan(monkeypatch):
  def unknown(hlo, hosts):
    raise ValueError("unknown groups: 'rings'")

  monkeypatch.setattr(program.collectives, "collectives", unknown)
  found = program.measure(
    small.config(), targets.get("local"), frames=0, num_supervised=0, compiled=True
  )
  assert found["fits"] and found["collectives"] == {}
  assert found["unread"] == "unknown groups: 'rings'"


def test_a_missing_compiler_is_named_with_its_package():
  target = dataclasses.replace(targets.get("v5e-8"), platform="tpu", topology="v99:9x9")
  with pytest.raises(errors.ConfigError, match=r"pip install 'jax\[tpu\]'"):
    program.measure(small.config(), target, frames=0, num_supervised=0, compiled=False)
