"""What a run leaves when something fails in it, and what it says of its rows and its best step."""

import json
import logging
import pathlib
import time

import numpy as np
import pytest
from PIL import Image

from paligemma_jax import api
from paligemma_jax import evals
from paligemma_jax import pp
from paligemma_jax import sources
from paligemma_jax.checkpoint import manifest
from paligemma_jax.checkpoint import npz
from paligemma_jax.config import load as configs
from paligemma_jax.core import errors
from paligemma_jax.core import spec
from paligemma_jax.trainer import loop
from paligemma_jax.trainer import metrics
from paligemma_jax.trainer import progress
from tests import run_train

_RES = 28
_OPS = (pp.Decode(), pp.Resize(_RES))


@spec.spec
class FailsAt(evals.Perplexity):
  """Fails as long as a file is there, but not on a single row."""

  file: str = ""

  def score(self, rows, outputs):
    if len(rows) > 1 and pathlib.Path(self.file).exists():
      raise errors.DataError("this score cannot be computed")
    return evals.Perplexity.score(self, rows, outputs)


def _rows(folder, num=24, suffix=lambda i: f"{i % 4}"):
  folder.mkdir(exist_ok=True)
  lines = []
  for i in range(num):
    Image.new("RGB", (32, 32), (i, 60, 200)).save(folder / f"{i}.png")
    lines.append({"image": f"{i}.png", "prefix": "what?", "suffix": suffix(i)})
  (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
  return sources.Jsonl(str(folder / "rows.jsonl"), columns=("image", "prefix", "suffix"))


def _config(source, *evaluators, total=6, save=1000, **train):
  c = configs.default_config()
  c.model.update(variant="tiny", res=_RES, overrides={"llm": {"depth": 1}, "img": {"depth": 1}})
  c.train.update(source=source, pp=_OPS, text_len=16, batch_size=8, total=f"{total} steps", **train)
  c.optim.update(lr=1e-3)
  c.ckpt.every = f"{save} steps"
  c.log.update(every="1 steps", tensorboard=False)
  c.evals = evaluators
  return c


def _saved(folder):
  return sorted(manifest.steps_in(folder / "checkpoints"))


@pytest.mark.slow  # Four runs of six steps.
def test_a_bad_row_ends_the_run_with_the_finished_steps_saved_and_it_goes_on_when_mended(
  tmp_path, capsys
):
  source = _rows(tmp_path / "data")
  config = _config(source, shuffle=False, prefetch=1)
  loop.train(config, tmp_path / "whole")
  picture = tmp_path / "data" / "17.png"
  data = picture.read_bytes()
  picture.unlink()
  with pytest.raises(errors.DataError, match=r"17\.png"):
    loop.train(config, tmp_path / "run")
  assert _saved(tmp_path / "run") == [2]
  assert "step 2 is saved" in capsys.readouterr().err
  picture.write_bytes(data)
  loop.train(config, tmp_path / "run")
  lines = run_train.metric_lines(tmp_path / "run")
  assert lines == run_train.metric_lines(tmp_path / "whole")


@pytest.mark.slow  # Four runs of six steps.
@pytest.mark.parametrize("save", [3, pytest.param(1000, marks=pytest.mark.long)])
def test_a_failing_evaluation_loses_no_step_and_is_made_up_for(tmp_path, save):
  source, flag = _rows(tmp_path / "data"), tmp_path / "broken"
  val = FailsAt("val", source, _OPS, every="3 steps", text_len=16, start_limit=1, file=str(flag))
  config = _config(source, val, save=save)
  loop.train(config, tmp_path / "whole")
  flag.touch()
  with pytest.raises(errors.DataError, match="evaluator 'val' at step 3"):
    loop.train(config, tmp_path / "run")
  assert _saved(tmp_path / "run") == [3]
  # The state is there, its line is not: what is due is done first when the run goes on.
  with pytest.raises(errors.DataError, match="evaluator 'val' at step 3"):
    loop.train(config, tmp_path / "run")
  flag.unlink()
  loop.train(config, tmp_path / "run")
  lines = run_train.metric_lines(tmp_path / "run")
  assert lines == run_train.metric_lines(tmp_path / "whole")
  for name, array in run_train.state_arrays(tmp_path / "whole").items():
    np.testing.assert_array_equal(run_train.state_arrays(tmp_path / "run")[name], array)


@pytest.mark.slow  # Two runs, of one step and of none.
def test_bad_validation_rows_are_told_before_the_first_step_and_registered(tmp_path):
  source = _rows(tmp_path / "data")
  val = _rows(tmp_path / "val", num=5)
  (tmp_path / "val" / "2.png").unlink()
  (tmp_path / "val" / "4.png").write_bytes(b"no image")
  config = _config(source, evals.Perplexity("val", val, _OPS, text_len=16), total=1)
  with pytest.raises(errors.DataError, match=r"(?s)'val' would find 2 bad rows.*2\.png.*4\.png"):
    loop.train(config, tmp_path / "run")
  assert not (tmp_path / "run" / "checkpoints" / "1").exists()
  assert not run_train.metric_lines(tmp_path / "run")
  config.train.bad_rows = 2
  loop.train(config, tmp_path / "run")
  text = (tmp_path / "run" / "bad_rows.jsonl").read_text()
  bad = [json.loads(line) for line in text.splitlines()]
  assert [(line["evaluator"], line["row"]) for line in bad] == [("val", 2), ("val", 4)]
  assert json.loads(run_train.metric_lines(tmp_path / "run")[-1])["val/num_rejected"] == 2


@pytest.mark.slow  # Two runs, of four steps and of two.
def test_the_time_of_a_run_is_told_and_steps_that_are_done_again_are_lost(tmp_path, capsys):
  config, run = _config(_rows(tmp_path / "data"), total=4, save=2), tmp_path / "run"
  begun = time.monotonic()
  loop.train(config, run)
  first = metrics.read(run / "metrics.jsonl")[-1]
  assert 0 < first["seconds/compile"] < sum(first[name] for name in progress.TIMES)
  assert first["seconds/lost"] == 0
  loop.train(config, run, resume_step=2)
  lines = metrics.read(run / "metrics.jsonl")
  # Also in the line that stays, for a process that ends before it writes one.
  assert lines[-1]["seconds/lost"] == lines[1]["seconds/lost"] > 0
  assert lines[-1]["seconds/start"] > first["seconds/start"]
  told = sum(lines[-1][name] for name in progress.TIMES)
  assert sum(first[name] for name in progress.TIMES) < told <= time.monotonic() - begun + 0.1
  assert "time:    start " in capsys.readouterr().err.splitlines()[-1]
  page = (run / "report.html").read_text()
  assert "<td>lost</td>" in page and "seconds/lost" not in page


_TRACKED = []


@spec.spec
class Notes:
  """A tracker that notes what it is called with; it cannot log metrics."""

  def make(self, workdir):
    return self

  def log(self, step, metrics):
    _TRACKED.append(("log", step, metrics))
    raise RuntimeError("no network")

  def text(self, step, texts):
    _TRACKED.append(("text", step, texts))


@spec.spec
class Images:
  """A tracker of predictions and images."""

  def make(self, workdir):
    return self

  def log(self, step, metrics):
    pass

  def predictions(self, step, tables):
    _TRACKED.append(("predictions", step, tables))

  def images(self, step, images):
    _TRACKED.append(("images", step, images))

  def fail(self, reason):
    _TRACKED.append(("fail", reason))


@pytest.mark.slow  # One run of two steps that decodes.
def test_trackers_get_predictions_and_images_and_one_that_fails_ends_nothing(tmp_path, caplog):
  _TRACKED.clear()
  source = _rows(tmp_path / "data")
  val = evals.WritePredictions(
    "val", source, _OPS, every="1 steps", text_len=16, max_len=2, limit=10, start_limit=3
  )
  config = _config(source, val, total=2)
  config.log.trackers = (Notes(), Images())
  loop.train(config, tmp_path / "run")
  calls = [(call[0], call[1]) for call in _TRACKED]
  assert calls == [
    ("text", 0),
    ("log", 0),
    *(("predictions", step) for step in (0, 1, 2)),
    ("images", 2),
  ]
  tables = [
    call[2]["val/predictions"].splitlines() for call in _TRACKED if call[0] == "predictions"
  ]
  assert [len(table) for table in tables] == [2 + 3, 2 + 8, 2 + 8]
  assert tables[0][0] == "| prefix | suffix | prediction |"
  assert tables[0][2].startswith("| what? | 0 | ")
  images = _TRACKED[-1][2]
  assert len(images) == 10
  for image, caption in images.values():
    assert image.shape == (_RES, _RES, 3) and image.dtype == np.uint8
    assert caption.startswith("what? -> ") and "(target: " in caption
  told = [r.getMessage() for r in caplog.records if "Notes" in r.getMessage()]
  assert len(told) == 2 and "RuntimeError: no network" in told[0]
  assert told[1] == "Notes lacks 3 lines of metrics.jsonl"


@pytest.mark.long  # One run of seven steps.
def test_the_best_evaluation_between_saves_is_saved_and_named_at_the_end(tmp_path, capsys):
  source = _rows(tmp_path / "data")
  val = evals.Perplexity("val", source, _OPS, every="3 steps", text_len=16)
  config = _config(source, val, total=7, save=4)
  config.ckpt.update(best="val/loss", best_mode="max", keep=1)
  loop.train(config, tmp_path / "run")
  lines = map(json.loads, run_train.metric_lines(tmp_path / "run"))
  values = {line["step"]: line["val/loss"] for line in lines if "val/loss" in line}
  values.pop(0)
  best = max(values, key=values.get)
  assert _saved(tmp_path / "run") == sorted({best, 7})
  assert f"at step {best}, saved in" in capsys.readouterr().err


def test_a_misspelt_metric_of_ckpt_best_is_refused_at_once(tmp_path):
  source = _rows(tmp_path / "data", num=8)
  config = _config(source, evals.Perplexity("val", source, _OPS, every="1 steps", text_len=16))
  config.ckpt.best = "val/perplexty"
  with pytest.raises(errors.ConfigError, match=r"val/perplexty.*'val/perplexity'"):
    loop.train(config, tmp_path / "run")


@pytest.mark.long  # Three runs of six steps.
def test_rows_cut_are_counted_alike_however_far_is_read_ahead_and_after_a_restart(tmp_path, capsys):
  source = _rows(tmp_path / "data", suffix=lambda i: "x y z " * 20 if i % 3 == 0 else "x")
  config = _config(source, overflow="truncate", prefetch=1)
  loop.train(config, tmp_path / "one")
  logged = capsys.readouterr().err
  assert logged.count("rows: ") == 1 and "rows/truncated" in logged
  lines = run_train.metric_lines(tmp_path / "one")
  counts = [json.loads(line)["rows/truncated"] for line in lines]
  assert counts[2] == 8 and counts[5] == 16 and counts == sorted(counts)
  assert "truncated: cut" in (tmp_path / "one" / "report.html").read_text()
  config.train.update(prefetch=6, num_threads=3)
  config.ckpt.every = "2 steps"
  loop.train(config, tmp_path / "many")
  assert run_train.metric_lines(tmp_path / "many") == lines
  loop.train(config, tmp_path / "many", resume_step=4)
  assert run_train.metric_lines(tmp_path / "many") == lines
  for name, array in run_train.state_arrays(tmp_path / "one").items():
    np.testing.assert_array_equal(run_train.state_arrays(tmp_path / "many")[name], array)
  (aside,) = (tmp_path / "many" / "set_aside").iterdir()
  assert _saved(aside) == [6]
  assert run_train.metric_lines(aside) == lines
  loop.train(config, tmp_path / "many", resume_step=4)  # The same command again.
  assert _saved(tmp_path / "many") == [4, 6]
  assert "was done before" in capsys.readouterr().err


def test_a_run_whose_rows_are_all_dropped_is_an_error(tmp_path):
  source = _rows(tmp_path / "data", num=8, suffix=lambda i: "x y z " * 20)
  with pytest.raises(errors.DataError, match=r"of 8 rows 8 are longer than text_len=16"):
    loop.train(_config(source, overflow="drop"), tmp_path / "run")


@pytest.mark.slow  # One run of one step.
def test_a_run_of_one_step_says_that_warm_up_leaves_it_nothing(tmp_path, caplog):
  with caplog.at_level(logging.WARNING):
    loop.train(_config(_rows(tmp_path / "data", num=8), total=1), tmp_path / "run")
  assert "the learning rate is 0 at 1 of the 1 steps" in caplog.text


@pytest.mark.slow  # Six runs of a step or two.
def test_a_start_reads_each_checkpoint_once(tmp_path, monkeypatch):
  opened = []

  def count(module, name):
    function = getattr(module, name)

    def counted(path, *args, **kwargs):
      opened.append(pathlib.Path(path).relative_to(tmp_path).as_posix())
      return function(path, *args, **kwargs)

    monkeypatch.setattr(module, name, counted)

  for module, name in ((manifest, "_verified"), (npz, "open_npz"), (npz, "open_native")):
    count(module, name)
  source = _rows(tmp_path / "data")

  def opened_by(workdir, init="", total=1, **options):
    config = _config(source, total=total, save=1)
    config.ckpt.export = "npz"
    config.optim.train_only = ("llm/.*",)
    config.init = init and str(tmp_path / init)
    opened.clear()
    loop.train(config, tmp_path / workdir, **options)
    return sorted(opened)

  assert opened_by("first") == []
  assert opened_by("npz", "first/params.npz") == ["first/params.npz"]
  api.load(tmp_path / "first").save(tmp_path / "native")
  assert opened_by("native_run", "native") == ["native", "native/params.npz"]
  step_and_base = ["first/checkpoints/1", "first/checkpoints/base"]
  assert opened_by("run", "first") == step_and_base
  assert opened_by("first", total=2) == step_and_base
  assert opened_by("first", total=3, resume_step=1) == step_and_base
