"""The folder of compiled programs: a run is faster with it and never ends because of it."""

from __future__ import annotations

import os
import pathlib
import tempfile
import warnings
from typing import Any

import jax
from absl import logging

_VARIABLE = "JAX_COMPILATION_CACHE_DIR"
_HOW = f"set {_VARIABLE} to a folder that can be written"


def use() -> None:
  """Turns the cache on where there is a folder for it; what is wrong with it is said once."""
  # Programs that compile in less are not worth a file.
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
  show = warnings.showwarning
  said = False

  def show_once(message: Any, *args: Any, **kwargs: Any) -> None:
    """JAX warns of every program that it cannot read or write; we of the first."""
    nonlocal said
    if "persistent compilation cache" not in str(message):
      show(message, *args, **kwargs)
    elif not said:
      said = True
      logging.warning("%s", _shortened(str(message)))

  warnings.showwarning = show_once
  folder = os.environ.get(_VARIABLE) or _default()
  if not folder:
    logging.warning(
        "compiled programs are not kept: there is no home folder (HOME is not set); %s", _HOW
    )
    return
  jax.config.update("jax_compilation_cache_dir", folder)
  if "://" in folder:
    return
  try:
    path = pathlib.Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path, prefix=".writable.")
    try:
      os.write(descriptor, b"x")
    finally:
      os.close(descriptor)
      os.unlink(name)
  except OSError as e:
    said = True
    logging.warning("compiled programs are not kept in %s: %s; %s", folder, e.strerror or e, _HOW)
    if not path.is_dir():
      jax.config.update("jax_enable_compilation_cache", False)


def _default() -> str:
  """The folder in the user's cache folder; '' when there is none."""
  try:
    home = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
  except RuntimeError:
    return ""
  return str(home / "paligemma_jax" / "jax")


def _shortened(said: str) -> str:
  return f"compiled programs are not kept, or not found again: {' '.join(said.split())[:300]}"
