"""Fine-tune PaliGemma and PaliGemma 2 in JAX. Importing this package does not import JAX.

import paligemma_jax as pj

@pj.sweepable
def get_config(res: int = 224):      # a config file, see transfers/forkme.py
  c = pj.default_config()
  ...

pj.train(get_config(), "runs/mine")  # or: paligemma-jax train --config mine.py --workdir runs/mine
pg = pj.load("runs/mine")            # weights with logits, generate and save
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # What `_PUBLIC` says, for those who read types.
  from paligemma_jax import evals as evals
  from paligemma_jax import pp as pp
  from paligemma_jax import sources as sources
  from paligemma_jax.api import PaliGemma as PaliGemma
  from paligemma_jax.api import load as load
  from paligemma_jax.checkpoint.hub import pretrained as pretrained
  from paligemma_jax.config.load import default_config as default_config
  from paligemma_jax.config.load import sweepable as sweepable
  from paligemma_jax.core import errors as errors
  from paligemma_jax.core.errors import CheckpointError as CheckpointError
  from paligemma_jax.core.errors import ConfigError as ConfigError
  from paligemma_jax.core.errors import DataError as DataError
  from paligemma_jax.core.errors import PaligemmaError as PaligemmaError
  from paligemma_jax.core.spec import spec as spec
  from paligemma_jax.evals import score as score
  from paligemma_jax.regions import answer_forms
  from paligemma_jax.train import train as train

  constraints = answer_forms

__version__ = "0.1.0"

# name: (module, attribute), or (module, "") for the module itself. Imported when first asked for.
# `train` is the module of the command, which can be called.
_PUBLIC = {
  "CheckpointError": ("paligemma_jax.core.errors", "CheckpointError"),
  "ConfigError": ("paligemma_jax.core.errors", "ConfigError"),
  "DataError": ("paligemma_jax.core.errors", "DataError"),
  "PaliGemma": ("paligemma_jax.api", "PaliGemma"),
  "PaligemmaError": ("paligemma_jax.core.errors", "PaligemmaError"),
  "constraints": ("paligemma_jax.regions.answer_forms", ""),
  "default_config": ("paligemma_jax.config.load", "default_config"),
  "errors": ("paligemma_jax.core.errors", ""),
  "evals": ("paligemma_jax.evals", ""),
  "load": ("paligemma_jax.api", "load"),
  "pp": ("paligemma_jax.pp", ""),
  "pretrained": ("paligemma_jax.checkpoint.hub", "pretrained"),
  "score": ("paligemma_jax.evals", "score"),
  "sources": ("paligemma_jax.sources", ""),
  "spec": ("paligemma_jax.core.spec", "spec"),
  "sweepable": ("paligemma_jax.config.load", "sweepable"),
  "train": ("paligemma_jax.train", ""),
}

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
  if name not in _PUBLIC:
    raise AttributeError(f"module 'paligemma_jax' has no attribute {name!r}")
  module_name, attribute = _PUBLIC[name]
  module = importlib.import_module(module_name)
  value = getattr(module, attribute) if attribute else module
  globals()[name] = value
  return value


def __dir__() -> list[str]:
  return sorted({*globals(), *_PUBLIC})
