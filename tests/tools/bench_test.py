"""Benchmarks: two processes take turns, and one JSON line says how they compare."""

import argparse
import importlib.util
import json
import subprocess
import sys

import pytest

from paligemma_jax.core import errors
from paligemma_jax.pp import decode
from tests import run_train
from tools.bench import attention
from tools.bench import compare
from tools.bench import photos
from tools.bench import step

_SIDE = "tests.tools.bench_side"


def test_sides_take_turns_and_medians_are_compared(tmp_path, capsys):
  path = tmp_path / "turns"
  with compare.started("ours", _SIDE, "big", str(path), "0.01") as ours:
    with compare.started("theirs", _SIDE, "small", str(path), "0.2") as theirs:
      compare.take_turns([ours, theirs], 3)
  # Each warms up once, before anybody is timed.
  assert path.read_text().split() == ["big", "small"] + ["big", "small"] * 3
  found = compare.result("nothing", ours, theirs, extra=1)
  assert (found["name"], found["baseline"], found["runs"], found["extra"]) == (
    "nothing",
    "theirs",
    3,
    1,
  )
  assert 0.01 <= found["ours_seconds"] and 0.2 <= found["baseline_seconds"]
  assert found["ratio"] == pytest.approx(
    found["ours_seconds"] / found["baseline_seconds"], rel=0.01
  )
  assert found["ours_peak_gb"] > 0.2 > found["baseline_peak_gb"] > 0.001
  assert ours.answers == [["big", 200_000_000]] * 4 and ours.facts["version"] == "1.0"
  assert ours.process.returncode == theirs.process.returncode == 0
  compare.show(found, as_json=True)
  assert json.loads(capsys.readouterr().out) == found
  compare.show(found, as_json=False)
  assert f"ratio {found['ratio']:.3f}" in capsys.readouterr().out


def test_a_side_that_cannot_start_is_named_with_the_remedy():
  with pytest.raises(errors.ConfigError, match=r"'theirs' ended with exit code 3.*bench\.txt"):
    with compare.started("theirs", _SIDE, "broken", "", "0"):
      pass


def test_a_rival_that_is_missing_is_named_before_anything_is_made(monkeypatch):
  monkeypatch.setitem(compare.PACKAGES, "transformers", ("json", "no_such_baseline"))
  args = argparse.Namespace(against="transformers", baseline_python=sys.executable)
  with pytest.raises(
    errors.ConfigError, match=r"needs no_such_baseline, which .*bench\.txt.*_python"
  ):
    compare.check_baseline(args)
  with pytest.raises(errors.ConfigError, match=r"needs no_such_baseline, nor_this, which"):
    compare.check_baseline(args, more=("sys", "nor_this"))
  args.baseline_python = "/no/such/python"
  with pytest.raises(errors.ConfigError, match=r"--baseline_python='/no/such/python' does not run"):
    compare.check_baseline(args)
  compare.check_baseline(argparse.Namespace(against="", baseline_python="/no/such/python"))


def test_files_of_the_input_benchmark_are_what_it_says():
  rows = photos.make(2)
  assert rows == photos.make(2) and rows != photos.make(2, seed=1)
  for row in rows:
    assert decode.decode_image(row["image"]).shape == (480, 640, 3)
  assert 60 < photos.mean_kb(rows) < 160


def test_the_step_s_batch_supervises_as_many_tokens_as_told():
  args = step.parser().parse_args(["--model=tiny", "--text_len=9", "--supervised=3"])
  batch = step.batch(args)
  assert batch["text"].shape == batch["mask_loss"].shape == batch["mask_ar"].shape == (8, 10)
  # Text position t is fed for t < 9, so the last one is nobody's target.
  assert batch["mask_loss"].tolist() == [[0.0] * 6 + [1.0] * 3 + [0.0]] * 8
  assert batch["mask_ar"].tolist() == [[0] * 6 + [1] * 4] * 8


def test_losses_that_differ_are_an_error():
  ours, theirs = (compare.Side(name, None, {}) for name in ("ours", "theirs"))
  ours.answers, theirs.answers = [2.0, 1.0], [2.0, 1.001]
  assert step.difference(ours, theirs, "full_adam") == pytest.approx(0.001, rel=0.01)
  # Of a loss that comes down to nothing, rounding is a large part.
  ours.answers, theirs.answers = [2.0, 1e-6], [2.0, 2e-6]
  assert step.difference(ours, theirs, "full_adam", "bfloat16") < 1e-6
  with pytest.raises(errors.ConfigError, match="losses differ"):
    step.difference(ours, theirs, "full_adam")
  theirs.answers = [2.01, 1.0]
  with pytest.raises(errors.ConfigError, match=r"losses differ.*2\.0.*theirs's \[2\.01"):
    step.difference(ours, theirs, "full_adam")


def test_ways_of_attention_are_compared():
  options = ["--variant=tiny", "--res", "28", "--batch_size=2", "--repeats=1", "--dtype=bfloat16"]
  found = list(attention.measured(attention.parser().parse_args(options)))
  assert [(x["tower"], x["length"], x["how"]) for x in found] == [
    (tower, length, how)
    for tower, length in (("decoder", 36), ("tower", 4))
    for how in ("plain", "chunked", "rows")
  ]
  assert all(0 < max(x["error"]) < 0.02 and x["ms"] > 0 for x in found)


def measured(name, *options, against=("transformers",)):
  """The JSON line of a benchmark at its smallest; beside the first baseline that is installed."""
  baselines = [baseline for baseline in against if all(map(_is_here, compare.PACKAGES[baseline]))][
    :1
  ]
  command = [sys.executable, "-m", f"tools.bench.{name}", "--json", "--model=tiny", "--repeats=1"]
  done = subprocess.run(
    [*command, *options, *(f"--against={baseline}" for baseline in baselines)],
    cwd=run_train.ROOT,
    text=True,
    capture_output=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  found = json.loads(done.stdout)
  assert found["name"] == name and found["ours_seconds"] > 0 and found["ours_peak_gb"] > 0.05
  keys = {"baseline", "baseline_seconds", "ratio", "baseline_peak_gb"}
  assert keys <= set(found) if baselines else not keys & set(found)
  return found


def _is_here(package):
  return importlib.util.find_spec(package) is not None


@pytest.mark.long  # 40 s: a process with JAX, and PyTorch where it is installed.
def test_decoding_is_measured():
  found = measured("decode", "--new_tokens=3", "--batch_size=2")
  assert found["ours_tokens_per_second"] > 0
  assert "baseline" not in found or found["identical_tokens"]


@pytest.mark.long  # 40 s: two processes with JAX and the compilation of a step.
def test_the_step_is_measured():
  found = measured("step", "--batch_size=2", against=("transformers", "keras_hub"))
  losses = found["ours_losses"]
  assert len(losses) == 2 and losses[1] < losses[0]  # The second is after one step on the batch.
  assert 0 < found["matmul_share"] < 1.5 and found["matmul_gflops"] > 1
  assert found["mfu"] is None  # No data sheet gives a CPU's peak.
  assert "baseline" not in found or found["loss_difference"] < 1e-2


@pytest.mark.slow  # 15 s: a process with the loader.
def test_input_is_measured():
  found = measured("input", "--images=8", "--files=4")
  assert found["images"] == 8 and found["ours_images_per_core_second"] > 1


@pytest.mark.slow  # 15 s: a process with JAX.
def test_loading_and_saving_are_measured():
  found = measured("load", against=("transformers", "keras_hub"))
  assert found["ours_load_seconds"] > 0 and found["ours_save_seconds"] > 0


@pytest.mark.long  # 60 s: three short runs of the train command.
def test_starting_is_measured():
  config = "--config=configs/tiny.py:num_rows=8,batch_size=2"
  found = measured("start", config, against=())
  assert 0 < found["help_seconds"] < found["ours_seconds"] < 600
  assert 0 <= found["ours_evals_seconds"] < found["ours_seconds"]


@pytest.mark.slow  # A process with JAX.
def test_saving_is_measured_against_orbax_alone(tmp_path):
  done = subprocess.run(
    [sys.executable, "-m", "tools.bench.save", "--megabytes=32", "--repeats=1", "--path", tmp_path],
    cwd=compare.ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr[-2000:]
  found = json.loads(done.stdout)
  assert found["megabytes"] == 34 and found["runs"] == 1
  for name in ("save", "restore"):
    rates = [found[f"{side}_{name}_mb_per_second"] for side in ("orbax", "ours")]
    assert found[f"{name}_ratio"] == pytest.approx(rates[1] / rates[0], rel=0.05)
  assert not list((tmp_path / "bench_save").iterdir())


@pytest.mark.long  # 20 s: four processes with JAX.
def test_the_memory_of_hosts_is_measured(tmp_path):
  command = [sys.executable, "-m", "tools.bench.host_memory", "--model=tiny", "--folder", tmp_path]
  done = subprocess.run(command, cwd=compare.ROOT, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr[-2000:]
  found = json.loads(done.stdout.splitlines()[-1])
  assert found["hosts"] == 2 and found["share_gb"] >= 0
  for part in ("load", "save", "restore"):
    assert found[f"{part}_seconds"] > 0 and -1 < found[f"{part}_beyond_gb"] < 2
  assert not list(tmp_path.iterdir())
