"""The `optim` section of a config as the schema has it, with a few keys changed."""

from paligemma_jax.config import load


def optim(**changes):
  """`default_config().optim` with `changes`."""
  section = load.default_config().optim
  section.update(**changes)
  return section
