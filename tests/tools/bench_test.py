"""Benchmarks: two processes take turns, and one JSON line says how they compare."""

import importlib.util
import json
import subprocess
import sys

import pytest

from paligemma_jax.core import errors
from tests import run_train
from tools.bench import compare

_SIDE = "tests.tools.bench_side"


def test_sides_take_turns_and_medians_are_compared(tmp_path, capsys):
  path = tmp_path / "turns"
  with compare.started("ours", _SIDE, "big", str(path), "0.01") as ours:
    with compare.started("theirs", _SIDE, "small", str(path), "0.2") as theirs:
      compare.take_turns([ours, theirs], 3)
  # Each warms up once, before anybody is timed.
  assert path.read_text().split() == ["big", "small"] + ["big", "small"] * 3
  found = compare.result("nothing", ours, theirs, extra=1)
  assert (found["name"], found["rival"], found["runs"], found["extra"]) == (
      "nothing", "theirs", 3, 1
  )
  assert 0.01 <= found["ours_seconds"] and 0.2 <= found["rival_seconds"]
  assert found["ratio"] == pytest.approx(found["ours_seconds"] / found["rival_seconds"], rel=0.01)
  assert found["ours_peak_gb"] > 0.2 > found["rival_peak_gb"] > 0.001
  assert ours.answer == ["big", 200_000_000] and ours.facts["version"] == "1.0"
  assert ours.process.returncode == theirs.process.returncode == 0
  compare.show(found, as_json=True)
  assert json.loads(capsys.readouterr().out) == found
  compare.show(found, as_json=False)
  assert f"ratio {found['ratio']:.3f}" in capsys.readouterr().out


def test_a_side_that_cannot_start_is_named_with_the_remedy():
  with pytest.raises(errors.ConfigError, match=r"'theirs' ended with exit code 3.*bench\.txt"):
    with compare.started("theirs", _SIDE, "broken", "", "0"):
      pass


@pytest.mark.slow  # 40 s: two processes with JAX, and PyTorch where it is installed.
def test_decoding_is_measured():
  rivals = ["--against=transformers"] if importlib.util.find_spec("transformers") else []
  command = [sys.executable, "-m", "tools.bench.decode", "--json", "--model=tiny", "--repeats=1"]
  done = subprocess.run(
      [*command, "--new_tokens=3", "--batch_size=2", *rivals], cwd=run_train.ROOT, text=True,
      capture_output=True, check=False,
  )
  assert done.returncode == 0, done.stderr
  found = json.loads(done.stdout)
  assert found["name"] == "decode" and found["ours_tokens_per_second"] > 0
  assert not rivals or found["identical_tokens"]
