"""What lies beside exported weights: made from the tokenizer, or carried over from the source."""

import json

import numpy as np
import pytest

import paligemma_jax as pj
from paligemma_jax.checkpoint import hf
from paligemma_jax.checkpoint import hf_config
from paligemma_jax.data import tokenizer as tokenizers
from paligemma_jax.data import tokenizer_files
from paligemma_jax.trainer import setup
from tests.checkpoint import makers


@pytest.fixture(scope="module")
def tokenizer():
  return tokenizers.Tokenizer(setup.DEMO_TOKENIZER)


def _sizes(num_words=2176):
  sizes = makers.sizes()
  sizes["llm"]["vocab_size"] = num_words
  return sizes


def test_a_processor_and_a_tokenizer_are_made(tokenizer, tmp_path):
  image_token, files = hf_config.other_files(_sizes(), tokenizer)
  assert image_token == 2176
  settings = json.loads(files["preprocessor_config.json"])
  assert settings["size"] == {"height": 8, "width": 8} and settings["image_seq_length"] == 16
  assert settings["processor_class"] == "PaliGemmaProcessor"
  named = json.loads(files["tokenizer_config.json"])["added_tokens_decoder"]
  # Transformers 5 knows of no added tokens but these.
  assert named[str(tokenizer.loc_id(5))]["content"] == "<loc0005>"
  assert named[str(tokenizer.seg_id(7))]["content"] == "<seg007>"
  assert named["2176"] == {**named["2176"], "content": "<image>", "special": True}
  assert named["1"]["special"] and not named[str(tokenizer.loc_id(5))]["special"]
  for name in ("tokenizer.json", "tokenizer.model"):
    (tmp_path / name).write_bytes(files[name])
    again = tokenizers.Tokenizer(tmp_path / name)
    text = "<loc0001><loc0100> cat ; <seg005> two tigers  \n\n"
    assert again.encode(text) == tokenizer.encode(text)
  assert json.loads(files["generation_config.json"])["eos_token_id"] == 1
  assert b"AutoProcessor" in files["README.md"]


def test_without_a_tokenizer_there_are_no_files_of_one():
  image_token, files = hf_config.other_files(_sizes(11), None)
  assert image_token == 11
  assert sorted(files) == ["README.md", "generation_config.json", "preprocessor_config.json"]


def test_released_and_added_tokens_say_where_the_image_token_is(tokenizer):
  assert hf_config.other_files(_sizes(257_152), tokenizer)[0] == 257_152
  assert hf_config.other_files(_sizes(257_280), tokenizer)[0] == 257_152
  parts = {"<image>": tokenizer.vocab_size, "<mine>": tokenizer.vocab_size + 1}
  data = tokenizer.whole_bytes
  for text in parts:
    kind = 3 if text == "<image>" else 4
    data += tokenizer_files.piece_field(text, kind=kind)
  more = tokenizers.Tokenizer.from_bytes(data)
  assert hf_config.other_files(_sizes(2240), more)[0] == parts["<image>"]


def _source(tmp_path, **files):
  model = makers.sizes()
  params = makers.params(model)
  config = {**makers.hf_config(model), "image_token_index": 7}
  path = makers.write_hf(tmp_path / "source", makers.hf_tensors(params, model), config)
  for name, content in files.items():
    (path / name.replace("__", ".")).write_bytes(content)
  return hf.open_hf(path)


def test_the_files_of_the_source_are_carried_over(tmp_path, tokenizer):
  size = {"size": {"height": 224, "width": 224}, "image_seq_length": 256, "resample": 2}
  source = _source(
    tmp_path,
    preprocessor_config__json=json.dumps(size).encode(),
    README__md=b"# Mine",
    chat_template__jinja=b"{{ x }}",
    tokenizer_config__json=b'{"mine": 1}',
    code__py=b"print()",
    optimizer__pt=b"\x80",
    LICENSE=b"free",
  )
  image_token, files = hf_config.other_files({**source.sizes, "res": 16}, None, source)
  assert image_token == 7
  assert files["README.md"] == b"# Mine" and files["LICENSE"] == b"free"
  assert files["chat_template.jinja"] == b"{{ x }}"
  assert files["tokenizer_config.json"] == b'{"mine": 1}'
  assert not {"code.py", "optimizer.pt", "config.json", "model.safetensors"} & files.keys()
  settings = json.loads(files["preprocessor_config.json"])  # Theirs, but at the model's size.
  assert settings == {"size": {"height": 16, "width": 16}, "image_seq_length": 64, "resample": 2}
  # Another one than the source's.
  _, files = hf_config.other_files(source.sizes, tokenizer, source)
  assert json.loads(files["tokenizer_config.json"])["tokenizer_class"] == "GemmaTokenizer"


def test_an_export_of_a_loaded_directory_keeps_all_of_it(tmp_path):
  source = _source(tmp_path, README__md=b"# Mine", added_tokens__json=b'{"<image>": 7}')
  pg = pj.load(source.path, dtype="float32")
  out = pg.save(tmp_path / "out", format="hf")
  assert (out / "README.md").read_bytes() == b"# Mine"
  assert json.loads((out / "config.json").read_text())["image_token_index"] == 7
  again = pj.load(out, dtype="float32")
  for name, array in pg.params.items():
    assert np.array_equal(array, again.params[name])
