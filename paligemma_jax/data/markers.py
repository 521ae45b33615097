"""Markers that texts written for other programs carry: here they are ordinary characters.

Transformers puts `<image>` where the image tokens go, and may want `<bos>` and a line break after
the prompt. Here BOS, the separator and EOS are added to every text; the image comes by itself.
"""

from __future__ import annotations

MARKERS = ("<image>", "<bos>", "<eos>", "<pad>")


def notes(prefix: str, suffix: str = "") -> tuple[str, ...]:
  """What is to be noted of a row with these texts, as `trainer.row_counts` explains it."""
  found = []
  if any(marker in text for text in (prefix, suffix) if "<" in text for marker in MARKERS):
    found.append("marker_in_text")
  if prefix.endswith("\n") or suffix.endswith("\n"):
    found.append("newline_at_end")
  return tuple(found)


def warning(prompt: str) -> str:
  """One sentence on a prompt that holds markers or ends in a line break; '' where it does not."""
  inside = [marker for marker in MARKERS if marker in prompt]
  if inside:
    return (
      f"the prompt {prompt[:60]!r} holds {' and '.join(inside)}, which is no marker here but"
      " ordinary text: BOS, the image and the line break after the prompt are added anyway"
    )
  if prompt.endswith("\n"):
    return (
      f"the prompt {prompt[:60]!r} ends in a line break (newline), and the model gets another one"
      " after it"
    )
  return ""
