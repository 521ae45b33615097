"""The published checkpoint of a variant at a resolution."""

from __future__ import annotations

from paligemma_jax.core import errors

_PREFIXES = {
    "paligemma_3b": "pt",
    "paligemma2_3b": "pt_3b",
    "paligemma2_10b": "pt_10b",
    "paligemma2_28b": "pt_28b",
    "tiny": "",
}


def pretrained(model: str, res: int) -> str:
  """The name for `init` of the pretrained checkpoint: pretrained("paligemma2_3b", 448) is
  "pt_3b_448". Of "tiny", which has none at these resolutions, it is "": random weights.

  Raises:
    ConfigError: an unknown variant, or a resolution that was not published.
  """
  prefix = errors.pick(_PREFIXES, model, "model")
  if prefix and res not in (224, 448, 896):
    raise errors.ConfigError(f"There is no pretrained {model} at {res} px; take 224, 448 or 896.")
  return f"{prefix}_{res}" if prefix else ""
