"""Ids and masks equal the reference's wherever the text fits; EOS is never lost."""

import json

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from paligemma_jax.core import errors
from paligemma_jax.data import text_encoding
from paligemma_jax.data import tokenizer as tokenizer_lib
from tests import golden_files
from tests.data import encoding


@pytest.fixture(scope="module")
def tokenizer():
  return tokenizer_lib.Tokenizer(golden_files.path("bv/tok4k.model"))


@pytest.fixture(scope="module")
def cases():
  return json.loads(golden_files.path("bv/pp.json").read_text())["text"]


def fits(case, tokenizer):
  ids = text_encoding.prefix_ids(tokenizer, case["prefix"]) + encoding.suffix_ids(
    tokenizer, case["suffix"]
  )
  return len(ids) <= case["text_len"] + 1


def assert_equal(example, golden):
  assert sorted(example) == sorted(golden)
  for name, values in golden.items():
    assert example[name].tolist() == values, name


def test_training_examples_are_the_reference_s(cases, tokenizer):
  fitting = [case for case in cases if fits(case, tokenizer)]
  assert len(fitting) >= 8
  for case in fitting:
    example = encoding.train(
      tokenizer, case["prefix"], case["suffix"], text_len=case["text_len"], overflow="error"
    )
    assert_equal(example, case["train"])


def test_prompts_are_the_reference_s(cases, tokenizer):
  fitting = [case for case in cases if fits(case, tokenizer)]
  for case in fitting:
    limits = {"text_len": case["text_len"], "overflow": "error"}
    prompt = encoding.prompt(tokenizer, case["prefix"], **limits)
    assert_equal(prompt, case["eval_nosuffix"])
    begun = encoding.prompt(tokenizer, case["prefix"], suffix=case["suffix"], **limits)
    assert_equal(begun, case["eval"])


def test_where_the_reference_cuts_eos_off_we_keep_it(cases, tokenizer):
  cut = [case for case in cases if not fits(case, tokenizer)]
  assert cut
  for case in cut:
    limits = {"text_len": case["text_len"], "overflow": "truncate"}
    ours = encoding.train(tokenizer, case["prefix"], case["suffix"], **limits)
    reference = case["train"]
    assert tokenizer.eos_id not in reference["text"]
    assert ours["text"][:-1].tolist() == reference["text"][:-1]
    assert ours["text"][-1] == tokenizer.eos_id
    assert ours["mask_loss"][-1] == 1


def test_texts_can_be_cut_as_in_the_reference(cases, tokenizer):
  cut = [case for case in cases if not fits(case, tokenizer)]
  assert cut
  for case in cut:  # The golden files are what the reference's own ops gave.
    limits = {"text_len": case["text_len"], "overflow": "cut"}
    example = encoding.train(tokenizer, case["prefix"], case["suffix"], **limits)
    assert_equal(example, case["train"])
    prompt = encoding.prompt(tokenizer, case["prefix"], **limits)
    assert_equal(prompt, case["eval_nosuffix"])
    assert text_encoding.num_tokens(example) in (0, case["text_len"] + 1)


def test_a_prompt_that_is_cut_loses_its_separator_and_teaches_nothing(tokenizer):
  limits = {"text_len": 4, "overflow": "cut"}
  question = text_encoding.prefix_ids(tokenizer, "caption en a cat")
  prompt = encoding.prompt(tokenizer, "caption en a cat", **limits)
  assert prompt["text"].tolist() == question[:4]
  example = encoding.train(tokenizer, "caption en a cat", "yes", **limits)
  assert example["text"].tolist() == question[:5]
  assert not example["mask_loss"].any()


def test_dtypes_and_lengths(tokenizer):
  example = encoding.train(tokenizer, "caption en", "a cat", text_len=12, overflow="error")
  assert {k: (v.shape, v.dtype) for k, v in example.items()} == {
    "text": ((13,), np.int32),
    "mask_ar": ((13,), np.int32),
    "mask_loss": ((13,), np.float32),
  }
  prompt = encoding.prompt(tokenizer, "caption en", text_len=12, overflow="error")
  assert {k: (v.shape, v.dtype) for k, v in prompt.items()} == {
    "text": ((12,), np.int32),
    "mask_ar": ((12,), np.int32),
    "mask_input": ((12,), np.int32),
  }


def test_a_text_too_long_is_an_error_that_says_how_long(tokenizer):
  with pytest.raises(errors.DataError, match=r"room for 5; raise text_len by \d+"):
    encoding.train(tokenizer, "caption en", "a cat", text_len=4, overflow="error")
  with pytest.raises(errors.ConfigError, match="Did you mean 'truncate'"):
    encoding.train(tokenizer, "caption en", "a cat", text_len=4, overflow="truncat")
  assert encoding.train(tokenizer, "caption", "a", text_len=2, overflow="drop") is None


def test_a_text_that_just_fits_is_left_whole(tokenizer):
  whole = encoding.train(tokenizer, "caption en", "a cat", text_len=40, overflow="error")
  size = text_encoding.num_tokens(whole)
  tight = encoding.train(tokenizer, "caption en", "a cat", text_len=size - 1, overflow="error")
  assert tight["text"].tolist() == whole["text"][:size].tolist()
  with pytest.raises(errors.DataError, match="by 1,"):
    encoding.train(tokenizer, "caption en", "a cat", text_len=size - 2, overflow="error")


def test_an_empty_answer_is_eos_alone(tokenizer):
  example = encoding.train(tokenizer, "caption en", "", text_len=12, overflow="error")
  assert example["text"][example["mask_loss"] == 1].tolist() == [tokenizer.eos_id]


TEXT = st.text(st.characters(blacklist_categories=["Cs"]), max_size=30)


@hypothesis.settings(deadline=None)
@hypothesis.given(prefix=TEXT, suffix=TEXT, text_len=st.integers(2, 40))
def test_masks_are_as_defined_for_any_text(prefix, suffix, text_len, tokenizer):
  example = encoding.train(tokenizer, prefix, suffix, text_len=text_len, overflow="truncate")
  size = text_encoding.num_tokens(example)
  supervised = np.flatnonzero(example["mask_loss"])
  assert example["text"].shape == (text_len + 1,)
  assert example["text"][0] == tokenizer.bos_id
  assert example["text"][size - 1] == tokenizer.eos_id
  assert (example["text"] == tokenizer.eos_id).sum() == 1
  assert supervised.tolist() == list(range(supervised[0], size))  # One run, up to EOS.
  assert (example["mask_ar"] == (np.arange(text_len + 1) >= supervised[0])).all()
  assert (example["text"][size:] == 0).all()
  if size < text_len + 1:
    assert example["text"][: supervised[0]].tolist() == text_encoding.prefix_ids(tokenizer, prefix)
    assert example["text"][supervised].tolist() == encoding.suffix_ids(tokenizer, suffix)


@hypothesis.settings(deadline=None)
@hypothesis.given(prefix=TEXT, text_len=st.integers(2, 40))
def test_a_prompt_is_the_start_of_its_training_example(prefix, text_len, tokenizer):
  prompt = encoding.prompt(tokenizer, prefix, text_len=text_len, overflow="truncate")
  size = text_encoding.num_tokens(prompt)
  assert prompt["text"].shape == (text_len,)
  assert prompt["text"][size - 1] == tokenizer.separator_ids[-1]
  assert prompt["mask_input"].tolist() == [1] * size + [0] * (text_len - size)
  assert prompt["mask_ar"].tolist() == [0] * size + [1] * (text_len - size)
  if size < text_len:
    example = encoding.train(tokenizer, prefix, "", text_len=text_len, overflow="error")
    assert example["text"][:size].tolist() == prompt["text"][:size].tolist()


def test_pieces_of_a_suffix_are_read_whole_and_learned_in_part(tokenizer):
  boxes = "<loc0001><loc0002><loc0003><loc0004>"
  pieces = [(f"{boxes} cat ; ", True), (boxes, False), (" <seg127>", True)]
  whole = "".join(text for text, _ in pieces)
  limits = {"text_len": 40, "overflow": "error"}
  plain = encoding.train(tokenizer, "detect", whole, **limits)
  example = encoding.train(tokenizer, "detect", pieces, **limits)
  # Pieces that end at loc tokens are the tokens of the whole text.
  np.testing.assert_array_equal(example["text"], plain["text"])
  np.testing.assert_array_equal(example["mask_ar"], plain["mask_ar"])
  unlearned = np.flatnonzero(plain["mask_loss"] != example["mask_loss"])
  at = [i for i, token in enumerate(plain["text"]) if token == tokenizer.loc_id(1)]
  assert unlearned.tolist() == list(range(at[1], at[1] + 4))
  assert text_encoding.num_tokens(example) == text_encoding.num_tokens(plain)


def test_a_cut_keeps_eos_and_its_supervision_where_pieces_are_not_learned(tokenizer):
  example = encoding.train(
      tokenizer, "caption", [("a cat", True), (" on a mat" * 9, False)], text_len=9,
      overflow="truncate",
  )  # fmt: skip
  assert example["text"][-1] == tokenizer.eos_id and example["mask_loss"][-1] == 1
  assert example["mask_loss"][-2] == 0
