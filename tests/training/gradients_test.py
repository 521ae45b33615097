"""Gradients under every preset, on one and on eight devices, whole and in parts: the plain ones."""

import json
import pathlib
import subprocess
import sys

import pytest

from paligemma_jax import presets
from tests import virtual_devices
from tests.training import gradients_run

_ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.slow  # 60 s on two idle cores.
def test_gradients_of_every_preset_are_those_of_a_plain_reference():
  done = subprocess.run(
    [sys.executable, "-m", "tests.training.gradients_run"],
    cwd=_ROOT,
    text=True,
    env=virtual_devices.environment(8),
    capture_output=True,
    timeout=1500,
    check=False,
  )
  assert done.returncode == 0, done.stderr[-3000:]
  results = json.loads(done.stdout.splitlines()[-1])
  assert len(results) == len(gradients_run.cases())
  wrong = {case: found for case, found in results.items() if not found[0] < 1e-4}
  assert not wrong


def test_the_cases_hold_every_preset_and_every_pair_of_settings():
  cases = gradients_run.cases()
  assert {name for name, _ in cases} == set(gradients_run.PRESETS)
  assert set(gradients_run.PRESETS) | set(gradients_run.SAME) == set(presets.TUNES)
  pairs = {(i, j, way[i], way[j]) for _, way in cases for i in range(4) for j in range(i)}
  assert len(pairs) == 6 * 4


@pytest.mark.parametrize("name, like", gradients_run.SAME.items())
def test_presets_that_are_left_out_train_what_another_does(name, like):
  ours, others = (gradients_run.configuration(n) for n in (name, like))
  for key in ("freeze", "train_only"):
    assert ours.optim[key] == others.optim[key]
  assert ours.model == others.model
