"""tokenizer.json and sentencepiece files hold the same tokenizer: the same ids of every text."""

import hashlib
import json

import pytest

from paligemma_jax.core import errors
from paligemma_jax.data import tokenizer as tokenizer_lib
from paligemma_jax.data import tokenizer_files
from tests import golden_files

_HARD = (
    "", " ", "  ", "     ", "      a", "a  b   c    d", " lead", "trail  ", "\t\ttab", "\n", "\n\n",
    "\n\n\n\n\n\n\n", "\r\n\r\n", "caption en\n", "a<loc0123>b", "<loc0001><loc0002><seg005>",
    "<loc1024><loc12>", " <loc0000> ", "detect two tigers ; <loc0100> cat", "▁▁a", "<0x41>",
    "aaaaa", "\u0301e\u0301",
    "İıſK", "…—“”", "🏳️‍🌈🐯", "日本語 한국어 العربية", "\u00a0\u2028\ufeff",
    "<mask><mas", "x" * 99,
)  # fmt: skip


@pytest.fixture(params=["bv/tok4k.model", "demo"])
def tokenizer(request):
  if request.param == "demo":
    from paligemma_jax.trainer import setup

    return tokenizer_lib.Tokenizer(setup.DEMO_TOKENIZER)
  return tokenizer_lib.Tokenizer(golden_files.path(request.param))


def test_the_json_of_a_model_is_read_as_the_same_tokenizer(tokenizer, tmp_path):
  text = tokenizer_files.from_model(tokenizer.whole_bytes, num_ids=6000, image_token=6000)
  (tmp_path / "tokenizer.json").write_text(text, encoding="utf-8")
  again = tokenizer_lib.Tokenizer(tmp_path / "tokenizer.json")
  assert again.vocab_size == tokenizer.vocab_size
  for hard in _HARD:
    assert again.encode(hard) == tokenizer.encode(hard), repr(hard)
    assert again.decode(again.encode(hard)) == tokenizer.decode(tokenizer.encode(hard))


def test_the_package_tokenizers_gives_the_same_ids(tokenizer):
  theirs = pytest.importorskip("tokenizers", reason="the package tokenizers is not installed")
  text = tokenizer_files.from_model(tokenizer.whole_bytes, image_token=tokenizer.vocab_size)
  other = theirs.Tokenizer.from_str(text)
  for hard in _HARD:
    ids = other.encode(hard, add_special_tokens=False).ids
    assert ids == tokenizer.encode(hard), repr(hard)
  assert other.token_to_id("<image>") == tokenizer.vocab_size


def test_ids_are_those_that_the_package_gave():
  """300 random texts; the package's answers are in the repository, so it need not be installed."""
  from paligemma_jax.trainer import setup

  ours = tokenizer_lib.Tokenizer(setup.DEMO_TOKENIZER)
  golden = json.loads(golden_files.path("tokenizers.json").read_text())
  text = tokenizer_files.from_model(ours.whole_bytes, num_ids=2176, image_token=2176)
  # Of another file the answers say nothing: make them anew with tools/make_hf_goldens.py.
  assert hashlib.sha256(text.encode()).hexdigest() == golden["sha256"]
  for hard, ids in zip(golden["texts"], golden["ids"], strict=True):
    assert ours.encode(hard) == ids, repr(hard)


def test_what_transformers_saves_is_read(tokenizer, tmp_path):
  """There blanks, newlines and <mask> are special or unnormalized, and merges are texts."""
  content = json.loads(tokenizer_files.from_model(tokenizer.whole_bytes, image_token=9000))
  for token in content["added_tokens"]:
    token.update(normalized=False, special=token["content"].startswith("<"))
  content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]
  (tmp_path / "tokenizer.json").write_text(json.dumps(content))
  again = tokenizer_lib.Tokenizer(tmp_path / "tokenizer.json")
  for hard in _HARD:
    assert again.encode(hard) == tokenizer.encode(hard), repr(hard)


def test_added_tokens_follow_the_vocabulary(tokenizer, tmp_path):
  size = tokenizer.vocab_size
  text = tokenizer_files.from_model(tokenizer.whole_bytes, image_token=size)
  content = json.loads(text)
  content["added_tokens"].append({"id": size + 1, "content": "<mine>", "special": False})
  (tmp_path / "tokenizer.json").write_text(json.dumps(content))
  (tmp_path / "tokenizer.model").write_bytes(tokenizer.whole_bytes)
  (tmp_path / "added_tokens.json").write_text(json.dumps({"<image>": size, "<mine>": size + 1}))
  for name in ("tokenizer.json", "tokenizer.model"):
    again = tokenizer_lib.Tokenizer(tmp_path / name)
    assert again.encode("a<mine>") == [*tokenizer.encode("a"), size + 1]
    assert again.vocab_size == size + 2
    assert again.encode("<image>") == tokenizer.encode("<image>")  # No text makes this one.
  (tmp_path / "added_tokens.json").write_text(json.dumps({"<mine>": size + 5}))
  with pytest.raises(errors.ConfigError, match="without a gap"):
    tokenizer_lib.Tokenizer(tmp_path / "tokenizer.model")


def test_added_tokens_follow_loc_and_seg_that_the_file_lacks(tmp_path):
  from paligemma_jax.trainer import setup

  plain = tokenizer_lib.Tokenizer(setup.DEMO_TOKENIZER)  # A file of 1024 pieces.
  assert plain.whole_bytes != plain.model_bytes
  (tmp_path / "tokenizer.model").write_bytes(plain.model_bytes)
  size = plain.vocab_size
  for named, more in (({"<image>": size}, 0), ({"<image>": size, "<mine>": size + 1}, 2)):
    (tmp_path / "added_tokens.json").write_text(json.dumps(named))
    again = tokenizer_lib.Tokenizer(tmp_path / "tokenizer.model")
    assert again.vocab_size == size + more
    assert again.encode("<loc0003> <seg001>") == plain.encode("<loc0003> <seg001>")
  assert again.encode("<mine>") == [size + 1]


@pytest.mark.parametrize(
  ("change", "says"),
  [
    (lambda c: c["model"].update(type="WordPiece"), "expected 'BPE'"),
    (lambda c: c["model"].update(byte_fallback=False), "byte_fallback"),
    (lambda c: c["model"].update(merges=[["a"]]), "no pair to merge"),
    (lambda c: c["model"].update(vocab=["a"]), "another form"),
    (lambda c: c.update(normalizer={"type": "Lowercase"}), "changes texts by"),
    (lambda c: c.update(normalizer=None), "changes texts by None"),
    (lambda c: c.update(model=3), "has no 'model'"),
    (lambda c: c.update(added_tokens=[{"id": "3"}]), "no added token"),
    (lambda c: c["model"]["vocab"].update(odd=10**9), "none with the id"),
  ],
)
def test_another_tokenizer_is_named_and_the_way_out(tokenizer, change, says):
  content = json.loads(tokenizer_files.from_model(tokenizer.whole_bytes))
  change(content)
  with pytest.raises(errors.ConfigError, match=says) as found:
    tokenizer_files.to_model(json.dumps(content).encode(), "here/tokenizer.json")
  assert "here/tokenizer.json" in str(found.value)


def test_a_model_that_has_no_exact_json_is_refused(tokenizer):
  pieces = tokenizer_files.parse(tokenizer.whole_bytes).pieces
  unused = tokenizer_files.piece_field("odd", kind=tokenizer_files.UNUSED)
  with pytest.raises(errors.ConfigError, match="unused pieces"):
    tokenizer_files.from_model(tokenizer_files.build(pieces) + unused)
  only_pieces = b"".join(tokenizer_files.piece_field(p.text, kind=p.kind) for p in pieces)
  with pytest.raises(errors.ConfigError, match="no byte-pair model"):
    tokenizer_files.from_model(only_pieces)
