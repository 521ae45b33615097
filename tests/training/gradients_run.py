"""With 8 virtual devices: gradients of the real step under presets, against a plain reference.

    python -m tests.training.gradients_run          # the cases of the test; prints JSON
    python -m tests.training.gradients_run --all    # every preset x 16 ways to run it; 10 minutes

The reference is one program: the gradient by every published parameter of the plain mean of log
probabilities, on one device, all logits at once, nothing chunked, recomputed or sharded. From it
the gradients of adapters follow by hand.
"""

import functools
import itertools
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np

from paligemma_jax import presets
from paligemma_jax.checkpoint import load
from paligemma_jax.config import load as configs
from paligemma_jax.models import linear
from paligemma_jax.models import paligemma
from paligemma_jax.models import param_table
from paligemma_jax.models import variants
from paligemma_jax.training import loss
from paligemma_jax.training import optimizers
from paligemma_jax.training import sharding
from paligemma_jax.training import state as states
from paligemma_jax.training import step as steps
from tests.models import random_params

# What these choose beside the optimizer is what one of the others chooses.
SAME = {"adam8bit": "full_adam", "adafactor": "full_adam", "ema": "full_adam", "lora": "lora_img"}
PRESETS = [name for name in presets.TUNES if name not in SAME]
WAYS = list(itertools.product((1, 8), (1, 4), ("none", "full"), (False, True)))
_MORE = ("full_adam", "lora_img", "qlora")  # Tried in two opposite ways.
_SIZES = {
  "img": dict(width=64, depth=2, mlp_dim=96, num_heads=2),
  "llm": dict(
    width=64, depth=2, mlp_dim=128, num_heads=2, num_kv_heads=1, head_dim=32, vocab_size=512
  ),
}
_QUICK = {"xla_backend_optimization_level": 0}
_ROWS, _LEN, _BUCKET = 32, 24, 16


class _AllDevices:
  shape = ()


def cases():
  """(preset, way) of the test; every pair of settings of `WAYS` is met."""
  # Half of the ways: those in which an even number of settings is the second one.
  even = [
    way
    for way in WAYS
    if sum(x == y for x, y in zip(way, (8, 4, "full", True), strict=True)) % 2 == 0
  ]
  found = [(name, even[i % len(even)]) for i, name in enumerate(PRESETS)]
  for name, (devices, grad_accum_steps, remat, bucket) in found[:]:
    if name in _MORE:
      other = "none" if remat == "full" else "full"
      found.append((name, (9 - devices, 5 - grad_accum_steps, other, not bucket)))
  return found


def configuration(tune):
  """The preset on a small model; Adam with b1 = 0 shows the gradient as its first moment."""
  c = configs.default_config()
  c.model.update(variant="tiny", res=28, dtype="float32", overrides=_SIZES)
  presets.apply(c, tune)
  if c.lora.rank:
    c.lora.rank = 4
  if c.lora.dora or c.model.quantize:
    c.lora.targets = ("llm/layers/.*", "img/.*")
  c.optim.update(
    name="adam", lr=1.0, b1=0.0, grad_clip_norm=0.0, momentum=0.0, rms_clip=0.0, warmup="", ema=0.0
  )
  return c


def parameters(model_config):
  """Random ones, adapters too."""
  return random_params.make(
    model_config, size=0.15, adapter_size=0.04, scale=(0.1, 0.3), magnitude=(0.8, 1.2)
  )


def batch(text_len):
  """32 rows of up to 16 tokens, padded; one of them is rejected."""
  rng = np.random.default_rng(1)
  text = np.zeros((_ROWS, text_len + 1), np.int32)
  mask_ar = np.ones_like(text)
  mask_loss = np.zeros(text.shape, np.float32)
  for row in range(_ROWS):
    prefix, suffix = rng.integers(3, 8), rng.integers(2, 8)
    text[row, : prefix + suffix] = rng.integers(3, 512, prefix + suffix)
    mask_ar[row, :prefix] = 0
    mask_loss[row, prefix : prefix + suffix] = 1
  image = rng.uniform(-1, 1, (_ROWS, 28, 28, 3)).astype(np.float32)
  mask = np.arange(_ROWS) != 5
  return dict(image=image, text=text, mask_ar=mask_ar, mask_loss=mask_loss, _mask=mask)


def of_the_step(tune, way):
  """{name: gradient} of what the preset trains, by the step that training runs."""
  num_devices, grad_accum_steps, remat, bucket = way
  c = configuration(tune)
  c.model.remat = remat
  # As one CPU does it where sequences are not as short as here.
  c.model.attention = "rows" if num_devices == 1 else "auto"
  model_config = variants.of_run(c.model.to_dict(), c.lora.to_dict())
  params = parameters(model_config)
  trainable, _ = optimizers.split(params, c.optim)
  shapes = {name: params[name] for name in trainable}
  optimizer = optimizers.make(c.optim, shapes, 10, names=params, batch_size=_ROWS)
  mesh = sharding.make_mesh(_AllDevices(), devices=jax.devices()[:num_devices])
  state = states.make(params, trainable, optimizer, mesh, dtype=np.float32)
  step = steps.make_train_step(
    model_config,
    optimizer,
    state,
    mesh,
    token_loss=loss.cross_entropy(label_smoothing=0.0),
    grad_accum_steps=grad_accum_steps,
    seed=0,
  )
  host = batch(_BUCKET if bucket else _LEN)
  rows = sharding.put(host, mesh)
  lowered = step.lower(state, rows, loss.num_supervised(host["mask_loss"]))
  state, _ = lowered.compile(compiler_options=_QUICK)(state, rows)
  return {name: np.asarray(g) for name, g in state.opt_state["rule"].mu.items()}


@functools.cache
def _reference(model_config):
  host = batch(_LEN)
  text, weight = host["text"], host["mask_loss"][:, 1:]

  def plain_loss(params):
    x_BTD = paligemma.text_features(
      model_config, params, host["image"], text[:, :-1], host["mask_ar"][:, :-1]
    )
    logp = jax.nn.log_softmax(paligemma.logits(model_config, params, x_BTD), axis=-1)
    nll = -jnp.take_along_axis(logp, text[:, 1:, None], axis=-1)[..., 0]
    rows = (nll * weight).sum(axis=1) / weight.sum(axis=1)
    return rows[host["_mask"]].mean()

  return jax.jit(jax.grad(plain_loss), compiler_options=_QUICK)


def of_the_reference(tune):
  """{name: gradient} of all float parameters under the preset."""
  c = configuration(tune)
  model_config = variants.of_run(c.model.to_dict(), c.lora.to_dict())
  params = parameters(model_config)
  leaves = load.published(model_config, params)
  plain = {name: np.asarray(leaf[: leaf.shape[0]]) for name, leaf in leaves.items()}
  gradients = _reference(model_config.plain().replace(remat="none"))(plain)
  found = {name: np.asarray(g) for name, g in gradients.items()}
  base = load.published(
    model_config.replace(lora=variants.Lora()),
    {name: leaf for name, leaf in params.items() if "lora_" not in name},
  )
  for name in param_table.MATRICES:
    if linear.beside(name, "lora_a") in params:
      w = np.asarray(base[name][: base[name].shape[0]])
      found.update(_of_adapter(model_config, name, found[name], w, params))
  return found


def _of_adapter(model_config, name, dw, w, params):
  """Gradients of A, B and the magnitude from that of the whole matrix, in float64."""
  dw, w = (linear.flat(name, x).astype(np.float64) for x in (dw, w))
  names = {part: linear.beside(name, part) for part in linear.ADAPTER}
  stack = w.shape[:-2]
  a = params[names["lora_a"]].astype(np.float64).reshape(*stack, w.shape[-2], -1)
  b = params[names["lora_b"]].astype(np.float64).reshape(*stack, -1, w.shape[-1])
  found = {}
  if names["lora_magnitude"] in params:
    changed = w + model_config.lora.scale * a @ b
    length = np.linalg.norm(changed, axis=-2)
    gain = params[names["lora_magnitude"]].reshape(length.shape) / length
    found[names["lora_magnitude"]] = (dw * changed).sum(axis=-2) / length
    dw = dw * gain[..., None, :]
  found[names["lora_a"]] = model_config.lora.scale * dw @ b.swapaxes(-1, -2)
  found[names["lora_b"]] = model_config.lora.scale * a.swapaxes(-1, -2) @ dw
  return {n: g.reshape(params[n].shape) for n, g in found.items()}


def worst(tune, way, reference):
  """(largest relative error of a leaf's gradient, that leaf, how many leaves train)."""
  found = of_the_step(tune, way)
  whole = np.sqrt(sum(np.sum(np.square(reference[name])) for name in found))
  errors = {}
  for name, gradient in found.items():
    # Of what is 0 but for rounding (keys' biases: softmax does not see them) it must stay so.
    size = max(np.linalg.norm(reference[name]), 1e-3 * whole / len(found))
    errors[name] = float(np.linalg.norm(gradient - reference[name]) / size)
  name = max(errors, key=errors.get)
  return errors[name], name, len(found)


def main(every):
  chosen = list(itertools.product(PRESETS, WAYS)) if every else cases()
  results = {}
  for tune, group in itertools.groupby(sorted(chosen, key=lambda case: case[0]), lambda c: c[0]):
    reference = of_the_reference(tune)
    for _, way in group:
      results[f"{tune} {way}"] = worst(tune, way, reference)
      print(tune, way, results[f"{tune} {way}"], file=sys.stderr, flush=True)
      jax.clear_caches() if every else None
  print(json.dumps(results))


if __name__ == "__main__":
  main("--all" in sys.argv[1:])
