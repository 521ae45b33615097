"""The words of captions against those of the Java tokenizer, and by hand."""

import gzip
import json
import time

import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from paligemma_jax.evals import ptb
from tests import golden_files


def read(name):
  return json.loads(gzip.decompress(golden_files.path(f"captions/{name}").read_bytes()))


def test_the_words_are_those_of_the_java_tokenizer():
  golden = read("tokens.json.gz")
  differing = [
    (text, wanted, ptb.tokenize(text))
    for text, wanted in zip(golden["texts"], golden["tokens"], strict=True)
    if ptb.tokenize(text) != wanted
  ]
  assert len(golden["texts"]) > 3900 and not differing


def test_so_are_those_of_the_captions_that_were_scored():
  for example in read("scores.json.gz")["examples"]:
    for text, wanted in zip(
      [example["hyp"], *example["refs"]],
      [example["hyp_tok"], *example["refs_tok"]],
      strict=True,
    ):
      assert ptb.tokenize(text) == wanted


@pytest.mark.parametrize(
  ("text", "words"),
  [
    ("", ""),
    (" \n ", ""),
    ("A dog.", "a dog"),
    ("A dog\r\nand\u2028a cat", "a dog and a cat"),
    ("It can't; isn't it?", "it ca n't is n't it"),
    ("The U.S. border at 10 p.m.", "the u.s. border at 10 p.m."),
    ("(a) [b]", "-lrb- a -rrb- -lsb- b -rsb-"),
    ("No!? No!", "no !? no"),
    ("£5 or €5, ½ off 😀", "# 5 or $ 5 1/2 off"),
    ("plan Q. The plan", "plan q the plan"),
    ("plan Q. the plan", "plan q. the plan"),
    ("1 1/2 cups", "1\u00a01/2 cups"),
    ("cannot", "can not"),
    ("狗 和猫", "狗 和猫"),
  ],
)
def test_by_hand(text, words):
  assert ptb.tokenize(text) == words


@settings(deadline=None)  # The machine may be busy.
@given(st.text(alphabet="abX1 .,'-<&;\"(no\u00a0é狗😀\n", max_size=40))
def test_any_text_gives_words_in_lower_case_without_lone_punctuation(text):
  words = ptb.tokenize(text)
  assert words == words.lower() and "  " not in words and words == words.strip(" ")
  assert not {".", ",", "-", "'", "''", ";"} & set(words.split(" "))


def test_what_is_around_a_caption_does_not_change_it():
  # The fast way through plain words and the slow one agree.
  plain = "it can't be a half-eaten, well-lit (red) dog's toy"
  assert ptb.tokenize(f"5 {plain}") == f"5 {ptb.tokenize(plain)}"
  assert ptb.tokenize(f"<b> {plain}") == f"<b> {ptb.tokenize(plain)}"


PIECES = (" ", "a", "a.", "a-", "1 ", "<b ", "a@", "&", "a=", "'", "x/", "-")


# A rule that matched one text in many ways took forever on blanks in a tag.
@pytest.mark.parametrize("piece", PIECES)
def test_no_text_takes_long(piece):
  start = time.process_time()
  ptb.tokenize("<b" + piece * 1000)
  ptb.tokenize("www." + piece * 1000 + "!")
  assert time.process_time() - start < 5
