"""The SigLIP vision tower, with the parameter names of the published checkpoints.

B images, R side in pixels, P patch side, M tokens, D width, N heads, H head dim, E output width;
X = B * M (gemma.py explains why products run on [X, D]).
"""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from paligemma_jax.models import attention
from paligemma_jax.models import gemma
from paligemma_jax.models import linear
from paligemma_jax.models import variants


class Siglip(nn.Module):
  """float[B, R, R, 3] in [-1, 1] -> dtype[B, M, E], one token per patch, in row-major order.

  `encoded_BMD`, in place of an image, is the output of the layers, dtype[B, M, D]: the head may
  train where the layers are frozen (paligemma.encode_images).

  Attributes:
    num_outputs: E, the decoder's width.
    dtype: of matmuls; norms and softmax are float32.
    remat: what the backward pass recomputes of each layer, see `gemma.recomputed`.
    implementation: as in attention.attend.
  """

  sizes: variants.Vit
  num_outputs: int
  dtype: Any
  remat: str = "none"
  implementation: str = "auto"

  @nn.compact
  def __call__(
    self, image_BRRC: jax.Array | None, encoded_BMD: jax.Array | None = None
  ) -> jax.Array:
    c = self.sizes
    if encoded_BMD is not None:
      x_BMD = encoded_BMD
    else:
      assert image_BRRC is not None
      x_BMD = PatchEmbedding(c, self.dtype, name="embedding")(image_BRRC)
      posemb_1MD = self.param(
        "pos_embedding", nn.initializers.normal(c.width**-0.5), (1, x_BMD.shape[1], c.width)
      )
      x_BMD = (x_BMD + posemb_1MD).astype(self.dtype)
      x_BMD = Encoder(c, self.dtype, self.remat, self.implementation, name="Transformer")(x_BMD)
      self.sow("intermediates", "encoded", x_BMD)
    head = Dense("XD,DE->XE", (c.width, self.num_outputs), self.dtype, name="head")
    with jax.named_scope("projector"):
      x_XE = head(x_BMD.reshape(-1, c.width))
    return x_XE.reshape(*x_BMD.shape[:2], -1)


class PatchEmbedding(nn.Module):
  """The convolution over patches, as one matmul: float32[B, M, D]."""

  sizes: variants.Vit
  dtype: Any

  @nn.compact
  def __call__(self, image_BRRC: jax.Array) -> jax.Array:
    c = self.sizes
    p = c.patch_size
    kernel = self.param("kernel", nn.initializers.lecun_normal(), (p, p, 3, c.width))
    bias_D = self.param("bias", nn.initializers.zeros, (c.width,))
    batch, rows, cols, channels = image_BRRC.shape
    x = image_BRRC.astype(self.dtype)
    x = x.reshape(batch, rows // p, p, cols // p, p, channels).transpose(0, 1, 3, 2, 4, 5)
    kernel = kernel.reshape(-1, c.width).astype(self.dtype)
    x_XD = jnp.dot(x.reshape(-1, kernel.shape[0]), kernel, preferred_element_type=jnp.float32)
    return x_XD.reshape(batch, -1, c.width) + bias_D


class Encoder(nn.Module):
  """The scanned layers and the last norm: dtype[B, M, D] -> dtype[B, M, D]."""

  sizes: variants.Vit
  dtype: Any
  remat: str
  implementation: str

  @nn.compact
  def __call__(self, x_BMD: jax.Array) -> jax.Array:
    layers = nn.scan(
      gemma.recomputed(Layer, self.remat),
      variable_axes={"params": 0},
      split_rngs={"params": True},
      length=self.sizes.depth,
    )
    x_BMD, _ = layers(self.sizes, self.dtype, self.implementation, name="encoderblock")(x_BMD, None)
    return _layer_norm(self.dtype, "encoder_norm")(x_BMD)


class Layer(nn.Module):
  """One pre-LN layer."""

  sizes: variants.Vit
  dtype: Any
  implementation: str

  @nn.compact
  def __call__(self, x_BMD: jax.Array, _: None) -> tuple[jax.Array, None]:
    y_BMD = _layer_norm(self.dtype, "LayerNorm_0")(x_BMD)
    name = "MultiHeadDotProductAttention_0"
    x_BMD += SelfAttention(self.sizes, self.dtype, self.implementation, name=name)(y_BMD)
    y_BMD = _layer_norm(self.dtype, "LayerNorm_1")(x_BMD)
    return x_BMD + Mlp(self.sizes, self.dtype, name="MlpBlock_0")(y_BMD), None


class SelfAttention(nn.Module):
  """Every token attends to every token of its image."""

  sizes: variants.Vit
  dtype: Any
  implementation: str

  @nn.compact
  def __call__(self, x_BMD: jax.Array) -> jax.Array:
    c = self.sizes
    heads = (c.num_heads, c.width // c.num_heads)
    init = nn.initializers.xavier_uniform()
    q_BMNH, k_BMNH, v_BMNH = (
      Dense("XD,DNH->XNH", (c.width, *heads), self.dtype, init, name=name)(
        x_BMD.reshape(-1, c.width)
      ).reshape(*x_BMD.shape[:2], *heads)
      for name in ("query", "key", "value")
    )
    q_BMNH *= heads[1] ** -0.5
    y_BMNH = attention.attend(q_BMNH, k_BMNH, v_BMNH, None, implementation=self.implementation)
    out = Dense("XNH,NHD->XD", (*heads, c.width), self.dtype, init, name="out")
    return out(y_BMNH.reshape(-1, *heads)).reshape(x_BMD.shape)


class Mlp(nn.Module):
  """Two linear maps around a tanh GELU."""

  sizes: variants.Vit
  dtype: Any

  @nn.compact
  def __call__(self, x_BMD: jax.Array) -> jax.Array:
    c = self.sizes
    init = nn.initializers.xavier_uniform()
    wide = Dense("XD,DF->XF", (c.width, c.mlp_dim), self.dtype, init, name="Dense_0")
    narrow = Dense("XF,FD->XD", (c.mlp_dim, c.width), self.dtype, init, name="Dense_1")
    h_XF = nn.gelu(wide(x_BMD.reshape(-1, c.width)), approximate=True)
    return narrow(h_XF).reshape(x_BMD.shape)


class Dense(nn.Module):
  """A product with `kernel` and then `bias`.

  Attributes:
    equation: as in `linear.matmul`.
    shape: of the kernel.
    init: of the kernel made a matrix of inputs and outputs.
  """

  equation: str
  shape: tuple[int, ...]
  dtype: Any
  init: Any = nn.initializers.lecun_normal()

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    num_inputs = math.prod(x.shape[1:])

    def init(key, shape):
      return self.init(key, (num_inputs, math.prod(shape) // num_inputs)).reshape(shape)

    kernel = linear.kernel(self, "kernel", init, self.shape, self.dtype)
    y = linear.matmul(self.equation, x, kernel)
    return y + self.param("bias", nn.initializers.zeros, y.shape[1:]).astype(self.dtype)


def _layer_norm(dtype: Any, name: str) -> nn.LayerNorm:
  return nn.LayerNorm(epsilon=1e-6, dtype=dtype, name=name)
