"""The reference's small models, their batches, and steps over them with our trainer."""

import jax
import numpy as np

from paligemma_jax.models import variants
from paligemma_jax.training import loss
from paligemma_jax.training import optimizers
from paligemma_jax.training import sharding
from paligemma_jax.training import state as states
from paligemma_jax.training import step as steps
from tests import golden_files

_VIT = variants.Vit(width=64, depth=2, mlp_dim=128, num_heads=4)
_TINY = variants.Gemma(
  width=64, depth=2, mlp_dim=128, num_heads=4, num_kv_heads=1, head_dim=16, vocab_size=1200
)
# tiny2's final softcap of 15 is off: the reference never applies it to the logits it trains on.
_LLMS = {
  "tiny": _TINY,
  "tiny2": _TINY.replace(
    width=96, num_kv_heads=2, post_norms=True, attn_softcap=5.0, query_scale="width_per_head"
  ),
  "e2e": _TINY.replace(vocab_size=5248),
}


def config(name, **changes):
  """The ModelConfig of golden model `name` in float32."""
  return variants.ModelConfig(img=_VIT, llm=_LLMS[name], res=56, **changes)


def params(name):
  """Its parameters by name, float32."""
  with np.load(golden_files.path(f"bv/{name}.npz")) as f:
    return {key.removeprefix("params/"): f[key] for key in f.files}


def batch(name):
  """An npz of the reference's inputs as a Batch with every row real."""
  with np.load(golden_files.path(f"bv/{name}.npz")) as f:
    found = {key: f[key] for key in ("image", "text", "mask_ar", "mask_loss")}
  return real_rows(found)


def real_rows(found):
  """Adds `_mask` True everywhere and makes mask_loss float32."""
  rows = len(found["text"])
  return {
    **found,
    "mask_loss": found["mask_loss"].astype(np.float32),
    "_mask": np.ones(rows, bool),
  }


def compiled_step(
  model_config, optimizer, state, batches, mesh, *, grad_accum_steps=1, label_smoothing=0.0
):
  """The compiled (state, batch) -> (state, sums), one bucket for all batches."""
  step = steps.make_train_step(
    model_config,
    optimizer,
    state,
    mesh,
    token_loss=loss.cross_entropy(label_smoothing),
    grad_accum_steps=grad_accum_steps,
    seed=0,
  )
  num = max(loss.num_supervised(host["mask_loss"]) for host in batches)
  lowered = step.lower(state, sharding.put(batches[0], mesh), num)
  # Compiling takes most of a small test's time.
  return lowered.compile(compiler_options={"xla_backend_optimization_level": 0})


def train(model_config, start, optimizer, trainable, batches, *, label_smoothing=0.0, mesh=None):
  """(final state, [sums of each step as floats], its HLO) of one step per batch."""
  mesh = mesh or sharding.make_mesh(_OneAxis(), devices=jax.devices()[:1])
  state = states.make(start, trainable, optimizer, mesh, dtype=np.float32)
  step = compiled_step(
    model_config, optimizer, state, batches, mesh, label_smoothing=label_smoothing
  )
  history = []
  for host in batches:
    state, sums = step(state, sharding.put(host, mesh))
    history.append({key: float(value) for key, value in sums.items()})
  return state, history, step.as_text()


def optimizer_for(section, start, total_steps):
  """(optimizer, trainable names) of an `optim` section over the parameters `start`."""
  trainable, _ = optimizers.split(start, section)
  shapes = {name: start[name] for name in trainable}
  made = optimizers.make(section, shapes, total_steps, names=start, batch_size=6)
  return made, trainable


class _OneAxis:
  shape = ()
