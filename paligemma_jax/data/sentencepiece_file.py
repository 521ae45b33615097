"""The bytes of a sentencepiece model: its pieces and the settings that a text is read by.

It is a protocol buffer of which little matters here, so it is walked by hand. A repeated field of a
protocol buffer may be continued anywhere, so new pieces are appended.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Iterator

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
UNIGRAM, BPE = 1, 2

_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3  # Fields of ModelProto.
_PIECES_TAG = b"\x0a"  # Field 1 of ModelProto, length-delimited; also field 1 of SentencePiece.
_MODEL_TYPE = 3  # Of the trainer's settings.
_CHARSMAP, _DUMMY_PREFIX, _EXTRA_BLANKS, _ESCAPE = 2, 3, 4, 5  # Of the normalizer's settings.


@dataclasses.dataclass(frozen=True)
class Piece:
  """One entry of the vocabulary."""

  text: str
  score: float
  kind: int


@dataclasses.dataclass(frozen=True)
class Model:
  """What a model file says.

  Attributes:
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
      fields = {1: b"", 2: 0.0, 3: NORMAL, **dict(_fields(value))}
      pieces.append(Piece(fields[1].decode(), fields[2], fields[3]))
    elif number == _TRAINER:
      algorithm = dict(_fields(value)).get(_MODEL_TYPE, algorithm)
    elif number == _NORMALIZER:
      normalizer |= dict(_fields(value))
  plain = {_CHARSMAP: b"", _DUMMY_PREFIX: 0, _EXTRA_BLANKS: 0, _ESCAPE: 1}
  is_identity = all(normalizer[key] == value for key, value in plain.items())
  return Model(tuple(pieces), algorithm, is_identity)


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


def _fields(data: bytes) -> Iterator[tuple[int, bytes | int | float]]:
  """(number, value) of each field: bytes, a whole number or a float."""
  start = 0
  while start < len(data):
    number, value, start = _field_at(data, start)
    yield number, value


def _field_at(data: bytes, start: int) -> tuple[int, bytes | int | float, int]:
  """(number, value, where the next field begins)."""
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
  out = bytearray()
  while n > 0x7F:
    out.append(n & 0x7F | 0x80)
    n >>= 7
  return bytes(out) + bytes([n])


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
