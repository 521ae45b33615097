"""The demo is what it says: new drawings, new words, and scores on scenes training never shows."""

from __future__ import annotations

import pathlib

import pytest

from paligemma_jax.config import load as configs
from paligemma_jax.data import tokenizer as tokenizers
from paligemma_jax.models import variants
from paligemma_jax.sources import scenes
from tests.data import encoding

ROOT = pathlib.Path(__file__).resolve().parents[2]
PRETRAIN = "configs/pretrain_tiny.py"
DEMO = "transfers/demo.py"
FORKME = "transfers/forkme.py"


def _load(path):
  config = configs.load(str(ROOT / path))
  configs.validate(config, training=True, variants=variants.VARIANTS)
  return config


def _rows(source, num):
  rows = source.open()
  return [rows[len(rows) - 1 - i] for i in range(num)]  # The last: after any warm-up.


def test_the_demo_sees_and_reads_nothing_of_its_pretraining():
  old, new = (_rows(_load(path).train.source, 300) for path in (PRETRAIN, DEMO))
  for column in ("label", "prefix"):
    assert not {r[column] for r in old if r["label"]} & {r[column] for r in new if r["label"]}
  drawn = [{name for row in rows for name, _ in row["objects"]} for rows in (old, new)]
  assert not drawn[0] & drawn[1]
  assert not {r["prefix"] for r in old} & {r["prefix"] for r in new}


@pytest.mark.parametrize("path", [PRETRAIN, DEMO, FORKME])
def test_scores_are_from_scenes_that_training_never_shows(path):
  config = _load(path)
  assert config.evals
  for evaluator in config.evals:
    assert evaluator.source.split != config.train.source.split
    trained_on = {row["image"].tobytes() for row in _rows(config.train.source, 100)}
    scored = {row["image"].tobytes() for row in _rows(evaluator.source, 20)}
    assert not trained_on & scored


@pytest.mark.parametrize("path", [PRETRAIN, DEMO, FORKME])
def test_every_text_fits_with_the_answer_in_full(path):
  config = _load(path)
  tokenizer = tokenizers.Tokenizer(scenes.DEMO / "tokenizer.model")
  for row in _rows(config.train.source, 600):
    length = config.train.text_len
    encoding.train(tokenizer, row["prefix"], row["suffix"], text_len=length, overflow="error")
    for evaluator in config.evals:
      if evaluator.encoding == "decode":
        encoding.prompt(tokenizer, row["prefix"], text_len=evaluator.text_len, overflow="error")
        assert len(encoding.suffix_ids(tokenizer, row["suffix"])) <= evaluator.max_len


def test_class_names_are_one_piece_alone_and_in_the_plural():
  tokenizer = tokenizers.Tokenizer(scenes.DEMO / "tokenizer.model")
  assert tokenizer.vocab_size == variants.VARIANTS["tiny"][1].vocab_size
  for name in scenes.names("all"):
    one, many = tokenizer.encode(f" {name}"), tokenizer.encode(f" {name}s")
    assert len(one) == 1 and many[:1] == one and len(many) == 2


def test_every_place_to_edit_is_marked_in_order():
  marks = [
      line.strip() for line in (ROOT / FORKME).read_text().splitlines()
      if line.strip().startswith("# EDIT ")
  ]  # fmt: skip
  assert [mark[:8] for mark in marks] == [f"# EDIT {n}" for n in range(1, len(marks) + 1)]
  assert len(marks) == 5
