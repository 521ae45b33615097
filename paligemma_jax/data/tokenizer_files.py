"""Tokenizer files as others wrote them: sentencepiece models and Hugging Face's tokenizer.json."""

from __future__ import annotations

import json
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from paligemma_jax.core import errors
from paligemma_jax.core import strict_json

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
UNIGRAM, BPE = 1, 2

_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3  # Fields of ModelProto.
_PIECES_TAG = b"\x0a"  # Field 1 of ModelProto, length-delimited; also field 1 of SentencePiece.
_MODEL_TYPE = 3  # Of the trainer's settings.
_CHARSMAP, _DUMMY_PREFIX, _EXTRA_BLANKS, _ESCAPE = 2, 3, 4, 5  # Of the normalizer's settings.


class Piece(NamedTuple):
  """One entry of the vocabulary."""

  text: str
  score: float
  kind: int


class Model(NamedTuple):
  """What a model file says.

  pieces: in the order of their ids.
  algorithm: UNIGRAM, BPE, or another number.
  is_identity: texts are read as they are, but for "▁" in place of blanks.
  """

  pieces: tuple[Piece, ...]
  algorithm: int
  is_identity: bool


def parse(data: bytes) -> Model:
  """The model in a file's bytes.

  Raises:
    LookupError, ValueError: the bytes are no such file.
  """
  pieces, algorithm = [], UNIGRAM
  normalizer = {_CHARSMAP: b"", _DUMMY_PREFIX: 1, _EXTRA_BLANKS: 1, _ESCAPE: 1}
  for number, value in _fields(data):
    if number == _PIECES:
      fields: dict[int, Any] = {1: b"", 2: 0.0, 3: NORMAL, **dict(_fields(value))}
      pieces.append(Piece(fields[1].decode(), fields[2], fields[3]))
    elif number == _TRAINER:
      algorithm = dict(_fields(value)).get(_MODEL_TYPE, algorithm)
    elif number == _NORMALIZER:
      normalizer |= dict(_fields(value))
  identity = {_CHARSMAP: b"", _DUMMY_PREFIX: 0, _EXTRA_BLANKS: 0, _ESCAPE: 1}
  return Model(tuple(pieces), algorithm, normalizer.items() >= identity.items())


def build(pieces: Iterable[Piece]) -> bytes:
  """The file of a byte-pair model with byte fallback that reads texts as they are."""
  trainer = _field(_MODEL_TYPE, BPE) + _field(35, 1)
  for number, token in ((40, 3), (41, 2), (42, 1), (43, 0)):  # unk, bos, eos, pad.
    trainer += _field(number, token)
  for number, text in ((45, "<unk>"), (46, "<bos>"), (47, "<eos>"), (48, "<pad>")):
    trainer += _field(number, text.encode())
  normalizer = _field(1, b"identity") + _field(_DUMMY_PREFIX, 0) + _field(_EXTRA_BLANKS, 0)
  body = b"".join(piece_field(p.text, score=p.score, kind=p.kind) for p in pieces)
  return body + _field(_TRAINER, trainer) + _field(_NORMALIZER, normalizer)


def redeclared(data: bytes, known: Collection[str]) -> bytes:
  """The model with the pieces of these texts replaced, in place, by user-defined ones."""
  wanted = {piece.encode(): piece for piece in known}
  parts, start = [], 0
  while start < len(data):
    number, value, end = _field_at(data, start)
    text = dict(_fields(value)).get(1) if number == _PIECES and isinstance(value, bytes) else None
    parts.append(piece_field(wanted[text]) if text in wanted else data[start:end])
    start = end
  return b"".join(parts)


def piece_field(text: str, *, score: float = 0.0, kind: int = USER_DEFINED) -> bytes:
  """One more piece, to be appended to a model's bytes."""
  raw = text.encode()
  body = _PIECES_TAG + _varint(len(raw)) + raw
  body += b"\x15" + struct.pack("<f", score) + _field(3, kind)
  return _PIECES_TAG + _varint(len(body)) + body


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
  """(number, value) of each field: bytes, a whole number or a float."""
  start = 0
  while start < len(data):
    number, value, start = _field_at(data, start)
    yield number, value


def _field_at(data: bytes, start: int) -> tuple[int, Any, int]:
  """(number, value, where the next field begins)."""
  value: Any
  tag, at = _read_varint(data, start)
  number, kind = tag >> 3, tag & 7
  if kind == 0:
    value, end = _read_varint(data, at)
  elif kind == 2:
    size, at = _read_varint(data, at)
    value, end = data[at : at + size], at + size
  else:
    end = at + {1: 8, 5: 4}[kind]
    value = struct.unpack("<d" if kind == 1 else "<f", data[at:end])[0] if end <= len(data) else 0
  if end > len(data):
    raise ValueError("a field reaches beyond the end")
  return number, value, end


def _field(number: int, value: bytes | int) -> bytes:
  if isinstance(value, int):
    return _varint(number << 3) + _varint(value)
  return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(n: int) -> bytes:
  return bytes([n]) if n < 0x80 else bytes([n & 0x7F | 0x80]) + _varint(n >> 7)


def _read_varint(data: bytes, pos: int) -> tuple[int, int]:
  value = shift = 0
  while True:
    byte = data[pos]
    if shift > 63:
      raise ValueError("a number of more than 64 bits")
    value |= (byte & 0x7F) << shift
    pos, shift = pos + 1, shift + 7
    if byte < 0x80:
      return value, pos


IMAGE = "<image>"
SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>")  # In the order of their ids.
_BLANK = "▁"
_FILLER = "<no token {}>"  # Of ids that the model has and the tokenizer has not.
_UNMERGED = -1e9  # The score of pieces that no merge makes; it is never used.


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
  model: Any = content.get("model")
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
    pieces[-1].kind == CONTROL or pieces[-1].text == _FILLER.format(len(pieces) - 1)
  ):
    pieces.pop()
  return build(pieces)


def from_model(data: bytes, *, num_ids: int = 0, image_token: int = 0) -> str:
  """The text of the tokenizer.json of a sentencepiece file.

  Args:
    num_ids: ids that the model has; those beyond the tokenizer's get names that no text makes.
    image_token: the id of <image>, at least `num_ids` where the tokenizer has none; 0 for none.

  Raises:
    ConfigError: a model that this form cannot hold exactly.
  """
  model = parse(data)
  if model.algorithm != BPE or not model.is_identity:
    raise errors.ConfigError(
      "The tokenizer is no byte-pair model that reads texts as they are, as Gemma's is, so it has"
      " no exact tokenizer.json."
    )
  if any(p.kind == UNUSED for p in model.pieces):
    raise errors.ConfigError("The tokenizer has unused pieces, so it has no exact tokenizer.json.")
  vocab = {p.text: i for i, p in enumerate(model.pieces)}
  for i in range(len(vocab), max(num_ids, image_token)):
    vocab[_FILLER.format(i)] = i
  first, second = (
    [{"SpecialToken": {"id": "<bos>", "type_id": i}}, {"Sequence": {"id": name, "type_id": i}}]
    for i, name in enumerate("AB")
  )
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
      "single": first,
      "pair": first + second,
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
  pieces = parse(data).pieces
  kinds = (USER_DEFINED, CONTROL, UNKNOWN)
  added = [_token(i, p.text, p.kind) for i, p in enumerate(pieces) if p.kind in kinds]
  if image_token and all(token["content"] != IMAGE for token in added):
    added.append(_token(image_token, IMAGE, CONTROL))
  return added


def _token(i: int, text: str, kind: int) -> dict[str, Any]:
  """An added token. User-defined ones are looked for where blanks are "▁" already."""
  flags = dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
  own = kind == USER_DEFINED
  return {"id": i, "content": text, **flags, "normalized": own, "special": not own}


def _merges(model: Model) -> list[list[str]]:
  """Every pair of pieces that makes a piece, the best piece first, then the longest left half."""
  scores = {p.text: p.score for p in model.pieces if p.kind == NORMAL}
  merges = []
  for text, score in scores.items():
    halves = ((text[:cut], text[cut:]) for cut in range(len(text) - 1, 0, -1))
    merges += [(-score, left, right) for left, right in halves if {left, right} <= scores.keys()]
  merges.sort(key=lambda merge: merge[0])  # Stable: pieces of one score keep the order of ids.
  return [[left, right] for _, left, right in merges]


def _piece(
  text: str, added: Mapping[str, Any] | None, behind: bool, scores: Mapping[str, float]
) -> Piece:
  if text in SPECIAL:
    return Piece(text, 0.0, UNKNOWN if text == "<unk>" else CONTROL)
  if text == IMAGE or (added and behind and added.get("special")):
    return Piece(text, 0.0, CONTROL)
  if added:
    return Piece(text, 0.0, USER_DEFINED)
  if len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
    return Piece(text, 0.0, BYTE)
  return Piece(text, scores.get(text, _UNMERGED), NORMAL)


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
