"""The `optim` section of a config as the schema has it, with a few keys changed."""

from paligemma_jax.core import config


def optim(**changes):
  """`default_config().optim` with `changes`."""
  section = config.default_config().optim
  section.update(**changes)
  return section
