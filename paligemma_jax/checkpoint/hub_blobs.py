"""Large files of the Hugging Face hub into its cache, so that a broken-off download goes on.

`huggingface_hub` 2.4 throws away what it has of a file when a download is broken off, and it reads
several files at a time, so that may be most of a model. So the weights are downloaded here, one
after the other, through its client, and `snapshot_download` finds them in the cache afterwards.
"""

from __future__ import annotations

import hashlib
import pathlib
import re
from typing import Any

from absl import logging

from paligemma_jax.core import errors

_LARGE = (".safetensors", ".npz")
_SHA256 = re.compile(r"[0-9a-f]{64}")  # The name of a large file's content, by which it is checked.
_MB = 1 << 20


def fetch(repo: str, revision: str, cache: pathlib.Path) -> None:
  """Brings the weights of a revision into the cache's blobs; what is whole there stays.

  Raises:
    CheckpointError: a file is not what its name says; it is removed.
    Exception: the package's own errors, and those of the network below it.
  """
  import huggingface_hub

  info = huggingface_hub.HfApi().model_info(repo, revision=revision)
  folder = "models--" + repo.replace("/", "--")
  for name in sorted(sibling.rfilename for sibling in info.siblings or ()):
    if name.endswith(_LARGE):
      url = huggingface_hub.hf_hub_url(repo, name, revision=info.sha)
      found = huggingface_hub.get_hf_file_metadata(url)
      if found.size and _SHA256.fullmatch(found.etag or ""):
        _fetch(url, found, f"{repo}/{name}", cache / folder, cache / ".locks" / folder)


def _fetch(url: str, found: Any, what: str, folder: pathlib.Path, locks: pathlib.Path) -> None:
  """One file, under the lock that the hub's tools take for it."""
  from huggingface_hub import file_download
  from huggingface_hub import utils

  blob = folder / "blobs" / found.etag
  partial = blob.with_name(f"{blob.name}.incomplete")
  for place in (blob.parent, locks):
    place.mkdir(parents=True, exist_ok=True)
  with utils.WeakFileLock(locks / f"{blob.name}.lock"):
    if blob.exists():
      return
    with open(partial, "ab") as file:
      if (start := file.tell()) > found.size:
        start = file.seek(0)
        file.truncate()
      if start:
        logging.warning("%s: goes on at %d of %d MB", what, start // _MB, found.size // _MB)
      if start < found.size:
        headers = {**utils.build_hf_headers(), "Accept-Encoding": "identity"}
        file_download.http_get(
          url, file, resume_size=start, headers=headers, expected_size=found.size
        )
    with open(partial, "rb") as file:
      digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != blob.name:
      partial.unlink()
      raise errors.CheckpointError(
        f"{what} was damaged on the way, by its SHA-256, and is removed: run the same command"
        " again."
      )
    partial.replace(blob)
