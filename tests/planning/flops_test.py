"""Operations are counted from the program, loops as often as they run."""

import jax
import jax.numpy as jnp

from paligemma_jax.planning import program

_X = jnp.zeros((3, 4))
_W = jnp.zeros((4, 5))
_ONE = 2 * 3 * 4 * 5


def _count(fn, *args):
  return program.matmul_flops(jax.make_jaxpr(fn)(*args))


def test_a_product_is_two_operations_per_multiply_add():
  assert _count(lambda x, w: x @ w, _X, _W) == _ONE


def test_batch_dims_multiply_and_contracted_ones_count_once():
  assert (
    _count(
      lambda x, w: jnp.einsum("bij,bjk->bik", x, w), jnp.zeros((7, 3, 4)), jnp.zeros((7, 4, 5))
    )
    == 7 * _ONE
  )


def test_the_body_of_a_scan_counts_as_often_as_it_runs():
  square = jnp.zeros((4, 4))

  def run(x):
    return jax.lax.scan(lambda c, _: (c @ square, None), x, length=18)[0]

  assert _count(run, _X) == 18 * 2 * 3 * 4 * 4
  # Forward, and one product back per layer: the weight is a constant.
  plain = _count(jax.grad(lambda x: run(x).sum()), _X)
  assert plain == 2 * 18 * 2 * 3 * 4 * 4
  # What is computed again counts again.
  again = jax.checkpoint(lambda x: jnp.sin(run(x)))
  assert _count(jax.grad(lambda x: again(x).sum()), _X) == plain + 18 * 2 * 3 * 4 * 4


def test_products_inside_jit_and_of_branches_are_found():
  assert _count(jax.jit(lambda x, w: x @ w), _X, _W) == _ONE

  def choose(flag, x, w):
    return jax.lax.cond(flag, lambda: x @ w, lambda: x @ w + x @ w)

  assert _count(choose, True, _X, _W) == 2 * _ONE


def test_a_convolution_counts_every_window():
  image, kernel = jnp.zeros((1, 8, 8, 3)), jnp.zeros((2, 2, 3, 5))

  def conv(x, k):
    return jax.lax.conv_general_dilated(
      x, k, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )

  assert _count(conv, image, kernel) == 2 * (4 * 4 * 5) * (2 * 2 * 3)


def test_what_is_no_product_is_free():
  assert _count(lambda x: jnp.tanh(x).sum(), _X) == 0
