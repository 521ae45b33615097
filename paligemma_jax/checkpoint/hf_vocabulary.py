"""How many rows of a stored embedding are vocabulary, and which only fill it up.

Released embeddings have 257216 rows for 257152 tokens: the next id stands for image tokens, which
are replaced before they are read, and the rest makes a multiple of 64. All these rows are alike, as
they were drawn around the mean of the others. Whoever adds tokens to such a model may use them
without a resize; then they are vocabulary.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import logging

from paligemma_jax.checkpoint import reader
from paligemma_jax.checkpoint import safetensors
from paligemma_jax.core import errors

IMAGE = "<image>"
RELEASED = 257_152
MULTIPLE = 64
KEY = "_vocab_size"  # Of config.json, as in released files.
_ALIKE = 0.5  # Of the spread of ordinary rows; released rows are within 0.02 of it.
_MAX_JSON_BYTES = 40 << 20  # Gemma's tokenizer.json has 17 to 35 MB.
_MAX_SAMPLE = 4096  # Rows.
_MAX_DIGITS = 19  # Of an id.


def num_rows(num_words: int, image_token: int) -> int:
  """How many rows an export has: at least one for the image's id, which is looked up, then even."""
  needed = max(num_words, image_token + 1)
  return needed if image_token < num_words else -(-needed // MULTIPLE) * MULTIPLE


def num_words(path: pathlib.Path, config: Mapping[str, Any], table: safetensors.Tensor) -> int:
  """How many rows of the stored `table` are vocabulary; a log line says when spare ones are not."""
  rows = table.entry.shape[0]
  words = _without_padding(config, rows)
  if words == rows:
    return rows
  named = {i: t for i, t in added_tokens(path).items() if words <= i < rows and t != IMAGE}
  if named:
    logging.info(
      "%s: keeps all %d rows of the embedding: %r is token %d", path, rows, *_first(named)
    )
    return rows
  if not alike(table, words):
    logging.info(
      "%s: keeps all %d rows of the embedding: those from %d on differ from each other, so they"
      " have been trained",
      path,
      rows,
      words,
    )
    return rows
  logging.info("%s: rows %d to %d only pad the embedding and are left out", path, words, rows - 1)
  return words


def added_tokens(path: pathlib.Path) -> dict[int, str]:
  """{id: text} of the tokens that a directory's tokenizer files name apart from the vocabulary.

  Raises:
    CheckpointError: one of the files is damaged.
  """
  found: dict[int, str] = {}
  if (path / "added_tokens.json").is_file():
    for text, i in reader.read_json(path / "added_tokens.json").items():
      _add(found, i, text, path / "added_tokens.json")
  if (path / "tokenizer_config.json").is_file():
    config = reader.read_json(path / "tokenizer_config.json")
    decoder = config.get("added_tokens_decoder") or {}
    for i, token in decoder.items() if isinstance(decoder, dict) else ():
      text = token.get("content") if isinstance(token, dict) else token
      number = int(i) if i.isdecimal() and len(i) < _MAX_DIGITS else i
      _add(found, number, text, path / "tokenizer_config.json")
  if not found and (path / "tokenizer.json").is_file():
    tokens = reader.read_json(path / "tokenizer.json", max_bytes=_MAX_JSON_BYTES)
    tokens = tokens.get("added_tokens") or []
    for token in tokens if isinstance(tokens, list) else ():
      token = token if isinstance(token, dict) else {}
      _add(found, token.get("id"), token.get("content"), path / "tokenizer.json")
  return found


def _without_padding(config: Mapping[str, Any], rows: int) -> int:
  words = config.get(KEY, RELEASED)
  padded = type(words) is int and words > 0 and rows == num_rows(words, words)
  return words if padded else rows


def alike(table: safetensors.Tensor, words: int) -> bool:
  """Whether the rows from `words` on are as alike as rows that nobody trained."""
  rows = table.entry.shape[0]
  spare = safetensors.rows(table, words, rows).astype(np.float32)
  sample = safetensors.rows(table, 0, min(words, _MAX_SAMPLE)).astype(np.float32)
  spread = np.sqrt(np.mean(np.var(sample, axis=0)))
  off = np.sqrt(np.mean((spare - np.median(spare, axis=0)) ** 2, axis=1))
  return bool(off.max() <= _ALIKE * spread)


def _add(found: dict[int, str], i: Any, text: Any, where: pathlib.Path) -> None:
  if type(i) is not int or not isinstance(text, str) or i < 0:
    raise errors.CheckpointError(
      f"{where}: names the token {str(text)[:60]!r} with the id {str(i)[:60]!r}."
    )
  found[i] = text


def _first(named: Mapping[int, str]) -> tuple[str, int]:
  i = min(named)
  return named[i], i
