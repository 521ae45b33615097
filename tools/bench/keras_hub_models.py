"""Our weights as keras-hub's PaliGemma, on its JAX backend."""

from __future__ import annotations

import json
import os
import pathlib

os.environ["KERAS_BACKEND"] = "jax"  # Read when keras is imported.

import keras
import keras_hub


def load(weights: str, folder: pathlib.Path) -> keras_hub.models.PaliGemmaBackbone:
  """The float32 backbone in a Hugging Face directory.

  keras-hub 0.32 reads the head dim from the number of image tokens, which are the same in
  PaliGemma 3B alone, so it is shown a config that says what it looks for.

  Args:
    weights: the directory.
    folder: an empty one, for that config.
  """
  source = pathlib.Path(weights)
  config = json.loads((source / "config.json").read_text(encoding="utf-8"))
  config["text_config"]["num_image_tokens"] = config["text_config"]["head_dim"]
  (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
  for file in source.glob("model*"):
    (folder / file.name).symlink_to(file)
  return keras_hub.models.PaliGemmaBackbone.from_preset(str(folder), dtype="float32")


def versions() -> dict[str, str]:
  """Of the packages."""
  import jax

  return {"keras_hub": keras_hub.__version__, "keras": keras.__version__, "jax": jax.__version__}
