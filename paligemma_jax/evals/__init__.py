"""Metrics as pure functions of texts and rows, and the evaluators that a config lists. No JAX."""

from paligemma_jax.evals.base import Evaluator
from paligemma_jax.evals.boxes import BoxAccuracy
from paligemma_jax.evals.output import Output
from paligemma_jax.evals.perplexity import Perplexity
from paligemma_jax.evals.predictions import WritePredictions
from paligemma_jax.evals.scoring import METRICS
from paligemma_jax.evals.scoring import score
from paligemma_jax.evals.vqa import ExactMatch
from paligemma_jax.evals.vqa import VqaAccuracy

EVALUATORS = {
    "BoxAccuracy": BoxAccuracy,
    "ExactMatch": ExactMatch,
    "Perplexity": Perplexity,
    "VqaAccuracy": VqaAccuracy,
    "WritePredictions": WritePredictions,
}

__all__ = [
    "EVALUATORS",
    "METRICS",
    "BoxAccuracy",
    "Evaluator",
    "ExactMatch",
    "Output",
    "Perplexity",
    "VqaAccuracy",
    "WritePredictions",
    "score",
]
