"""The config in docs/detection.md is one: it loads, and its columns fit together."""

import pathlib
import re

import pytest

from paligemma_jax.core import config as configs
from paligemma_jax.models import variants

DOCS = pathlib.Path(__file__).resolve().parent.parent / "docs"


@pytest.mark.parametrize(
    "source",
    [
        'sources.Yolo("data/data.yaml", "train")',
        'sources.Coco("data/train.json", images="data/images")',
        'sources.Voc("data/VOCdevkit/VOC2012", "train")',
    ],
)
def test_the_config_of_the_page_is_valid_with_each_source(source, tmp_path):
  (block,) = re.findall(r"```python\n(.*?)```", (DOCS / "detection.md").read_text("utf-8"), re.S)
  assert source in block
  path = tmp_path / "detector.py"
  path.write_text(block.replace('sources.Yolo("data/data.yaml", "train")', source))
  config = configs.load(f"{path}:res=224,model=tiny")
  configs.validate(config, training=True, variants=variants.VARIANTS)
  assert config.evals[0].banned == ("<seg127>", "<eos>")
