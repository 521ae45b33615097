"""What the batches of a run depend on, in a few words each, so that a change is seen and named."""

from __future__ import annotations

import json
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import PIL
from PIL import features

from paligemma_jax.core import errors
from paligemma_jax.core import spec as spec_lib
from paligemma_jax.data import tokenizer as tokenizer_lib


def fingerprint(
    rows: Any, ops: Sequence[Any], tokenizer: tokenizer_lib.Tokenizer, **settings: Any
) -> dict[str, str]:
  """{what: short text}; equal texts give equal batches, image files aside, which are not read.

  Args:
    rows: the source's rows; their `fingerprint()` is of the content.
    settings: whatever else decides, as batch_size, seed, text_len.
  """
  parts = {
      "rows": rows.fingerprint(),
      "ops": json.dumps(spec_lib.to_json(tuple(ops)), sort_keys=True),
      "tokenizer": tokenizer.fingerprint,
      "image decoder": f"Pillow {PIL.__version__}, jpeg {_jpeg_version()}",
  }
  return parts | {name: json.dumps(spec_lib.to_json(value)) for name, value in settings.items()}


def check_same(before: Mapping[str, str], now: Mapping[str, str]) -> None:
  """Raises a ConfigError that names everything that differs from `before`."""
  changes = [
      f"  {name}: was {before.get(name, '(absent)')}, is {now.get(name, '(absent)')}"
      for name in sorted({*before, *now})
      if before.get(name) != now.get(name)
  ]
  if changes:
    listed = "\n".join(changes)
    raise errors.ConfigError(
        "The data is not what this run began with; use another workdir, or allow the change:\n"
        f"{listed}"
    )


def _jpeg_version() -> str:
  turbo = features.version_feature("libjpeg_turbo")
  return f"turbo {turbo}" if turbo else str(features.version_codec("jpg"))
