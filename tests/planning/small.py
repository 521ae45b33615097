"""A configuration whose step compiles in a second or two."""

from paligemma_jax import pp
from paligemma_jax import sources
from paligemma_jax.config import load as configs

OVERRIDES = {
  "img": {"width": 16, "depth": 2, "mlp_dim": 32, "num_heads": 2},
  "llm": {"width": 16, "depth": 3, "mlp_dim": 32, "num_heads": 2, "head_dim": 8, "vocab_size": 64},
}


def config(**train):
  """Batch 4 of 12 text tokens at 28 px, 4 image tokens."""
  c = configs.default_config()
  c.model.update(variant="tiny", res=28, overrides=OVERRIDES, remat="none")
  source = sources.InMemory(rows=({"image": "", "suffix": "a"},))
  c.train.update(source=source, pp=(pp.Decode(), pp.Resize(28), pp.Format("x")), text_len=12)
  c.train.update(batch_size=4, total="10 steps", **train)
  c.optim.update(lr=1e-3)
  return c
