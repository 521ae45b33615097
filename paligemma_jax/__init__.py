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
  from paligemma_jax import presets as presets
  from paligemma_jax import sources as sources
  from paligemma_jax import trackers as trackers
  from paligemma_jax.api import PaliGemma as PaliGemma
  from paligemma_jax.api import load as load
  from paligemma_jax.checkpoint.hub import pretrained as pretrained
  from paligemma_jax.config.load import default_config as default_config
  from paligemma_jax.config.load import sweepable as sweepable
  from paligemma_jax.convert import convert as convert
  from paligemma_jax.core import errors as errors
  from paligemma_jax.core.errors import CheckpointError as CheckpointError
  from paligemma_jax.core.errors import ConfigError as ConfigError
  from paligemma_jax.core.errors import DataError as DataError
  from paligemma_jax.core.errors import PaligemmaError as PaligemmaError
  from paligemma_jax.core.spec import spec as spec
  from paligemma_jax.evals import score as score
  from paligemma_jax.looking import check as check
  from paligemma_jax.looking import show as show
  from paligemma_jax.regions import answer_forms
  from paligemma_jax.train import train as train

  constraints = answer_forms

__version__ = "0.1.0"

# name: (module of ours, attribute), or (module, "") for itself. Imported when first asked for.
# `convert` and `train` are modules of commands, which can be called.
_PUBLIC = {
    "CheckpointError": ("core.errors", "CheckpointError"),
    "ConfigError": ("core.errors", "ConfigError"), "DataError": ("core.errors", "DataError"),
    "PaliGemma": ("api", "PaliGemma"), "PaligemmaError": ("core.errors", "PaligemmaError"),
    "check": ("looking", "check"), "constraints": ("regions.answer_forms", ""),
    "convert": ("convert", ""), "default_config": ("config.load", "default_config"),
    "errors": ("core.errors", ""), "evals": ("evals", ""), "load": ("api", "load"),
    "pp": ("pp", ""), "presets": ("presets", ""), "pretrained": ("checkpoint.hub", "pretrained"),
    "score": ("evals", "score"), "show": ("looking", "show"), "sources": ("sources", ""),
    "spec": ("core.spec", "spec"), "sweepable": ("config.load", "sweepable"),
    "trackers": ("trackers", ""), "train": ("train", ""),
}  # fmt: skip

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
  if name not in _PUBLIC:
    raise AttributeError(f"module 'paligemma_jax' has no attribute {name!r}")
  module_name, attribute = _PUBLIC[name]
  module = importlib.import_module(f"paligemma_jax.{module_name}")
  value = getattr(module, attribute) if attribute else module
  globals()[name] = value
  return value


def __dir__() -> list[str]:
  return sorted({*globals(), *_PUBLIC})
