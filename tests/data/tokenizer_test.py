"""Both kinds of tokenizer file give the reference's ids; other files are told apart clearly."""

import json
import os
import pickle
import re

import hypothesis
import pytest
import sentencepiece
from hypothesis import strategies as st

from paligemma_jax.core import errors
from paligemma_jax.data import tokenizer as tokenizer_lib
from tests import golden_files


@pytest.fixture(scope="module")
def model_path():
  return golden_files.path("bv/tok4k.model")


@pytest.fixture(scope="module")
def tokenizer(model_path):
  return tokenizer_lib.Tokenizer(model_path)


@pytest.fixture(scope="module")
def golden():
  return json.loads(golden_files.path("bv/pp.json").read_text())


def test_a_plain_file_is_extended_to_the_reference_s_ids(tokenizer, golden):
  expected = golden["tokenizer"]
  assert tokenizer.vocab_size == expected["vocab_size"]
  assert [tokenizer.loc_id(0)] == expected["loc0000"]
  assert [tokenizer.loc_id(1023)] == expected["loc1023"]
  assert [tokenizer.seg_id(0)] == expected["seg000"]
  assert [tokenizer.seg_id(127)] == expected["seg127"]
  assert list(tokenizer.separator_ids) == expected["newline"]
  ids = (tokenizer.pad_id, tokenizer.eos_id, tokenizer.bos_id)
  assert ids == (expected["pad"], expected["eos"], expected["bos"])


def test_tokens_become_the_reference_s_text(tokenizer, golden):
  for case in golden["to_str"]:
    assert tokenizer.decode(case["tokens"]) == case["text"]


@pytest.mark.parametrize("ids", [[], [1], [0, 0], [2], [2, 1, 500]])
def test_nothing_decodes_to_nothing(ids, tokenizer):
  assert tokenizer.decode(ids) == ""


def test_the_text_of_one_token_has_an_id_and_other_texts_are_refused(tokenizer):
  assert [tokenizer.token_id(t) for t in ("<pad>", "<eos>", "<bos>", "<unk>")] == [0, 1, 2, 3]
  assert tokenizer.token_id("<loc0012>") == tokenizer.loc_id(12)
  assert tokenizer.piece(tokenizer.token_id(" cat")) == "▁cat"
  for text, pieces in ((" dog", "['▁do', 'g']"), ("", "[]")):
    with pytest.raises(errors.ConfigError) as e:
      tokenizer.token_id(text)
    assert f"{text!r} is not one token of " in str(e.value) and pieces in str(e.value)


def test_ids_the_tokenizer_does_not_know_read_as_unknown(tokenizer):
  assert tokenizer.decode([10**6]) == tokenizer.decode([-5]) == tokenizer.decode([3])


def baked(tokenizer):
  """The file as PaliGemma ships it: the extra pieces are in it."""
  return tokenizer._processor.serialized_model_proto()


def test_a_file_that_has_the_tokens_gives_the_same_ids_and_is_not_extended_again(tokenizer):
  again = tokenizer_lib.Tokenizer.from_bytes(baked(tokenizer))
  assert baked(again) == again.model_bytes
  assert again.vocab_size == tokenizer.vocab_size
  assert again.loc_id(700) == tokenizer.loc_id(700)
  text = "<loc0001><seg127> a\nb"
  assert again.encode(text) == tokenizer.encode(text)


def piece_field(text, kind):
  body = b"\x0a" + bytes([len(text)]) + text + b"\x15\x00\x00\x00\xc0\x18" + bytes([kind])
  return b"\x0a" + bytes([len(body)]) + body


def test_a_piece_that_is_there_as_an_ordinary_one_is_redeclared_in_place(model_path):
  data = model_path.read_bytes()
  size = sentencepiece.SentencePieceProcessor(model_proto=data).vocab_size()
  some = data + piece_field(b"<loc0003>", 1) + piece_field(b"<seg005>", 1)
  plain = sentencepiece.SentencePieceProcessor(model_proto=some)
  assert len(plain.EncodeAsIds("<loc0003>")) > 1  # Ordinary pieces are not found as wholes.
  tokenizer = tokenizer_lib.Tokenizer.from_bytes(some)
  assert tokenizer.vocab_size == size + 1024 + 128
  assert tokenizer.encode("<loc0003>") == [tokenizer.loc_id(3)] == [size]
  assert tokenizer.encode("<seg005>") == [tokenizer.seg_id(5)] == [size + 1]
  assert tokenizer.encode("<loc0000>") == [tokenizer.loc_id(0)] == [size + 2]
  assert tokenizer.encode("<loc0004>") == [size + 2 + 3]
  assert len({tokenizer.loc_id(i) for i in range(1024)}) == 1024


@pytest.mark.parametrize(
  "data, reason",
  [
    (b"", "empty"),
    (b"hello there", "not a sentencepiece model"),
    (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs pointer"),
    (b'{"model": {}}', "JSON"),
    (b"<!doctype html>", "HTML page"),
    (b"\x00" * 100, "not a sentencepiece model"),
  ],
)
def test_a_file_that_is_no_model_says_what_it_looks_like(data, reason, tmp_path):
  path = tmp_path / "tokenizer.model"
  path.write_bytes(data)
  with pytest.raises(errors.ConfigError, match=reason) as found:
    tokenizer_lib.Tokenizer(path)
  assert str(path) in str(found.value)


@pytest.mark.parametrize("cut", [1, 100, 5000])
def test_a_cut_model_is_no_model(cut, model_path):
  with pytest.raises(errors.ConfigError, match="not a sentencepiece model"):
    tokenizer_lib.Tokenizer.from_bytes(model_path.read_bytes()[:-cut])


def test_a_missing_file_says_where_tokenizers_come_from(tmp_path):
  with pytest.raises(errors.ConfigError, match=r"nothing.*licensed weights"):
    tokenizer_lib.Tokenizer(tmp_path / "nothing")


def test_other_special_ids_are_refused(model_path):
  with pytest.raises(errors.ConfigError, match="not a Gemma tokenizer"):
    tokenizer_lib.Tokenizer.from_bytes(swapped_specials(model_path.read_bytes()))


def swapped_specials(data):
  """The pieces <eos> and <bos> have changed places; they stand first in the file."""
  data = data.replace(b"<eos>", b"<xyz>", 1).replace(b"<bos>", b"<eos>", 1)
  return data.replace(b"<xyz>", b"<bos>", 1)


def test_it_can_be_sent_to_other_processes(tokenizer):
  again = pickle.loads(pickle.dumps(tokenizer))
  assert again.encode("a red cat <loc0500>") == tokenizer.encode("a red cat <loc0500>")
  assert again.fingerprint == tokenizer.fingerprint
  assert again.path == tokenizer.path


@hypothesis.settings(deadline=None)
@hypothesis.given(
  text=st.lists(
    st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="▁\0"), max_size=8)
    | st.integers(0, 1023).map("<loc{:04d}>".format)
    | st.integers(0, 127).map("<seg{:03d}>".format)
    | st.sampled_from(["\n", "\n\n", "\t", "<eos>", "<bos>", "<pad>", "<loc12>", "  ", "🐯"]),
    max_size=8,
  ).map("".join)
)
def test_text_comes_back_and_never_holds_control_tokens(text, tokenizer):
  ids = tokenizer.encode(text)
  assert not {tokenizer.pad_id, tokenizer.eos_id, tokenizer.bos_id} & set(ids)
  if tokenizer.unk_id not in ids:
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("text", ["\ud83d", 3, None, b"a"])
def test_what_is_no_text_rejects_the_row(text, tokenizer):
  with pytest.raises(errors.DataError):
    tokenizer.encode(text)


@pytest.mark.parametrize("text", ["", "<loc0001><loc0002> cat ; <seg127>", "a 🐯 b", "é日\n\n x"])
def test_ends_cut_a_text_into_what_each_token_wrote(text, tokenizer):
  ids = [*tokenizer.encode(text), tokenizer.eos_id]
  ends = tokenizer.ends(ids)
  assert len(ends) == len(ids) and ends[-1] == len(tokenizer.decode(ids))
  for i in range(len(ids)):
    assert ends[i] == len(tokenizer.decode(ids[: i + 1]))


def _same_piece_twice(data):
  """Two pieces of one text that is no UTF-8: the library's own error then quotes it."""
  fields = re.findall(rb"\n\x06[a-z]{6}", data)[:2]
  for field in fields:
    data = data.replace(field, b"\n\x06\xff\xfe\xfdabc", 1)
  return data


@pytest.mark.parametrize(
  "change",
  [
    _same_piece_twice,
    lambda data: data.replace(b"\xe2\x96\x81", b"\xff\xfe\xff", 1),
    lambda data: data + b"\x0b",  # A group, which no reader of ours knows.
    lambda data: data + b"\x0a\xff\xff\xff\xff\x0f",
  ],
)
def test_a_damaged_model_is_an_error_of_ours(change, model_path):
  data = change(model_path.read_bytes())
  assert data != model_path.read_bytes()
  with pytest.raises(errors.ConfigError, match="sentencepiece model"):
    tokenizer_lib.Tokenizer.from_bytes(data, "x.model")


def test_only_a_regular_file_is_opened(tmp_path):
  os.mkfifo(tmp_path / "tokenizer.model")
  for path in (tmp_path / "tokenizer.model", tmp_path, "/dev/zero", "a\0b"):
    with pytest.raises(errors.ConfigError, match="Cannot read the tokenizer"):
      tokenizer_lib.Tokenizer(path)
