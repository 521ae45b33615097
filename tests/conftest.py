"""What all tests share: how XLA compiles, and one finished run of configs/tiny.py.

Nearly all of the suite's time would go into compiling small models for speed that they have no use
for. At XLA's lowest level, by its older emitters, they compile in a fifth of the time. With
PALIGEMMA_JAX_TEST_AS_USED=1 the suite compiles as users do; a test marked `as_used` always does.
"""

import contextlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile

import pytest

from tests import bucket_client
from tests import run_train

_QUICK = "--xla_backend_optimization_level=0"
if importlib.metadata.version("jaxlib").startswith("0.10."):  # Later ones have no older emitters.
  _QUICK += " --xla_cpu_use_fusion_emitters=false"
_AS_USED = "PALIGEMMA_JAX_TEST_AS_USED"
# A worker of xdist inherits what was set here for the process that started it.
_flags = os.environ.get("XLA_FLAGS", "").replace(_QUICK, "").strip()
if not os.environ.get(_AS_USED):  # Before anything imports JAX.
  os.environ["XLA_FLAGS"] = f"{_flags} {_QUICK}".strip()

# All processes of one run of the suite share what they compile.
_CACHE = "JAX_COMPILATION_CACHE_DIR"
_made = "" if os.environ.get(_CACHE) else tempfile.mkdtemp(prefix="paligemma_jax_tests_")
if _made:
  os.environ |= {_CACHE: _made, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3"}

TINY = "configs/tiny.py"


def pytest_unconfigure():
  if _made:
    shutil.rmtree(_made, ignore_errors=True)


def pytest_pyfunc_call(pyfuncitem):
  """A test marked `as_used` runs in a process that compiles as users do."""
  if os.environ.get(_AS_USED) or pyfuncitem.get_closest_marker("as_used") is None:
    return None
  done = subprocess.run(
    [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", "0", pyfuncitem.nodeid],
    cwd=pyfuncitem.config.rootpath,
    env={**os.environ, "XLA_FLAGS": _flags, _AS_USED: "1"},
    text=True,
    capture_output=True,
    check=False,
  )
  if done.returncode:
    pytest.fail(done.stdout + done.stderr, pytrace=False)
  return True


@pytest.fixture(params=["accelerator", "one_cpu"])
def way(request, monkeypatch):
  """Tests with it run twice: the model as an accelerator runs it, and with all of models/cpu.py."""
  from paligemma_jax.models import cpu  # Loads JAX, for which XLA_FLAGS must be set.

  monkeypatch.setattr(cpu, "_ROWS_FROM", 0)
  with cpu.off() if request.param == "accelerator" else contextlib.nullcontext():
    yield request.param


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
  """The workdir of an undisturbed run; tests only read it."""
  workdir = tmp_path_factory.mktemp("runs") / "finished"
  done = run_train.run(TINY, workdir)
  assert done.returncode == 0, done.stderr
  return workdir


@pytest.fixture(scope="session")
def gcs_server():
  if importlib.util.find_spec("gcsfs") is None:
    pytest.skip("the package gcsfs is not installed")
  with bucket_client.running() as client:
    yield client


@pytest.fixture
def gcs(gcs_server):
  """A bucket store of this machine that fails as it is told to; it begins without faults."""
  gcs_server.plan()
  yield gcs_server
  gcs_server.plan()
