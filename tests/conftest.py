"""What several tests share: one finished run of configs/tiny.py."""

import pytest

from tests import run_train

TINY = "configs/tiny.py"


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
  """The workdir of an undisturbed run; tests only read it."""
  workdir = tmp_path_factory.mktemp("runs") / "finished"
  done = run_train.run(TINY, workdir)
  assert done.returncode == 0, done.stderr
  return workdir
