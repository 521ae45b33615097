"""The config in docs/detection.md is one: it loads, and its columns fit together."""

import json
import pathlib
import re

import numpy as np
import pytest
from PIL import Image

from paligemma_jax import evals
from paligemma_jax.core import config as configs
from paligemma_jax.models import variants

DOCS = pathlib.Path(__file__).resolve().parent.parent / "docs"


def blocks():
  return re.findall(r"```python\n(.*?)```", (DOCS / "detection.md").read_text("utf-8"), re.S)


def test_the_jsonl_of_the_page_is_scored_by_map(tmp_path, monkeypatch):
  suffix = "<loc0102><loc0102><loc0512><loc0512> cat ; <loc0600><loc0600><loc0900><loc0900> dog"
  (tmp_path / "data/images").mkdir(parents=True)
  Image.new("RGB", (64, 48)).save(tmp_path / "data/images/a.jpg")
  line = {"image": "a.jpg", "prefix": "detect cat ; dog", "suffix": suffix}
  (tmp_path / "data/val.jsonl").write_text(json.dumps(line) + "\n")
  monkeypatch.chdir(tmp_path)
  found = {}
  exec(blocks()[1], found)
  evaluator = found["evaluator"]
  row = dict(evaluator.source.open()[0])
  for op in evaluator.pp:
    row = op(row, np.random.default_rng(0))
  assert (row["height"], row["width"], row["image"].shape) == (48, 64, (448, 448, 3))
  said = [  # As if written by one token.
      evals.Output(0, text=text, tokens=(9,), token_logprobs=(-0.5,), token_ends=(len(text),))
      for text in (suffix, suffix.partition(" ; ")[0])
  ]
  scores = [evaluator.score([row], [output]) for output in said]
  # All found, and one of two classes.
  assert [s["map"] for s in scores] == [pytest.approx(1), pytest.approx(0.5)]
  assert scores[1]["ap/dog"] == 0


@pytest.mark.parametrize(
    "source",
    [
        'sources.Yolo("data/data.yaml", "train")',
        'sources.Coco("data/train.json", images="data/images")',
        'sources.Voc("data/VOCdevkit/VOC2012", "train")',
    ],
)
def test_the_config_of_the_page_is_valid_with_each_source(source, tmp_path):
  block, _ = blocks()
  assert source in block
  path = tmp_path / "detector.py"
  path.write_text(block.replace('sources.Yolo("data/data.yaml", "train")', source))
  config = configs.load(f"{path}:res=224,model=tiny")
  configs.validate(config, training=True, variants=variants.VARIANTS)
  assert config.evals[0].banned == ("<seg127>", "<eos>")
