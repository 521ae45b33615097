"""What a command says when JAX has no device, or no folder for compiled programs."""

import os
import pathlib
import subprocess
import sys

import jax
import pytest

from paligemma_jax.core import errors
from paligemma_jax.trainer import devices
from tests import run_train
from tests import small_disk

_START = """
import sys
from paligemma_jax.core import errors
from paligemma_jax.trainer import devices
def main():
  devices.start()
  import jax
  import jax.numpy as jnp
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
  for i in range(1, 4):
    jax.jit(lambda x: jnp.tanh(x + i))(jnp.zeros(i)).block_until_ready()
errors.run_main(main)
"""


def _start(wrap=(), **env):
  env = {**os.environ, "JAX_PLATFORMS": "cpu", **env}  # The library of TPUs has remarks of its own.
  return subprocess.run(
    [*wrap, sys.executable, "-c", _START],
    cwd=run_train.ROOT,
    text=True,
    capture_output=True,
    env={k: v for k, v in env.items() if v is not None},
    timeout=120,
    check=False,
  )


@pytest.mark.parametrize(
  "platform, told",
  [
    ("cuda", "pip install 'jax[cuda12]'"),
    ("cuda,cpu", "pip install 'jax[cuda12]'"),
    ("tpu", "pip install 'jax[tpu]'"),
    ("cdua", "Did you mean 'cuda'"),
  ],
)
def test_a_platform_that_is_not_here_is_one_sentence_at_the_start(platform, told):
  done = _start(JAX_PLATFORMS=platform, TPU_SKIP_MDS_QUERY="1")
  if done.returncode == 0:
    pytest.skip(f"there is such a device here, or JAX takes another: {platform}")
  assert done.returncode == 78 and "Traceback" not in done.stderr
  assert f"error: JAX_PLATFORMS={platform!r} asks for a device" in done.stderr
  assert told in done.stderr


def test_a_cache_folder_that_cannot_be_used_is_said_once_and_ends_nothing(tmp_path):
  (tmp_path / "file").write_text("")
  for folder in (tmp_path / "file", tmp_path / "file" / "below"):
    done = _start(JAX_COMPILATION_CACHE_DIR=str(folder))
    assert done.returncode == 0
    assert done.stderr.count("compiled programs are not kept") == 1, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr


def test_a_full_cache_disk_is_said_once_and_ends_nothing(tmp_path):
  with small_disk.mounted(tmp_path / "cache", size="16k") as disk:
    done = _start(JAX_COMPILATION_CACHE_DIR=str(disk))
  assert done.returncode == 0
  assert done.stderr.count("compiled programs are not kept") == 1, done.stderr
  assert len(done.stderr.splitlines()) == 1, done.stderr


def test_without_a_home_folder_nothing_is_cached():
  if os.getuid() or pathlib.Path("/usr/bin/setpriv").exists() is False:
    pytest.skip("only root can become a user without a home")
  done = _start(
    ["setpriv", "--reuid=54321", "--clear-groups"],
    HOME=None,
    XDG_CACHE_HOME=None,
    JAX_COMPILATION_CACHE_DIR=None,
    PYTHONDONTWRITEBYTECODE="1",
  )
  unreadable = ("Permission denied", "can't open", "cannot open shared object file")
  if any(words in done.stderr for words in unreadable):
    pytest.skip("another user cannot read this clone or its Python")
  assert done.returncode == 0, done.stderr
  assert "compiled programs are not kept: there is no home folder" in done.stderr


@pytest.mark.parametrize(
  "name, text, by_itself, at_most",
  [
    ("XLA_CLIENT_MEM_FRACTION", "", 750, 900),
    ("XLA_CLIENT_MEM_FRACTION", ".5", 500, 900),
    ("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.95", 950, 950),
  ],
)
def test_jax_takes_a_share_of_a_card(name, text, by_itself, at_most, monkeypatch):
  for known in devices._SHARE_VARIABLES:
    monkeypatch.delenv(known, raising=False)
  monkeypatch.setenv(name, text)
  assert devices.shares(1000) == (by_itself, at_most)
  assert devices.larger_share() == f"export {name}=0.9"  # JAX refuses to see two names for it.


def test_a_share_that_is_none_is_an_error(monkeypatch):
  monkeypatch.setenv("XLA_CLIENT_MEM_FRACTION", "90%")
  with pytest.raises(errors.ConfigError, match="XLA_CLIENT_MEM_FRACTION='90%' is no share"):
    devices.shares(1000)


class _Card:
  """A GPU of 1000 bytes, of which JAX took its share."""

  platform = "gpu"

  def memory_stats(self):
    return {"bytes_limit": devices.shares(1000)[0]}


@pytest.mark.parametrize("share, told", [("", True), ("0.9", False)])
def test_a_card_that_is_full_may_give_more(share, told, monkeypatch):
  monkeypatch.setenv("XLA_CLIENT_MEM_FRACTION", share)
  monkeypatch.setattr(jax, "local_devices", lambda: [_Card()])
  with pytest.raises(errors.OutOfMemoryError) as raised:
    with devices.explained(lambda: ["a smaller batch"]):
      raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 2048 bytes.")
  helps = "`export XLA_CLIENT_MEM_FRACTION=0.9`; a smaller batch" if told else "a smaller batch"
  assert f"What helps, the cheapest first: {helps}." in str(raised.value)


def test_a_cpu_has_no_share(monkeypatch):
  device = jax.devices("cpu")[0]
  assert devices.share_of(device) == (devices.of_device(device),) * 2


def test_a_device_that_is_taken_is_one_sentence_without_the_variable_too(monkeypatch):
  def taken():
    raise RuntimeError("Unable to initialize backend 'tpu': the TPU is in use by another process")

  monkeypatch.delenv("JAX_PLATFORMS", raising=False)
  monkeypatch.setattr(jax, "devices", taken)
  with pytest.raises(errors.ConfigError, match="the TPU is in use by another process"):
    devices.check()
