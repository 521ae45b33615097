"""The Gemma tokenizer with PaliGemma's location and segmentation tokens, from a sentencepiece file.

Both kinds of file are read: PaliGemma's own, in which `<loc0000>`…`<loc1023>` and
`<seg000>`…`<seg127>` are pieces already, and a plain Gemma file, which is extended on loading the
way the reference does it: pieces that are there are redeclared in place and keep their id, the
others are appended in this order. The file on disk is never changed.

Hugging Face's tokenizer.json is read too, as the sentencepiece model that it was made from. Tokens
that somebody added to a tokenizer.model, which a file beside it names, follow its own.
"""

from __future__ import annotations

import hashlib
import itertools
import pathlib
from collections.abc import Sequence

import sentencepiece

from paligemma_jax.core import atomic_io
from paligemma_jax.core import bucket
from paligemma_jax.core import errors
from paligemma_jax.core import file_checks
from paligemma_jax.core import strict_json
from paligemma_jax.data import tokenizer_files

PAD_ID, EOS_ID, BOS_ID, UNK_ID = 0, 1, 2, 3
SEPARATOR = "\n"
NUM_LOC = 1024
NUM_SEG = 128

_EXTRA = tuple(f"<loc{i:04d}>" for i in range(NUM_LOC)) + tuple(
  f"<seg{i:03d}>" for i in range(NUM_SEG)
)
_MAX_BYTES = 16 << 20  # Gemma's has 4 MB.
_MAX_JSON_BYTES = 40 << 20  # Gemma's tokenizer.json has 17 to 35 MB.
_MAX_ADDED = 100_000  # Tokens beside a model: far more than anybody adds.
_ADDED_TOKENS = "added_tokens.json"
_WHERE_FROM = (
  "The tokenizer comes with the licensed weights (tokenizer.model or paligemma_tokenizer.model);"
  " set `tokenizer` to its path."
)


class Tokenizer:
  """Text to token ids and back, of a sentencepiece model file or a tokenizer.json.

  Picklable, safe to use from several threads.

  Attributes:
    path: where it was read from, '' when made from bytes.
    model_bytes: the sentencepiece file's content, as it is on disk.
    whole_bytes: the same with all that was added on loading.
    vocab_size: number of ids, the location and segmentation tokens included.
    separator_ids: the ids of the newline that stands between prefix and suffix.

  Raises:
    ConfigError: the file is missing, is no sentencepiece model, or has other special ids.
  """

  pad_id, eos_id, bos_id, unk_id = PAD_ID, EOS_ID, BOS_ID, UNK_ID

  def __init__(self, path: str | pathlib.Path):
    path = bucket.path(path)
    is_json = path.suffix == ".json"
    try:
      data = atomic_io.read(path, max_bytes=_MAX_JSON_BYTES if is_json else _MAX_BYTES)
    except (OSError, ValueError) as e:
      why = getattr(e, "strerror", None) or e
      raise errors.ConfigError(
        f"Cannot read the tokenizer {str(path)!r}: {why}. {_WHERE_FROM}"
      ) from None
    if is_json or data.lstrip()[:1] == b"{":
      data = tokenizer_files.to_model(data, str(path))
    self._load(_with_added(data, path), str(path))

  @classmethod
  def from_bytes(cls, data: bytes, path: str = "") -> Tokenizer:
    """The tokenizer in these bytes of a model file; `path` is what errors call it."""
    self = cls.__new__(cls)
    self._load(data, path)
    return self

  def encode(self, text: str) -> list[int]:
    """The ids of this text, without BOS and EOS; no text can produce a control token.

    Raises:
      DataError: not text, or text with half a surrogate pair.
    """
    if not isinstance(text, str):
      raise errors.DataError(f"Expected text to tokenize, found {text!r}.")
    try:
      text.encode()
    except UnicodeEncodeError:
      raise errors.DataError(f"Text with half a surrogate pair: {text!r}.") from None
    return self._processor.EncodeAsIds(text)

  def decode(self, ids: Sequence[int]) -> str:
    """The text of these ids up to the first EOS. Padding and BOS vanish.

    Ids that the tokenizer does not know, which a model with a larger table can produce, read as
    the unknown token.
    """
    ids = [int(i) for i in ids]
    if self.eos_id in ids:
      ids = ids[: ids.index(self.eos_id)]
    known = [i if 0 <= i < self.vocab_size else self.unk_id for i in ids]
    return self._processor.DecodeIds([i for i in known if i not in (self.pad_id, self.bos_id)])

  def ends(self, ids: Sequence[int]) -> tuple[int, ...]:
    """For each id, how many characters of `decode(ids)` it and those before it make."""
    ends = tuple(itertools.accumulate(len(self.decode([i])) for i in ids))
    if ends[-1:] == (len(self.decode(ids)),):
      return ends
    # Characters of several byte tokens, or a tokenizer that drops a space at the start.
    return tuple(len(self.decode(ids[: i + 1])) for i in range(len(ids)))

  def piece(self, token: int) -> str:
    """The piece with this id, as the model file spells it (spaces are '▁')."""
    return self._processor.IdToPiece(int(token))

  def token_id(self, text: str) -> int:
    """The id of the one token that is this text: '<eos>', '<loc0012>', ' cat'.

    Raises:
      ConfigError: the text is several tokens, or none.
    """
    if text in tokenizer_files.SPECIAL:
      return tokenizer_files.SPECIAL.index(text)
    ids = self.encode(text)
    if len(ids) != 1:
      pieces = [self.piece(i) for i in ids]
      raise errors.ConfigError(f"{text!r} is not one token of {self.path!r} but {pieces}.")
    return ids[0]

  def text_of(self, token: int) -> str:
    """What this token adds to a text; '' for control tokens and ids without a text.

    A token that is one byte reads as the character of that number.
    """
    sp = self._processor
    if sp.IsControl(token) or sp.IsUnknown(token) or sp.IsUnused(token):
      return ""
    piece = sp.IdToPiece(token)
    return chr(int(piece[3:5], 16)) if sp.IsByte(token) else piece.replace("▁", " ")

  def loc_id(self, i: int) -> int:
    """The id of `<loc…>` number 0 to 1023."""
    return self._extra_ids[range(NUM_LOC)[i]]

  def seg_id(self, i: int) -> int:
    """The id of `<seg…>` number 0 to 127."""
    return self._extra_ids[NUM_LOC + range(NUM_SEG)[i]]

  @property
  def fingerprint(self) -> str:
    """16 hex digits of the model file's sha256."""
    return hashlib.sha256(self.model_bytes).hexdigest()[:16]

  def __reduce__(self):
    return Tokenizer.from_bytes, (self.model_bytes, self.path)

  def __repr__(self) -> str:
    return f"Tokenizer({self.path!r}, vocab_size={self.vocab_size})"

  def _load(self, data: bytes, path: str) -> None:
    self.path, self.model_bytes = path, data
    try:
      self._check_and_extend(data, path)
    # What sentencepiece and a walk over the fields of a damaged file give: pieces that are no
    # UTF-8, a field of an unknown kind, the end of the file in the middle of one.
    except (RuntimeError, ValueError, LookupError, OSError) as e:
      raise errors.ConfigError(
        f"{path!r} is a damaged sentencepiece model: {type(e).__name__}. {_WHERE_FROM}"
      ) from None

  def _check_and_extend(self, data: bytes, path: str) -> None:
    plain = _processor(data, path)
    found = tuple(plain.PieceToId(text) for text in tokenizer_files.SPECIAL)
    special = (plain.pad_id(), plain.eos_id(), plain.bos_id(), plain.unk_id())
    if special != (PAD_ID, EOS_ID, BOS_ID, UNK_ID):
      raise errors.ConfigError(
        f"{path!r} is not a Gemma tokenizer: pad, eos, bos and unk are {special}, expected"
        f" (0, 1, 2, 3); pieces of these names have the ids {found}. {_WHERE_FROM}"
      )
    self._processor, self.whole_bytes = plain, data
    if not all(_is_whole(plain, piece) for piece in _EXTRA):
      self.whole_bytes = _extended(data, plain)
      self._processor = _processor(self.whole_bytes, path)
    self._extra_ids = [self._processor.PieceToId(piece) for piece in _EXTRA]
    self.vocab_size = self._processor.vocab_size()
    self.separator_ids = tuple(self.encode(SEPARATOR))
    self._processor.IdToPiece(list(range(self.vocab_size)))  # Each must be UTF-8.


def _processor(data: bytes, path: str) -> sentencepiece.SentencePieceProcessor:
  if not data:
    raise errors.ConfigError(f"The tokenizer {path!r} is an empty file. {_WHERE_FROM}")
  try:
    return sentencepiece.SentencePieceProcessor(model_proto=data)
  except (RuntimeError, ValueError):  # Its own error may quote what is no UTF-8.
    what, remedy = file_checks.not_downloaded(data)
    if what:
      found = f"it is {what}. {remedy}"
    elif data.lstrip()[:1] == b"{":
      found = "it looks like JSON"
    else:
      found = f"it starts with {data[:8]!r} and has {len(data)} bytes"
    raise errors.ConfigError(
      f"{path!r} is not a sentencepiece model ({found}). {_WHERE_FROM}"
    ) from None


def _is_whole(processor: sentencepiece.SentencePieceProcessor, piece: str) -> bool:
  """Whether the piece is found as one token wherever it stands."""
  token = processor.PieceToId(piece)
  return token != UNK_ID and processor.EncodeAsIds(f"a{piece}a").count(token) == 1


def _extended(data: bytes, plain: sentencepiece.SentencePieceProcessor) -> bytes:
  """The model with every extra piece declared, those that `plain` has in some form in place."""
  known = {piece for piece in _EXTRA if plain.PieceToId(piece) != UNK_ID}
  data = tokenizer_files.redeclared(data, known) if known else data
  return data + b"".join(tokenizer_files.piece_field(p) for p in _EXTRA if p not in known)


def _with_added(data: bytes, path: pathlib.Path) -> bytes:
  """The model with the tokens that a file beside it adds at its end, if they follow its own."""
  beside = path.with_name(_ADDED_TOKENS)
  if path.name != "tokenizer.model" or not beside.is_file():
    return data
  try:
    named = strict_json.read_object(beside, max_bytes=_MAX_BYTES)
  except (OSError, strict_json.Malformed) as e:
    raise errors.ConfigError(
      f"{str(beside)!r} is no valid JSON object: {strict_json.reason(e)}."
    ) from None
  plain = _processor(data, str(path))
  size = plain.vocab_size()
  added = sorted((i, text) for text, i in named.items() if type(i) is int and i >= size)
  if len(added) > _MAX_ADDED:
    raise errors.ConfigError(
      f"{str(beside)!r} adds {len(added)} tokens; the limit is {_MAX_ADDED}."
    )
  while added and added[-1][1] == tokenizer_files.IMAGE:
    added.pop()  # No text holds it.
  if added and added[0][0] != size and not all(_is_whole(plain, piece) for piece in _EXTRA):
    data = _extended(data, plain)  # They follow <loc…> and <seg…>.
    size = _processor(data, str(path)).vocab_size()
  if [i for i, _ in added] != list(range(size, size + len(added))):
    raise errors.ConfigError(
      f"{str(beside)!r} adds tokens with the ids {[i for i, _ in added][:5]} to a tokenizer of"
      f" {size}; expected ids that follow without a gap."
    )
  for _, text in added:
    is_image = text == tokenizer_files.IMAGE
    kind = tokenizer_files.CONTROL if is_image else tokenizer_files.USER_DEFINED
    data += tokenizer_files.piece_field(text, kind=kind)
  return data
