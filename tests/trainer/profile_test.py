"""`log.profile`: which texts name steps, and what a trace of a run has in it."""

import json
import logging

import jax
import pytest
from PIL import Image

from paligemma_jax import pp
from paligemma_jax import sources
from paligemma_jax.config import load as configs
from paligemma_jax.config import schema
from paligemma_jax.core import bucket
from paligemma_jax.core import errors
from paligemma_jax.trainer import loop
from paligemma_jax.trainer import profile
from paligemma_jax.trainer import progress
from paligemma_jax.trainer import workdir

PARTS = (
  "jvp(Siglip)/",
  "/projector/",
  "jvp(Gemma)/",
  "/attention/",
  "jvp(loss)/",
  "/grad_norm/",
  "/optimizer/",
)


@pytest.mark.parametrize(
  ("text", "steps"),
  [("", (0, 0)), ("steps 10-13", (10, 13)), ("step 7", (7, 7)), (" steps 1 - 100 ", (1, 100))],
)
def test_a_text_names_steps(text, steps):
  assert schema.parse_steps(text, "log.profile") == steps


@pytest.mark.parametrize(
  "text", ["10-13", "steps", "steps 0-3", "steps 13-10", "steps -1", "steps 1-101", "3 steps", 10]
)
def test_another_text_is_a_config_error_that_names_the_key(text):
  config = configs.default_config()
  with pytest.raises((errors.ConfigError, TypeError), match=r"log\.profile|type"):
    config.log.profile = text
    configs.validate(config)


def _progress():
  return progress.Progress(batch_size=8, main=True)


def _profile(text, folder, *, main=True):
  place = workdir.Workdir(folder)
  return profile.Profile(text, place, total=20, main=main, progress=_progress())


def test_steps_beyond_the_run_are_refused(tmp_path):
  with pytest.raises(errors.ConfigError, match=r"steps 18-21', but the run has 20 steps"):
    _profile("steps 18-21", tmp_path)


def test_steps_that_are_done_are_told_once_and_other_processes_trace_nothing(tmp_path, capsys):
  for traced in (_profile("steps 3-4", tmp_path), _profile("steps 8-9", tmp_path, main=False)):
    for step in range(7, 12):
      traced.at(step, ())
    traced.close()
  assert not list(tmp_path.iterdir())
  assert capsys.readouterr().err == "no profile: step 4 is done already\n"


def test_a_profiler_that_fails_is_logged_once_and_no_reason_to_end(tmp_path, caplog):
  traced = _profile("steps 1-3", tmp_path)
  jax.profiler.start_trace(tmp_path / "another")
  try:
    with caplog.at_level(logging.ERROR):
      for step in range(1, 6):
        traced.at(step, ())
  finally:
    jax.profiler.stop_trace()
  (record,) = caplog.records
  assert "no profile is written: RuntimeError: " in record.getMessage()


def test_a_folder_that_is_a_link_is_not_written_through(tmp_path, caplog):
  (tmp_path / "elsewhere").mkdir()
  (tmp_path / "profile").symlink_to("elsewhere")
  traced = _profile("step 1", tmp_path)
  with caplog.at_level(logging.ERROR):
    traced.at(1, ())
    traced.at(2, ())
  assert "is a link" in caplog.text and not list((tmp_path / "elsewhere").iterdir())


def _trace_a_sum(folder):
  traced = _profile("step 1", folder)
  traced.at(1, ())
  state = jax.jit(lambda x: x + 1)(1.0)
  traced.at(2, state)


def test_in_a_bucket_the_trace_is_made_here_and_uploaded(gcs):
  folder = bucket.path("gs://test-bucket/profile-run")
  _trace_a_sum(folder)
  names = bucket.listing(folder / "profile")
  assert sorted(name.partition(".")[2] for name in names) == ["trace.json.gz", "xplane.pb"]
  assert all(stat.size > 0 for stat in names.values())


def test_a_bucket_that_refuses_is_logged_and_no_reason_to_end(gcs, caplog):
  gcs.plan(dict(path="profile-refused", method="POST", status=403))
  with caplog.at_level(logging.ERROR):
    _trace_a_sum(bucket.path("gs://test-bucket/profile-refused"))
  (text,) = [r.getMessage() for r in caplog.records if "no profile" in r.getMessage()]
  assert "no profile is written: PermissionError: " in text


@pytest.mark.slow  # One run of four steps.
def test_a_trace_has_the_steps_and_the_names_of_our_parts(tmp_path, capsys):
  lines = []
  for i in range(8):
    Image.new("RGB", (32, 32), (i, 60, 200)).save(tmp_path / f"{i}.png")
    lines.append(json.dumps({"image": f"{i}.png", "prefix": "what?", "suffix": f"{i}"}) + "\n")
  (tmp_path / "rows.jsonl").write_text("".join(lines))
  c = configs.default_config()
  c.model.update(variant="tiny", res=28, overrides={"llm": {"depth": 2}, "img": {"depth": 1}})
  c.train.source = sources.Jsonl(
    str(tmp_path / "rows.jsonl"), columns=("image", "prefix", "suffix")
  )
  c.train.update(pp=(pp.Decode(), pp.Resize(28)), text_len=16, batch_size=8, total="4 steps")
  c.optim.lr = 1e-3
  c.log.update(tensorboard=False, profile="steps 3-4")
  loop.train(c, tmp_path / "run")
  assert "profile of steps 3-4: " in capsys.readouterr().err
  (path,) = (tmp_path / "run" / "profile").rglob("*.xplane.pb")
  found = jax.profiler.ProfileData.from_file(str(path))
  events = [e for plane in found.planes for line in plane.lines for e in line.events]
  steps = [dict(e.stats)["step_num"] for e in events if e.name == "train"]
  assert steps == [3, 4] and {"data", "save"} <= {e.name for e in events}
  # Of the operations, by which viewers group them.
  content = path.read_bytes()
  assert not [name for name in PARTS if name.encode() not in content]
