"""A run is gone on with only when it would still be the run that was started."""

import json

import pytest

from paligemma_jax.core import config as configs
from paligemma_jax.core import errors
from paligemma_jax.running import guard
from paligemma_jax.running import workdir as workdirs

DATA = {"rows": "jsonl:3 rows:0000aaaa", "ops": "[]"}


@pytest.fixture
def workdir(tmp_path):
  return workdirs.Workdir(tmp_path)


def test_a_new_run_writes_its_configuration_and_data(workdir):
  config = configs.default_config()
  guard.check_config(config, workdir, main=True)
  guard.check_data(DATA, workdir, allow=False, main=True)
  assert configs.changes(configs.read(workdir.config), config) == dict(refuse=[], warn=[], allow=[])
  assert json.loads(workdir.data.read_text()) == DATA


@pytest.mark.parametrize(
    ("section", "key", "value", "refused"),
    [
        ("train", "batch_size", 16, True),
        ("model", "res", 224, True),
        ("optim", "lr", 1e-3, False),
        ("log", "every", "7 steps", False),
    ],
)
def test_what_the_rest_of_a_run_cannot_change_is_refused(workdir, section, key, value, refused):
  config = configs.default_config()
  guard.check_config(config, workdir, main=True)
  config[section][key] = value
  if refused:
    with pytest.raises(errors.ConfigError, match=rf"{section}\.{key}: .* -> {value}.*--workdir"):
      guard.check_config(config, workdir, main=True)
  else:
    guard.check_config(config, workdir, main=True)
    assert configs.read(workdir.config)[section][key] == value


def test_changed_rows_are_refused_unless_allowed(workdir):
  guard.check_data(DATA, workdir, allow=False, main=True)
  changed = {**DATA, "rows": "jsonl:4 rows:0000bbbb"}
  with pytest.raises(errors.ConfigError, match=r"(?s)rows: was .*aaaa.*bbbb.*--allow_data_change"):
    guard.check_data(changed, workdir, allow=False, main=True)
  guard.check_data(changed, workdir, allow=True, main=True)
  # What was allowed is from now on the data of the run.
  guard.check_data(changed, workdir, allow=False, main=True)


def test_other_processes_write_nothing(workdir):
  guard.check_config(configs.default_config(), workdir, main=False)
  guard.check_data(DATA, workdir, allow=False, main=False)
  assert not list(workdir.path.iterdir())
