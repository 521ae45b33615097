"""The same as `python -m paligemma_jax.convert`, from a clone, in any folder."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from paligemma_jax import cli

if __name__ == "__main__":
  cli.run("convert", sys.argv[1:])
