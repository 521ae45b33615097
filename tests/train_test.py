"""The command's promises: mistakes cost one clear sentence and the right exit code."""

import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from paligemma_jax.models import paligemma
from paligemma_jax.models import variants
from tests import run_train
from tests import virtual_devices

TINY = "configs/tiny.py"
GOLDEN_LOSSES = pathlib.Path(__file__).parent / "golden" / "losses.txt"


def assert_one_clear_sentence(done, code, *words):
  assert done.returncode == code, (done.returncode, done.stderr)
  assert "Traceback" not in done.stderr, done.stderr
  assert done.stderr.startswith("error: ") or "\nerror: " in done.stderr
  for word in words:
    assert word in done.stderr, (word, done.stderr)


@pytest.mark.parametrize(
  ("flags", "code", "words"),
  [
    (["--config.optim.lrr=1"], 78, ["optim.lrr", "Did you mean", "optim.lr"]),
    (["--config.optim.freeze=('img/.*', 'lmm/.*')"], 78, ["optim.freeze", "lmm/.*", "no par"]),
    (["--config.init=nowhere/pt.npz"], 78, ["nowhere/pt.npz", "no such file"]),
    (["--config.model.variant=tinny"], 78, ["tinny", "Did you mean 'tiny'"]),
    (["--config.train.batch_size=0"], 78, ["train.batch_size"]),
    (["--workdirr=x"], 2, ["--workdirr", "--workdir"]),
  ],
  ids=lambda value: str(value)[:40],
)
def test_a_mistake_is_named_with_its_remedy(flags, code, words, tmp_path):
  assert_one_clear_sentence(run_train.run(TINY, tmp_path / "w", *flags), code, *words)


def test_a_missing_config_file_is_named(tmp_path):
  done = run_train.run("configs/tinny.py", tmp_path / "w")
  assert_one_clear_sentence(done, 78, "configs/tinny.py", "tiny.py")


def test_an_unknown_preset_is_named(tmp_path):
  config = tmp_path / "mine.py"
  config.write_text(
    "import paligemma_jax as pj\nfrom paligemma_jax import presets\n"
    "def get_config():\n  c = pj.default_config()\n  presets.apply(c, 'sgd_atention')\n"
    "  return c\n"
  )
  done = run_train.run(str(config), tmp_path / "w")
  assert_one_clear_sentence(done, 78, "sgd_atention", "Did you mean 'sgd_attention'")


@pytest.fixture(scope="module")
def tiny_params():
  model_config = variants.get("tiny", res=56)
  shapes = paligemma.param_shapes(model_config)
  return {name: np.zeros(shape.shape, np.float32) for name, shape in shapes.items()}


def test_weights_of_a_wrong_shape_are_named_with_both_shapes(tiny_params, tmp_path):
  wrong = {**tiny_params, "llm/final_norm/scale": np.zeros(64, np.float32)}
  np.savez(tmp_path / "wrong.npz", **{f"params/{k}": v for k, v in wrong.items()})
  done = run_train.run(TINY, tmp_path / "w", f"--config.init={tmp_path / 'wrong.npz'}")
  assert_one_clear_sentence(done, 78, "wrong.npz", "llm/final_norm/scale", "64", "128")


def test_weights_with_a_pickle_inside_are_refused(tiny_params, tmp_path):
  bad = {**tiny_params, "llm/final_norm/scale": np.array([{"a": 1}], dtype=object)}
  np.savez(tmp_path / "bad.npz", **{f"params/{k}": v for k, v in bad.items()})
  done = run_train.run(TINY, tmp_path / "w", f"--config.init={tmp_path / 'bad.npz'}")
  assert_one_clear_sentence(done, 78, "bad.npz", "llm/final_norm/scale", "object")


def write_rows(folder, *, corrupt):
  """Eight images and a JSONL file; one image is cut in half."""
  rng = np.random.default_rng(0)
  lines = []
  for i in range(8):
    path = folder / f"{i}.png"
    Image.fromarray(rng.integers(0, 255, (60, 60, 3), np.uint8)).save(path)
    if corrupt and i == 3:
      path.write_bytes(path.read_bytes()[:2000])
    lines.append(json.dumps({"image": path.name, "suffix": f"number {i}"}) + "\n")
  (folder / "rows.jsonl").write_text("".join(lines))
  config = folder / "mine.py"
  config.write_text(f"""
import paligemma_jax as pj
from paligemma_jax import pp
from paligemma_jax import sources

def get_config():
  c = pj.default_config()
  c.model.update(variant="tiny", res=56)
  rows = sources.Jsonl({str(folder / "rows.jsonl")!r}, images={str(folder)!r})
  c.train.update(source=rows, pp=(pp.Decode(), pp.Resize(56), pp.Format("caption en")),
                 text_len=24, batch_size=8, total="2 steps")
  c.optim.lr = 1e-3
  c.log.update(every="1 steps", tensorboard=False)
  return c
""")
  return str(config)


def test_a_corrupt_image_ends_the_run_and_is_named_with_its_line(tmp_path):
  done = run_train.run(write_rows(tmp_path, corrupt=True), tmp_path / "w")
  assert_one_clear_sentence(done, 65, "rows.jsonl:4", "3.png")


@pytest.mark.slow  # Compiles and trains two steps.
def test_a_corrupt_image_within_the_budget_is_counted_and_written_down(tmp_path):
  config = write_rows(tmp_path, corrupt=True)
  done = run_train.run(config, tmp_path / "w", "--config.train.bad_rows=1")
  assert done.returncode == 0, done.stderr
  lines = (tmp_path / "w" / "bad_rows.jsonl").read_text().splitlines()
  assert len(lines) == 1 and "rows.jsonl:4" in lines[0]
  rows = [json.loads(line) for line in (tmp_path / "w" / "metrics.jsonl").read_text().splitlines()]
  assert [row["num_rows"] for row in rows] == [7, 7]


@pytest.mark.slow  # Compiles, evaluates and trains two steps.
def test_the_start_looks_at_a_few_rows_and_the_baseline_waits_for_all(tmp_path):
  config = pathlib.Path(write_rows(tmp_path, corrupt=False))
  evaluator = """
  from paligemma_jax import evals
  c.evals = (evals.ExactMatch("val/acc", rows, c.train.pp, every="end", max_len=2, text_len=24,
                              batch_size=8, start_limit=3),)
  return c
"""
  config.write_text(config.read_text().replace("  return c\n", evaluator))
  done = run_train.run(str(config), tmp_path / "w")
  assert done.returncode == 0, done.stderr
  lines = [json.loads(line) for line in (tmp_path / "w" / "metrics.jsonl").read_text().splitlines()]
  assert [line.get("val/acc/num") for line in lines] == [3, None, 8]
  assert ["val/acc/baseline/acc" in line for line in lines] == [False, False, True]


@pytest.mark.slow  # A run of the command, shared with other tests.
def test_the_losses_of_the_tiny_run_are_the_golden_ones(finished_run):
  lines = [json.loads(line) for line in run_train.metric_lines(finished_run)]
  losses = [line["loss"] for line in lines if "loss" in line]
  golden = [float(line.split()[1]) for line in GOLDEN_LOSSES.read_text().splitlines()]
  # Other processors round other products differently; twelve steps of Adam blow that up.
  np.testing.assert_allclose(losses, golden, rtol=2e-4, atol=0)


@pytest.mark.slow  # A run of the command on eight virtual devices.
def test_eight_devices_with_fsdp_have_the_losses_of_one(finished_run, tmp_path):
  flags = virtual_devices.environment(8)["XLA_FLAGS"]  # The command itself sees to its threads.
  done = run_train.run(TINY, tmp_path / "w", XLA_FLAGS=flags)
  assert done.returncode == 0, done.stderr
  assert "8 cpu device(s)" in done.stderr
  for eight, one in steps_of(tmp_path / "w", finished_run):
    assert eight["rows_crc32"] == one["rows_crc32"]
    np.testing.assert_allclose(eight["loss"], one["loss"], rtol=1e-5, atol=1e-5)


@pytest.mark.slow  # One run of the command in two processes.
def test_two_processes_have_the_losses_of_one(finished_run, tmp_path):
  # Each host finds the lengths of its own rows, and takes the longest of all.
  flag = "--config.train.buckets=(8, 16, 24, 32)"
  for done in run_train.run_together(2, TINY, tmp_path / "w", flag):
    assert done.returncode == 0, done.stderr
  for two, one in steps_of(tmp_path / "w", finished_run):
    np.testing.assert_allclose(two["loss"], one["loss"], rtol=1e-5, atol=1e-5)
  assert run_train.files_under(tmp_path / "w" / "predictions").keys() == (
    run_train.files_under(finished_run / "predictions").keys()
  )


def steps_of(workdir, other):
  """Pairs of the lines of the same training step in two runs of configs/tiny.py."""
  lines, others = (
    [json.loads(line) for line in run_train.metric_lines(w)][1:] for w in (workdir, other)
  )
  assert [line["step"] for line in lines] == [line["step"] for line in others] == [*range(1, 13)]
  return zip(lines, others, strict=True)


def test_a_start_that_fails_does_not_take_the_workdir(tmp_path):
  first = run_train.run(TINY, tmp_path / "w", "--config.train.source.num_rows=0")
  assert_one_clear_sentence(first, 65, "no rows")
  # Another configuration comes as far as the first one did: nothing else is in its way.
  flags = ["--config.train.source.num_rows=0", "--config.seed=1"]
  second = run_train.run(TINY, tmp_path / "w", *flags)
  assert_one_clear_sentence(second, 65, "no rows")


@pytest.mark.slow  # After a run of the command.
def test_a_second_run_in_the_same_workdir_with_another_seed_is_refused(finished_run):
  before = run_train.files_under(finished_run)
  second = run_train.run(TINY, finished_run, "--config.seed=1")
  assert_one_clear_sentence(second, 78, "seed: 0 -> 1", "--workdir")
  after = run_train.files_under(finished_run)
  assert after == {**before, "lock": after["lock"]}  # Which says who held it last.
