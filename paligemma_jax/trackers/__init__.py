"""Trackers of other projects, which also get what a run writes to metrics.jsonl. No JAX.

`TRACKERS` has them by the names that `log.trackers` takes. A tracker of your own is any class
declared with `@spec` that has the method of `core.protocols.TrackerSpec`.
"""

from paligemma_jax.trackers.mlflow import Mlflow
from paligemma_jax.trackers.trackio import Trackio
from paligemma_jax.trackers.wandb import Wandb

TRACKERS = {"mlflow": Mlflow, "trackio": Trackio, "wandb": Wandb}

__all__ = ["TRACKERS", "Mlflow", "Trackio", "Wandb"]
