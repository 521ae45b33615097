"""Update rules beside those that the reference's runs hold (reference_runs_test), and averages."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paligemma_jax.checkpoint import store
from paligemma_jax.core import errors
from paligemma_jax.training import adam8bit
from paligemma_jax.training import optimizers
from paligemma_jax.training import sharding
from tests.training import toy_state
from tests.training.optim_section import optim

_ADAFACTOR = dict(name="adafactor", b1=0.9, b2=0.999, eps=1e-30, rms_clip=1.0, grad_clip_norm=0.0)
_NEW = {
  "adam8bit": dict(name="adam8bit"),
  "adafactor": _ADAFACTOR,
  "ema": dict(ema=0.99),
  "adam8bit and ema": dict(name="adam8bit", ema=0.9),
}


def _adafactor_in_numpy(gradients, b1, cap, eps):
  """Directions of Adafactor with factored second moments of a [A, B] leaf, in float64."""
  rows, cols, mean = 0.0, 0.0, 0.0
  for step, g in enumerate(np.asarray(gradients, np.float64)):
    decay = min(cap, 1 - (step + 1.0) ** -0.8)
    square = g**2 + eps
    rows = decay * rows + (1 - decay) * square.mean(axis=1)
    cols = decay * cols + (1 - decay) * square.mean(axis=0)
    second = rows[:, None] * cols[None] / rows.mean()
    direction = g / np.sqrt(second)
    direction /= max(1.0, np.sqrt((direction**2).mean()))
    mean = b1 * mean + (1 - b1) * direction
    yield mean


def test_adafactor_is_the_factored_rule_with_momentum():
  rng = np.random.default_rng(0)
  gradients = rng.normal(size=(5, 96, 64)) * np.exp(rng.normal(size=(96, 1)))
  rule = optimizers.transform(
    optim(**_ADAFACTOR),
    schedules={"w": lambda step: jnp.float32(1.0)},
    lrs={"w": 1.0},
    wds={"w": 0.0},
  )
  params = {"w": jnp.zeros((96, 64))}
  state = rule.init(params)
  wanted = _adafactor_in_numpy(gradients, 0.9, 0.999, 1e-30)
  for step, (g, want) in enumerate(zip(gradients, wanted, strict=True)):
    moved, state = rule.apply({"w": (jnp.float32(g),)}, state, params, step, True)
    np.testing.assert_allclose(moved["w"], -want, rtol=1e-4, atol=1e-6)


def test_adafactor_keeps_a_row_and_a_column_per_matrix_and_no_average_over_layers():
  rule = optimizers.transform(
    optim(**_ADAFACTOR, mu_dtype="bfloat16"), schedules={"": None}, lrs={}, wds={}
  )
  shapes = {
    "llm/layers/mlp/linear": jax.ShapeDtypeStruct((18, 16384, 2048), jnp.float32),
    "llm/layers/pre_ffw_norm/scale": jax.ShapeDtypeStruct((46, 4608), jnp.float32),
  }
  state = jax.eval_shape(rule.init, shapes)
  num_bytes = {name: 0 for name in shapes}
  for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
    for name in shapes:
      if getattr(path[-1], "key", "") == name:
        num_bytes[name] += leaf.size * leaf.dtype.itemsize
  # The momentum in bfloat16 is all there is to speak of.
  assert num_bytes["llm/layers/mlp/linear"] < 2.01 * 18 * 16384 * 2048
  assert num_bytes["llm/layers/pre_ffw_norm/scale"] >= 6 * 46 * 4608


_LEAVES = {"layers": (3, 20, 512), "table": (40, 768), "odd": (40, 300), "bias": (8,)}


def _adam8bit(grad_clip_norm=0.3, specs=None):
  return optimizers.transform(
    optim(name="adam8bit", grad_clip_norm=grad_clip_norm),
    schedules=dict.fromkeys(_LEAVES, lambda step: 1.0 / (1.0 + step)),
    lrs=dict.fromkeys(_LEAVES, 0.1),
    wds={**dict.fromkeys(_LEAVES, 0.0), "table": 0.02},
    specs=specs or {},
  )


def _some(seed, dtype=np.float32):
  rng = np.random.default_rng(seed)
  return {n: jnp.asarray(rng.normal(size=shape), dtype) for n, shape in _LEAVES.items()}


_CUT = {"layers": (None, None, "fsdp"), "table": (None, "fsdp"), "odd": ("fsdp",)}


@pytest.mark.parametrize("specs", [{}, _CUT, {**_CUT, "table": ("fsdp",), "layers": ("fsdp",)}])
def test_adam8bit_part_by_part_is_the_rule_for_whole_leaves(specs, monkeypatch):
  monkeypatch.setattr(optimizers, "_WHOLE_BELOW", 0)
  monkeypatch.setattr(optimizers, "_PART", 2**12)
  made = _adam8bit(specs=specs)
  rule = adam8bit.scale_by_adam8bit(b1=0.9, b2=0.999, eps=1e-8)
  params = _some(0)
  state, want_state = made.init(params), rule.init(params)
  for step in range(3):
    raw = _some(step + 1, jnp.bfloat16)
    gradients = {name: (g, g) if name == "table" else (g,) for name, g in raw.items()}
    summed = {n: (2.0 if n == "table" else 1.0) * g.astype(np.float32) for n, g in raw.items()}
    factor = 0.3 / np.sqrt(sum(float(jnp.square(g).sum()) for g in summed.values()))
    directions, want_state = rule.update({n: g * factor for n, g in summed.items()}, want_state)
    updates = {
      name: -(0.1 * d + (0.02 * params[name] if name == "table" else 0.0)) / (1.0 + step)
      for name, d in directions.items()
    }
    norm = made.norm(gradients, state, params, jnp.float32(step))
    want_norm = np.sqrt(sum(float(jnp.square(u).sum()) for u in updates.values()))
    np.testing.assert_allclose(norm, want_norm, rtol=1e-5)
    moved, state = made.apply(gradients, state, params, jnp.float32(step), True)
    for name, p in params.items():
      np.testing.assert_allclose(moved[name], p + updates[name], rtol=0, atol=1e-5, err_msg=name)
    for got, want in zip(jax.tree.leaves(state["rule"]), jax.tree.leaves(want_state), strict=True):
      # A number half way between two codes may get either.
      differ = np.abs(np.float64(got) - np.float64(want)) > 1e-5 * np.abs(np.float64(want))
      assert differ.mean() < 1e-3
    params, want_state = moved, state["rule"]


@pytest.mark.parametrize("changes", [*_NEW.values(), {}], ids=[*_NEW, "adam"])
def test_an_update_that_does_not_count_changes_no_bit(changes, monkeypatch):
  monkeypatch.setattr(optimizers, "_WHOLE_BELOW", 0)
  made, _ = toy_state.optimizer(**changes)
  state = toy_state.advance(toy_state.make(**changes), 1, **changes)
  gradients = {name: (jnp.full_like(p, jnp.nan),) for name, p in state.trainable.items()}
  got = jax.jit(made.apply)(gradients, state.opt_state, state.trainable, state.step, False)
  toy_state.assert_equal(got, (state.trainable, state.opt_state))


def test_adam8bit_writes_over_its_state_and_no_leaf_is_there_in_float32(monkeypatch):
  monkeypatch.setattr(optimizers, "_PART", 2**18)
  shapes = {"layers": (32, 512, 512), "table": (1024, 8192)}
  leaf_bytes = 4 * 32 * 512 * 512
  rule = optimizers.transform(
    optim(name="adam8bit", grad_clip_norm=1.0),
    schedules=dict.fromkeys(shapes, lambda step: 1.0),
    lrs=dict.fromkeys(shapes, 0.1),
    wds=dict.fromkeys(shapes, 0.0),
  )
  params = {n: jax.ShapeDtypeStruct(s, jnp.float32) for n, s in shapes.items()}
  args = ({n: (p,) for n, p in params.items()}, jax.eval_shape(rule.init, params), params, 0)
  norm = jax.jit(rule.norm).lower(*args)
  apply = jax.jit(rule.apply, donate_argnums=(1, 2)).lower(*args, True)
  for program in (norm, apply):
    assert program.compile().memory_analysis().temp_size_in_bytes < leaf_bytes / 2


@pytest.mark.parametrize("kind", _NEW)
def test_the_state_is_saved_and_goes_on_in_bits(kind, tmp_path):
  changes = _NEW[kind]
  saved = toy_state.advance(toy_state.make(**changes), 2, **changes)
  options = dict(keep=1, best_mode="max", async_save=False, files={})
  opened = store.Checkpoints(tmp_path, **options)
  opened.save(saved)
  restored = opened.restore(toy_state.target(**changes))
  opened.close()
  toy_state.assert_equal(restored, saved)
  toy_state.assert_equal(
    toy_state.advance(restored, 2, **changes), toy_state.advance(saved, 2, **changes)
  )


def test_averages_that_were_not_kept_before_are_named(tmp_path):
  options = dict(keep=1, best_mode="max", async_save=False, files={})
  opened = store.Checkpoints(tmp_path, **options)
  opened.save(toy_state.make())
  with pytest.raises(errors.ConfigError, match=r"other settings.*it lacks ema/llm"):
    opened.restore(toy_state.target(ema=0.9))
  opened.close()


def test_large_leaves_of_any_optimizer_state_are_cut_and_never_along_layers():
  mesh = jax.sharding.AbstractMesh((8,), ("fsdp",))
  shapes = {
    "llm/embedder/input_embedding": jax.ShapeDtypeStruct((257152, 2048), jnp.float32),
    "llm/layers/mlp/linear": jax.ShapeDtypeStruct((16, 16384, 2048), jnp.float32),
  }
  places = sharding.param_shardings(shapes, mesh)
  params = {
    name: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=places[name])
    for name, s in shapes.items()
  }
  for changes in _NEW.values():
    rule = optimizers.transform(optim(**changes), schedules={"": None}, lrs={}, wds={})
    state = jax.eval_shape(rule.init, params)
    cut = sharding.like_params(state, params, mesh)
    for (path, leaf), place in zip(
      jax.tree_util.tree_flatten_with_path(state)[0], jax.tree.leaves(cut), strict=True
    ):
      if leaf.size >= 2**14:
        assert "fsdp" in place.spec, path
      if leaf.shape[:1] == (16,):
        assert not place.spec or place.spec[0] is None, path
      place.shard_shape(leaf.shape)  # Raises where a dim does not divide.
