"""The configs in docs/detection.md and docs/segmentation.md load, fit together and run."""

import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from paligemma_jax import evals
from paligemma_jax.config import load as configs
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
  logged = [  # As if written by one token.
    evals.Output(0, text=text, tokens=(9,), token_logprobs=(-0.5,), token_ends=(len(text),))
    for text in (suffix, suffix.partition(" ; ")[0])
  ]
  scores = [evaluator.score([row], [output]) for output in logged]
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


@pytest.mark.slow  # A run of the tiny model for each page, a minute each on two cores.
@pytest.mark.parametrize("page", ["detection.md", "segmentation.md"])
def test_the_config_of_the_page_runs_on_crowded_pictures(page, tmp_path):
  rng = np.random.default_rng(0)
  for split in ("train", "val"):
    boxes = [_folder(tmp_path, split, i, 60 if i == 3 else 2, rng) for i in range(4)]
    _coco(tmp_path / "data" / f"{split}.json", split, boxes)
  (tmp_path / "data" / "data.yaml").write_text(
    "train: images/train\nval: images/val\nnames: [hard hat]\n"
  )
  text = (DOCS / page).read_text("utf-8")
  block = next(b for b in re.findall(r"```python\n(.*?)```", text, re.S) if "get_config" in b)
  block = block.replace("pj.pretrained(model, res)", '"tiny_112"')
  block = block.replace('images="data/images"', 'images="data"').replace("vae-oid.npz", "")
  tail = (
    "\n_of_page = get_config\n\ndef get_config():\n  c = _of_page(res=112, model='tiny')\n"
    "  c.train.update(batch_size=2, total='2 steps')\n  c.log.tensorboard = False\n"
    "  c.evals = tuple(e.replace(max_len=24) for e in c.evals)\n  return c\n"
  )
  (tmp_path / "mine.py").write_text(block + tail)
  done = subprocess.run(
      [sys.executable, "-m", "paligemma_jax.train", "--config", "mine.py", "--workdir", "run"],
      cwd=tmp_path, capture_output=True, text=True, check=False,
      env={**os.environ, "PYTHONPATH": str(DOCS.parent), "JAX_PLATFORMS": "cpu"},
  )  # fmt: skip
  assert done.returncode == 0, done.stderr[-2000:]
  metrics = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
  pictures = (tmp_path / "run" / "gallery.html").read_text().count("<article")
  assert pictures >= 4
  if page == "detection.md":
    assert "val/map/ap/hard hat" in metrics and metrics["val/map/num_boxes"] == 66
    scored = json.loads((tmp_path / "run/predictions/val/map-2.json").read_text())
    assert all(0 <= box["score"] <= 1 and box["image_id"] for box in scored)
  else:
    assert metrics["val/seg/num"] == 4


def _folder(root, split, i, count, rng):
  """An image and its YOLO label; the boxes in pixels."""
  path = root / "data" / "images" / split / f"{i}.jpg"
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(rng.integers(0, 255, (48, 64, 3), np.uint8)).save(path)
  corners = rng.integers(0, (50, 36), (count, 2)).tolist()
  label = root / "data" / "labels" / split / f"{i}.txt"
  label.parent.mkdir(parents=True, exist_ok=True)
  lines = (f"0 {(x + 6) / 64} {(y + 6) / 48} {12 / 64} {12 / 48}\n" for x, y in corners)
  label.write_text("".join(lines))
  return [(x, y, 12, 12) for x, y in corners]


def _coco(path, split, pictures):
  annotations = [
      {"image_id": i, "category_id": 1, "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0,
       "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]]}
      for i, boxes in enumerate(pictures) for x, y, w, h in boxes
  ]  # fmt: skip
  images = [
    {"id": i, "file_name": f"images/{split}/{i}.jpg", "height": 48, "width": 64}
    for i in range(len(pictures))
  ]
  categories = [{"id": 1, "name": "hard hat"}]
  content = {"images": images, "annotations": annotations, "categories": categories}
  path.write_text(json.dumps(content))
