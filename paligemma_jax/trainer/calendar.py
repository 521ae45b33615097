"""At which steps of a run something is due: a line, a save, an evaluation."""

from __future__ import annotations

import ml_collections

from paligemma_jax.core import units


class Calendar:
  """What is due at a step follows from the configuration and the length of the run alone.

  Args:
    config: its durations are read.
    total: steps of the run.
    num_rows: rows of an epoch.

  Raises:
    ConfigError: a duration that is none.
  """

  def __init__(self, config: ml_collections.ConfigDict, total: int, num_rows: int):
    self._total = total

    def steps(duration: str, what: str) -> int:
      return units.to_steps(
        duration,
        what,
        batch_size=config.train.batch_size,
        num_examples=num_rows,
        total_steps=total,
      )

    self._log_every = steps(config.log.every, "log.every")
    self._save_every = steps(config.ckpt.every, "ckpt.every")
    self._eval_every = {e.name: steps(e.every, f"{e.name}: every") for e in config.evals}

  def evals(self, step: int) -> list[str]:
    """Evaluators that run after this step; all run at the end, at 0 those that run in between."""
    last = step == self._total
    return [n for n, every in self._eval_every.items() if last or (every and step % every == 0)]

  def is_save(self, step: int) -> bool:
    """Whether the state is saved after this step whatever is found."""
    return bool(step == self._total or (self._save_every and step % self._save_every == 0))

  def is_line(self, step: int) -> bool:
    """Whether a line of metrics is written for this step."""
    log_now = self._log_every and step % self._log_every == 0
    return bool(step in (1, self._total) or log_now or self.is_save(step) or self.evals(step))
