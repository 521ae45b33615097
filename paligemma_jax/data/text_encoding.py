"""Prefix and suffix to the inputs of the model: token ids and masks of fixed length.

    train    bos prefix sep | suffix eos | pad      L + 1 long: the loss is on the next token
    decode   bos prefix sep | pad                   L long: the model goes on from the separator

Prefix, separator (a newline) and suffix are tokenized one by one, as in the reference, so a prompt
has the same ids in training and in decoding. Where the text does not fit, `overflow` decides:
"error" raises, "truncate" cuts the text and keeps EOS (decoding: the separator), "drop" leaves the
row out, and "cut" cuts the end, EOS included, as in the reference.

A suffix is a text, or pieces (text, supervised) of one; all of them are input, and those that are
supervised are targets.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from paligemma_jax.core import errors
from paligemma_jax.data import tokenizer as tokenizer_lib

OVERFLOW = ("error", "truncate", "cut", "drop")

Suffix = str | Sequence[tuple[str, bool]]

# The value after the end of the text, and the dtype.
PADDING = {
  "text": (0, np.int32),
  "mask_ar": (1, np.int32),
  "mask_loss": (0, np.float32),
  "mask_input": (0, np.int32),
}


def prefix_ids(tokenizer: tokenizer_lib.Tokenizer, prefix: str) -> list[int]:
  """The ids of a prompt: BOS, the prefix, the separator."""
  return [tokenizer.bos_id, *tokenizer.encode(prefix), *tokenizer.separator_ids]


def answer_of(tokenizer: tokenizer_lib.Tokenizer, suffix: Suffix) -> tuple[list[int], list[int]]:
  """The ids of an answer, EOS included, and 1 for each that is supervised, as EOS always is."""
  ids, supervised = [], []
  for text, learned in [(suffix, True)] if isinstance(suffix, str) else suffix:
    piece = tokenizer.encode(text)
    ids += piece
    supervised += [int(learned)] * len(piece)
  return [*ids, tokenizer.eos_id], [*supervised, 1]


def lay_out_train(
  question: list[int], answer: list[int], supervised: list[int], *, text_len: int, overflow: str
) -> dict[str, np.ndarray] | None:
  """One training example, of `prefix_ids` and `answer_of`.

  None when the text is too long and `overflow` is 'drop'.

  Returns:
    text: int32[L+1], padded with 0.
    mask_ar: int32[L+1]: 0 on the prompt, 1 on the answer and the padding.
    mask_loss: float32[L+1]: 1 on suffix (its supervised pieces) and EOS.

  Raises:
    DataError: the text is too long and `overflow` is 'error'.
  """
  if len(question) + len(answer) > text_len + 1:
    if _drops(overflow, len(question) + len(answer), text_len + 1):
      return None
    if overflow == "cut":
      question = question[: text_len + 1]
      room = text_len + 1 - len(question)
      answer, supervised = answer[:room], supervised[:room]
    else:
      question = question[:text_len]
      room = text_len - len(question)
      answer, supervised = [*answer[:room], answer[-1]], [*supervised[:room], supervised[-1]]
  unlearned = [0] * len(question)
  return _padded(
    text_len + 1,
    text=question + answer,
    mask_ar=unlearned + [1] * len(answer),
    mask_loss=unlearned + supervised,
  )


def lay_out_prompt(
  question: list[int], begun: list[int], *, text_len: int, overflow: str
) -> dict[str, np.ndarray] | None:
  """One prompt to decode from; None when it is too long and `overflow` is 'drop'.

  Args:
    question: of `prefix_ids`; it ends in the separator, one token.
    begun: the start of an answer that the model is to continue; usually [].

  Returns:
    text: int32[L], padded with 0.
    mask_ar: int32[L]: 0 on the prompt, 1 on a begun answer and the padding.
    mask_input: int32[L]: 1 on tokens, 0 on padding.

  Raises:
    DataError: the prompt is too long and `overflow` is 'error'.
  """
  if len(question) + len(begun) > text_len:
    if _drops(overflow, len(question) + len(begun), text_len):
      return None
    if overflow == "cut":
      question = question[:text_len]
    else:
      question = [*question[:-1][: text_len - 1], question[-1]]
    begun = begun[: text_len - len(question)]
  return _padded(
    text_len,
    text=question + begun,
    mask_ar=[0] * len(question) + [1] * len(begun),
    mask_input=[1] * (len(question) + len(begun)),
  )


def num_tokens(example: dict[str, np.ndarray]) -> int:
  """The length of the text in an encoded example, without padding (both encodings)."""
  # A training text ends in EOS, which is supervised, or was cut: to full length, or in the prompt,
  # which is not supervised.
  mask = example["mask_input" if "mask_input" in example else "mask_loss"]
  used = np.flatnonzero(mask)
  return int(used[-1]) + 1 if used.size else 0


def arrays_of(encoding: str) -> tuple[tuple[str, ...], int]:
  """The names of an encoding's arrays, and how much longer than `text_len` they are."""
  return errors.pick(_ENCODINGS, encoding, "encoding")


_ENCODINGS = {
  "train": (("text", "mask_ar", "mask_loss"), 1),
  "decode": (("text", "mask_ar", "mask_input"), 0),
}


def _padded(length: int, **arrays: list[int]) -> dict[str, np.ndarray]:
  out = {name: np.full(length, *PADDING[name]) for name in arrays}
  for name, values in arrays.items():
    out[name][: len(values)] = values
  return out


def _drops(overflow: str, found: int, room: int) -> bool:
  """Whether to drop a text that is too long; it is cut otherwise."""
  if overflow not in OVERFLOW:
    hint = errors.did_you_mean(overflow, OVERFLOW)
    raise errors.ConfigError(f"Unknown overflow {overflow!r}.{hint}")
  if overflow == "error":
    raise errors.DataError(
      f"The text has {found} tokens but there is room for {room}; raise text_len by"
      f" {found - room}, or set overflow to 'truncate', 'cut' or 'drop'."
    )
  return overflow == "drop"


MARKERS = ("<image>", "<bos>", "<eos>", "<pad>")


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
