"""A run is gone on with only when it would still be the run that was started."""

import json
import logging

import pytest

from paligemma_jax import pp
from paligemma_jax import sources
from paligemma_jax.config import load as configs
from paligemma_jax.core import errors
from paligemma_jax.trainer import resume
from paligemma_jax.trainer import workdir as workdirs

PARTS = {"rows": "memory:3:0000aaaa", "ops": "[]"}


def _rows(*names):
  return sources.InMemory(tuple({"suffix": name} for name in names)).open()


def _parts(rows):
  return {**PARTS, "rows": rows.fingerprint()}


@pytest.fixture
def workdir(tmp_path):
  return workdirs.Workdir(tmp_path)


def _config(**train):
  config = configs.default_config()
  config.train.update(total="20 steps", **train)
  config.optim.lr = 1e-3
  return config


def _start(workdir, config, rows, total=20, *, allow=False, main=True, step=0):
  allowed = resume.check_config(config, workdir, allow_data_change=allow)
  data = resume.check_data(
    _parts(rows),
    rows,
    total,
    workdir,
    duration=config.train.total,
    allowed=allowed,
    allow_data_change=allow,
  )
  return resume.claim(config, data, workdir, step=step, main=main)


def _save_a_step(workdir, step=10):
  (workdir.checkpoints / str(step)).mkdir(parents=True)


ROWS = _rows("a", "b", "c", "d", "e")


def test_a_new_run_writes_its_configuration_and_data(workdir):
  config = _config()
  _start(workdir, config, ROWS)
  assert not any(configs.changes(configs.read(workdir.config), config).values())
  found = json.loads(workdir.data.read_text())
  assert found == {**_parts(ROWS), "num_rows": 5, "total": 20, "changes": []}


def test_a_start_that_saved_nothing_refuses_nothing(workdir):
  _start(workdir, _config(batch_size=8), ROWS)
  other = _config(batch_size=16)
  data = _start(workdir, other, _rows("x"))
  assert data.changes == ()
  assert configs.read(workdir.config).train.batch_size == 16
  _save_a_step(workdir)
  with pytest.raises(errors.ConfigError, match=r"train\.batch_size: 16 -> 8"):
    _start(workdir, _config(batch_size=8), ROWS)


def test_what_a_run_leaves_at_its_end_is_not_taken_either(workdir):
  _start(workdir, _config(batch_size=8), ROWS)
  workdir.report.write_text("")
  with pytest.raises(errors.ConfigError, match=r"train\.batch_size: 8 -> 16"):
    _start(workdir, _config(batch_size=16), ROWS)


@pytest.mark.parametrize(
  ("section", "key", "value", "refused"),
  [
    ("train", "batch_size", 16, True),
    ("model", "res", 224, True),
    ("optim", "lr", 1e-2, False),
    ("log", "every", "7 steps", False),
  ],
)
def test_what_the_rest_of_a_run_cannot_change_is_refused(workdir, section, key, value, refused):
  config = _config()
  _start(workdir, config, ROWS)
  _save_a_step(workdir)
  config[section][key] = value
  if refused:
    named = rf"(?s)\n  {section}\.{key}: .* -> {value}\n.*--workdir.*init="
    with pytest.raises(errors.ConfigError, match=named) as error:
      _start(workdir, config, ROWS, allow=True)
    assert str(error.value).count(" -> ") == 2  # The heading's, and the one field's.
  else:
    _start(workdir, config, ROWS)
    assert configs.read(workdir.config)[section][key] == value


def test_a_changed_op_is_refused_field_by_field_unless_allowed(workdir):
  _start(workdir, _config(pp=(pp.Decode(), pp.Resize(224))), ROWS)
  _save_a_step(workdir)
  changed = _config(pp=(pp.Decode(), pp.Resize(448)))
  named = r"(?s)train\.pp\[1\]\.size: 224 -> 448.*--allow_data_change"
  with pytest.raises(errors.ConfigError, match=named):
    _start(workdir, changed, ROWS)
  assert len(_start(workdir, changed, ROWS, allow=True, step=10).changes) == 1
  # What was allowed is from now on the data of the run, and stays recorded.
  assert len(_start(workdir, changed, ROWS, step=12).changes) == 1
  (change,) = json.loads(workdir.data.read_text())["changes"]
  assert change == {"step": 10, "what": ["train.pp[1].size: 224 -> 448"]}


def test_the_same_rows_under_another_path_go_on(workdir, tmp_path, caplog):
  line = '{"suffix": "a"}\n'
  for name, text in (("a", line), ("b", line), ("c", line.upper())):
    (tmp_path / name).mkdir()
    (tmp_path / name / "train.jsonl").write_text(text)
  source = lambda name: sources.Jsonl(str(tmp_path / name / "train.jsonl"))  # noqa: E731
  _start(workdir, _config(source=source("a")), source("a").open())
  _save_a_step(workdir)
  with caplog.at_level(logging.WARNING):
    _start(workdir, _config(source=source("b")), source("b").open())
  assert "train.source.path" in caplog.text
  with pytest.raises(errors.ConfigError, match=r"row 0 \(.*c/train\.jsonl:1\) differs"):
    _start(workdir, _config(source=source("c")), source("c").open())
  columns = _config(source=source("a").replace(columns=("suffix",)))
  with pytest.raises(errors.ConfigError, match=r"train\.source\.columns"):
    _start(workdir, columns, source("a").open())


@pytest.mark.parametrize(
  "names, named",
  [
    ("abXde", r"row 2 differs"),
    ("aXcYe", r"row 1 and 1 other differ"),
    ("abcdefg", r"2 rows were added at the end, from row 5 on.*'20 steps' is now 25 steps"),
    ("abXYcde", r"2 rows were added, from row 2 on"),
    ("abe", r"2 rows were taken out, where now row 2 stands"),
    ("abc", r"2 rows were taken out at the end: there were 5"),
    ("abdce", r"the rows stand in another order, from row 2 on"),
    ("Xbcdef", r"row 0 differs; there were 5 rows, there are 6"),
  ],
)
def test_changed_rows_are_refused_and_the_first_is_named(workdir, names, named):
  _start(workdir, _config(), ROWS)
  _save_a_step(workdir)
  with pytest.raises(errors.ConfigError, match=rf"(?s){named}.*--allow_data_change"):
    _start(workdir, _config(), _rows(*names), 25)
  data = _start(workdir, _config(), _rows(*names), 25, allow=True, step=10)
  assert len(data.changes) == 1
  assert len(_start(workdir, _config(), _rows(*names), 25).changes) == 1


def test_a_run_can_be_made_longer_and_says_what_becomes_of_its_schedule(workdir):
  _start(workdir, _config(), ROWS)
  _save_a_step(workdir, 20)
  longer = _config()
  longer.train.total = "40 steps"
  data = _start(workdir, longer, ROWS, 40, step=20)
  told = resume.new_length(longer, data, step=20, path="runs/first")
  assert "40 steps instead of 20" in told
  assert "(cosine)" in told
  assert "after step 20 the learning rate is 0.000541 instead of 0" in told
  assert "init=runs/first" in told
  again = _start(workdir, longer, ROWS, 40)
  assert resume.new_length(longer, again, step=25, path="runs/first") == ""
  with pytest.raises(errors.ConfigError, match=r"is 20 steps.*started for 40.*longer, not shorter"):
    _start(workdir, _config(), ROWS, 20)


def test_a_damaged_record_of_the_data_is_a_sentence(workdir):
  _start(workdir, _config(), ROWS)
  _save_a_step(workdir)
  for text in ("{", "[]", '{"rows": 3}', '{"num_rows": "x"}', '{"changes": [1]}'):
    workdir.data.write_text(text)
    with pytest.raises(errors.ConfigError, match="is damaged"):
      _start(workdir, _config(), ROWS)


def test_without_digests_it_is_still_known_that_rows_differ(workdir):
  _start(workdir, _config(), ROWS)
  _save_a_step(workdir)
  workdir.rows.write_bytes(b"x")
  with pytest.raises(errors.ConfigError, match=r"rows: 'memory:5:.*' -> 'memory:5:"):
    _start(workdir, _config(), _rows(*"abXde"))


def test_other_processes_write_nothing(workdir):
  _start(workdir, _config(), ROWS, main=False)
  assert not list(workdir.path.iterdir())
