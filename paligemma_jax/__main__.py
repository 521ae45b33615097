"""python -m paligemma_jax COMMAND …: as paligemma-jax COMMAND."""

from paligemma_jax import cli

if __name__ == "__main__":
  cli.main()
