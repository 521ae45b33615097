"""What the sides of load.py have in common: load, look at every number, save, clean up."""

from __future__ import annotations

import argparse
import os
import pathlib
import shutil
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from tools.bench import side


def serve(
  args: argparse.Namespace,
  facts: dict[str, Any],
  *,
  load: Callable[[], Any],
  arrays: Callable[[Any], Iterable[np.ndarray]],
  save: Callable[[Any, pathlib.Path], Any],
) -> None:
  """Speaks side.py's protocol; a run answers {load, save (seconds), sum (of magnitudes)}.

  Args:
    load: returns a model.
    arrays: its parameters.
    save: writes the model to a path that does not exist.
  """
  target = pathlib.Path(args.folder) / f"saved_by_{os.getpid()}"

  def task():
    start = time.perf_counter()
    model = load()
    total = float(sum(np.abs(x).sum(dtype=np.float64) for x in arrays(model)))
    loaded = time.perf_counter()
    save(model, target)
    return {"load": loaded - start, "save": time.perf_counter() - loaded, "sum": total}

  side.serve(lambda: (facts, task), after=lambda: shutil.rmtree(target))
