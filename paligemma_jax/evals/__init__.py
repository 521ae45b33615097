"""Metrics as pure functions of texts and rows, and the evaluators that a config lists. No JAX."""

from paligemma_jax.evals.base import Evaluator
from paligemma_jax.evals.base import Output
from paligemma_jax.evals.boxes import BoxAccuracy
from paligemma_jax.evals.captions import CocoCaption
from paligemma_jax.evals.chartqa import ChartQa
from paligemma_jax.evals.detection import CocoDetection
from paligemma_jax.evals.edits import ErrorRate
from paligemma_jax.evals.mmvp import Mmvp
from paligemma_jax.evals.perplexity import Perplexity
from paligemma_jax.evals.pope import Pope
from paligemma_jax.evals.predictions import WritePredictions
from paligemma_jax.evals.rsvqa import Rsvqa
from paligemma_jax.evals.science_qa import ScienceQa
from paligemma_jax.evals.scoring import METRICS
from paligemma_jax.evals.scoring import intervals
from paligemma_jax.evals.scoring import score
from paligemma_jax.evals.segmentation import Segmentation
from paligemma_jax.evals.server_file import ServerFile
from paligemma_jax.evals.tallyqa import TallyQa
from paligemma_jax.evals.vqa import ExactMatch
from paligemma_jax.evals.vqa import VqaAccuracy
from paligemma_jax.evals.vqav2 import VqaV2Accuracy

EVALUATORS = {
  "BoxAccuracy": BoxAccuracy,
  "ChartQa": ChartQa,
  "CocoCaption": CocoCaption,
  "CocoDetection": CocoDetection,
  "ErrorRate": ErrorRate,
  "ExactMatch": ExactMatch,
  "Mmvp": Mmvp,
  "Perplexity": Perplexity,
  "Pope": Pope,
  "Rsvqa": Rsvqa,
  "ScienceQa": ScienceQa,
  "Segmentation": Segmentation,
  "ServerFile": ServerFile,
  "TallyQa": TallyQa,
  "VqaAccuracy": VqaAccuracy,
  "VqaV2Accuracy": VqaV2Accuracy,
  "WritePredictions": WritePredictions,
}

__all__ = [
  "EVALUATORS",
  "METRICS",
  "BoxAccuracy",
  "ChartQa",
  "CocoCaption",
  "CocoDetection",
  "ErrorRate",
  "Evaluator",
  "ExactMatch",
  "Mmvp",
  "Output",
  "Perplexity",
  "Pope",
  "Rsvqa",
  "ScienceQa",
  "Segmentation",
  "ServerFile",
  "TallyQa",
  "VqaAccuracy",
  "VqaV2Accuracy",
  "WritePredictions",
  "intervals",
  "score",
]
