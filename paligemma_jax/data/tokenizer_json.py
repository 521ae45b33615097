"""tokenizer.json, Hugging Face's form of a tokenizer, to and from a sentencepiece model file.

Both hold a byte-pair model. A sentencepiece file has a score for each piece, tokenizer.json has a
list of merges, the first of which comes first; so a piece's score is the place of its first merge,
and the merges of a piece are all pairs of pieces that make it, the pieces in the order of their
scores. What sentencepiece calls user-defined (newlines, blanks, <loc…>, <seg…>) are added tokens:
found before anything is merged, the longest first.

Of one text both give the same ids, but for the texts of control tokens: sentencepiece reads "<eos>"
as letters, tokenizer.json as the token.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from paligemma_jax.core import errors
from paligemma_jax.core import strict_json
from paligemma_jax.data import sentencepiece_file

IMAGE = "<image>"
_CONTROL = ("<pad>", "<eos>", "<bos>", "<unk>")  # In the order of their ids.
_BLANK = "▁"
_FILLER = "<no token {}>"  # Of ids that the model has and the tokenizer has not.
_UNMERGED = -1e9  # The score of pieces that no merge makes; it is never looked at.
_NORMAL, _USER = sentencepiece_file.NORMAL, sentencepiece_file.USER_DEFINED


def to_model(data: bytes, path: str) -> bytes:
  """The sentencepiece file of a tokenizer.json.

  Special tokens at the very end (<image>) are left out: no text holds them.

  Raises:
    ConfigError: no byte-pair tokenizer in the form that Gemma's has.
  """
  try:
    content = strict_json.parse_object(data)
  except strict_json.Malformed as e:
    raise errors.ConfigError(f"{path!r} is no valid JSON object: {e}.") from None
  model = content.get("model")
  wrong = _why_not(content, model) if isinstance(model, dict) else "it has no 'model'"
  if wrong:
    raise errors.ConfigError(
      f"{path!r} holds JSON but is no tokenizer.json of a Gemma tokenizer: {wrong}. Put"
      " tokenizer.model, which comes with the licensed weights, beside it, or set `tokenizer` to"
      " its path."
    )
  by_id = {i: text for text, i in model["vocab"].items()}
  if len(by_id) < len(model["vocab"]):
    text, i = next((text, i) for text, i in model["vocab"].items() if by_id[i] != text)
    raise errors.ConfigError(f"{path!r} gives the id {i} to {text!r} and to {by_id[i]!r}.")
  added = {t["id"]: t for t in content.get("added_tokens") or []}
  by_id |= {i: t["content"] for i, t in added.items()}
  scores = {"".join(_pair(m)): -float(n) for n, m in reversed([*enumerate(model["merges"], 1)])}
  pieces = []
  for i in range(len(by_id)):
    if i not in by_id:
      raise errors.ConfigError(f"{path!r} has {len(by_id)} tokens, but none with the id {i}.")
    pieces.append(_piece(by_id[i], added.get(i), len(model["vocab"]) <= i, scores))
  while pieces and (
    pieces[-1].kind == sentencepiece_file.CONTROL
    or pieces[-1].text == _FILLER.format(len(pieces) - 1)
  ):
    pieces.pop()
  return sentencepiece_file.build(pieces)


def from_model(data: bytes, *, num_ids: int = 0, image_token: int = 0) -> str:
  """The text of the tokenizer.json of a sentencepiece file.

  Args:
    num_ids: ids that the model has; those beyond the tokenizer's get names that no text makes.
    image_token: the id of <image>, at least `num_ids` where the tokenizer has none; 0 for none.

  Raises:
    ConfigError: a model that this form cannot hold exactly.
  """
  model = sentencepiece_file.parse(data)
  if model.algorithm != sentencepiece_file.BPE or not model.is_identity:
    raise errors.ConfigError(
      "The tokenizer is no byte-pair model that reads texts as they are, as Gemma's is, so it has"
      " no exact tokenizer.json."
    )
  if any(p.kind == sentencepiece_file.UNUSED for p in model.pieces):
    raise errors.ConfigError("The tokenizer has unused pieces, so it has no exact tokenizer.json.")
  vocab = {p.text: i for i, p in enumerate(model.pieces)}
  for i in range(len(vocab), max(num_ids, image_token)):
    vocab[_FILLER.format(i)] = i
  content = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": added_tokens(data, image_token),
    "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": _BLANK},
    "pre_tokenizer": {
      "type": "Split",
      "pattern": {"String": " "},
      "behavior": "MergedWithPrevious",
      "invert": False,
    },
    "post_processor": {
      "type": "TemplateProcessing",
      "single": [
        {"SpecialToken": {"id": "<bos>", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
      ],
      "pair": [
        {"SpecialToken": {"id": "<bos>", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": "<bos>", "type_id": 1}},
        {"Sequence": {"id": "B", "type_id": 1}},
      ],
      "special_tokens": {"<bos>": {"id": "<bos>", "ids": [vocab["<bos>"]], "tokens": ["<bos>"]}},
    },
    "decoder": {
      "type": "Sequence",
      "decoders": [
        {"type": "Replace", "pattern": {"String": _BLANK}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
      ],
    },
    "model": {
      "type": "BPE",
      "dropout": None,
      "unk_token": "<unk>",
      "continuing_subword_prefix": None,
      "end_of_word_suffix": None,
      "fuse_unk": True,
      "byte_fallback": True,
      "ignore_merges": False,
      "vocab": vocab,
      "merges": _merges(model),
    },
  }
  return json.dumps(content, ensure_ascii=False)


def added_tokens(data: bytes, image_token: int) -> list[dict[str, Any]]:
  """The tokens of a sentencepiece file, and <image>, that are found before anything is merged.

  With the fields of tokenizer.json, "id" among them, in the order of the ids.
  """
  pieces = sentencepiece_file.parse(data).pieces
  added = [_token(i, p.text, p.kind) for i, p in enumerate(pieces) if p.kind in _ADDED]
  if image_token and all(token["content"] != IMAGE for token in added):
    added.append(_token(image_token, IMAGE, sentencepiece_file.CONTROL))
  return added


_ADDED = (_USER, sentencepiece_file.CONTROL, sentencepiece_file.UNKNOWN)


def _token(i: int, text: str, kind: int) -> dict[str, Any]:
  """An added token. User-defined ones are looked for where blanks are "▁" already."""
  flags = dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
  own = kind == _USER
  return {"id": i, "content": text, **flags, "normalized": own, "special": not own}


def _merges(model: sentencepiece_file.Model) -> list[list[str]]:
  """Every pair of pieces that makes a piece, the best piece first, then the longest left half."""
  scores = {p.text: p.score for p in model.pieces if p.kind == _NORMAL}
  merges = []
  for text, score in scores.items():
    halves = ((text[:cut], text[cut:]) for cut in range(len(text) - 1, 0, -1))
    merges += [(-score, left, right) for left, right in halves if {left, right} <= scores.keys()]
  merges.sort(key=lambda merge: merge[0])  # Stable: pieces of one score keep the order of ids.
  return [[left, right] for _, left, right in merges]


def _piece(
  text: str, added: Mapping[str, Any] | None, behind: bool, scores: Mapping[str, float]
) -> sentencepiece_file.Piece:
  if text in _CONTROL:
    kind = sentencepiece_file.UNKNOWN if text == "<unk>" else sentencepiece_file.CONTROL
    return sentencepiece_file.Piece(text, 0.0, kind)
  if text == IMAGE or (added and behind and added.get("special")):
    return sentencepiece_file.Piece(text, 0.0, sentencepiece_file.CONTROL)
  if added:
    return sentencepiece_file.Piece(text, 0.0, _USER)
  if len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
    return sentencepiece_file.Piece(text, 0.0, sentencepiece_file.BYTE)
  return sentencepiece_file.Piece(text, scores.get(text, _UNMERGED), _NORMAL)


def _pair(merge: Any) -> tuple[str, str]:
  """Both spellings that there are: ["a", "b"] and "a b"."""
  left, right = merge if isinstance(merge, list) else merge.split(" ")
  return left, right


def _why_not(content: Mapping[str, Any], model: Mapping[str, Any]) -> str:
  """Why this is no tokenizer that `to_model` can read, or ''."""
  if model.get("type") != "BPE" or model.get("byte_fallback") is not True:
    return f"its model is {model.get('type')!r}, expected 'BPE' with byte_fallback"
  vocab, merges, added = model.get("vocab"), model.get("merges"), content.get("added_tokens") or []
  ids = vocab.values() if isinstance(vocab, dict) else [None]
  if not all(type(i) is int for i in ids) or not isinstance(merges, list):
    return "its vocabulary or merges have another form"
  for merge in merges:
    pair = merge.split(" ") if isinstance(merge, str) else merge
    if not (isinstance(pair, list) and [*map(type, pair)] == [str, str]):
      return f"{merge!r} is no pair to merge"
  for token in added if isinstance(added, list) else [None]:
    fields = token if isinstance(token, dict) else {}
    if type(fields.get("id")) is not int or type(fields.get("content")) is not str:
      return f"{str(token)[:100]} is no added token"
  normalizer = content.get("normalizer")
  parts = normalizer.get("normalizers") if isinstance(normalizer, dict) else None
  for part in parts if isinstance(parts, list) else [normalizer]:
    fields = part if isinstance(part, dict) else {}
    blank = fields.get("pattern") == {"String": " "} and fields.get("content") == _BLANK
    if fields.get("type") != "Replace" or not blank:
      return f"it changes texts by {str(part)[:100]}, expected blanks to become {_BLANK!r} only"
  return ""
