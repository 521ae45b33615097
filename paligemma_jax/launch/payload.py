"""What is copied to the hosts of a slice: the package, and the config files of a command."""

from __future__ import annotations

import importlib.metadata
import io
import json
import os
import pathlib
import subprocess
import tarfile
import urllib.parse
from collections.abc import Sequence

from paligemma_jax.core import errors

EXTRAS = "paligemma-jax[tpu,gs]"
_ROOT = pathlib.Path(__file__).resolve().parents[2]


def this_package() -> str:
  """What pip installs on another machine to get the package as it is here, or its folder."""
  try:
    found = importlib.metadata.distribution("paligemma-jax")
    origin = json.loads(found.read_text("direct_url.json") or "{}")
  except importlib.metadata.PackageNotFoundError:
    return str(_ROOT)
  if "vcs_info" in origin:
    about = origin["vcs_info"]
    return f"{EXTRAS} @ {about['vcs']}+{origin['url']}@{about['commit_id']}"
  if "dir_info" in origin:
    return urllib.parse.unquote(urllib.parse.urlsplit(origin["url"]).path)
  return f"{EXTRAS}=={found.version}"


def source(root: pathlib.Path) -> bytes:
  """An archive of a clone's files, those that git ignores left out."""
  command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
  done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
  if done.returncode:
    raise errors.ConfigError(
      f"--package {root}: git does not list its files ({done.stderr.strip()[:200]}); give a clone,"
      f" or '{EXTRAS} @ git+URL'."
    )
  skipped = ("tests/", "docs/")
  names = [n for n in done.stdout.split("\0") if n and not n.startswith(skipped)]
  return archive(root, [name for name in names if (root / name).is_file()])


def archive(root: pathlib.Path, names: Sequence[str]) -> bytes:
  """A .tar.gz of files below a folder."""
  data = io.BytesIO()
  with tarfile.open(fileobj=data, mode="w:gz") as packed:
    for name in names:
      packed.add(root / name, name)
  return data.getvalue()


def files_of(rest: Sequence[str]) -> list[str]:
  """Config files of this folder that the arguments name."""
  words = [word.partition("=")[2] if word.startswith("--") else word for word in rest]
  found = [p for w in words if (p := w.partition(":")[0]).endswith(".py") and os.path.isfile(p)]
  for path in found:
    if os.path.isabs(path) or os.path.normpath(path).startswith(".."):
      raise errors.ConfigError(f"{path}: give a config file of this folder, by its relative path.")
  return found
