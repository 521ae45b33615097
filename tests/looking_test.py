"""What people look at before and after training: `check` and `show`; and exports from Python."""

import csv
import html

import numpy as np
import pytest
from PIL import Image

import paligemma_jax as pj
from paligemma_jax import api
from tests import golden_files

RES = 56


def table(folder, rows):
  folder.mkdir(exist_ok=True)
  for i, _ in enumerate(rows):
    Image.fromarray(np.full((20, 30, 3), 40 * i % 256, np.uint8)).save(folder / f"{i}.png")
  with open(folder / "rows.csv", "w", newline="") as file:
    csv.writer(file).writerows([("image", "prefix", "suffix"), *rows])
  columns = ("image", "prefix", "suffix")
  return pj.sources.Csv(str(folder / "rows.csv"), images=str(folder), columns=columns)


def config(source, *, text_len=12, **train):
  c = pj.default_config()
  c.model.update(variant="tiny", res=RES)
  c.optim.lr = 1e-3
  ops = (pj.pp.Decode(), pj.pp.Resize(RES))
  c.train.update(source=source, pp=ops, text_len=text_len, batch_size=2, total="1 epoch", **train)
  c.evals = (pj.evals.Perplexity("val/loss", source, ops, every="end", text_len=text_len),)
  return c


def test_rows_are_checked_as_training_reads_them(tmp_path):
  rows = [(f"{i}.png", "count", "two") for i in range(6)]
  rows[2] = ("missing.png", "count", "two")
  rows[4] = ("4.png", "count", "two " * 40)
  rows[5] = ("5.png", "count", "")
  found = pj.check(config(table(tmp_path, rows)))
  reasons = {where.rsplit(":", 1)[1]: why for name, where, why in found.bad if name == "training"}
  assert set(reasons) == {"4", "6", "7"}
  assert "missing.png" in reasons["4"] and "empty" in reasons["7"]
  assert {name for name, _, _ in found.bad} == {"training", "val/loss"}
  line = next(line for line in str(found).splitlines() if line.startswith("training"))
  assert line.split()[1:4] == ["6", "6", "3"]
  assert "Bad rows" in found.text and found.text.count("count -> two") == 3
  assert found.html.count("<article") == 3 and "prediction" not in found.html
  assert found._repr_html_().startswith("<iframe srcdoc=")


def test_of_many_rows_some_are_read_from_everywhere(tmp_path):
  source = table(tmp_path, [(f"{i}.png", "count", f"{i}") for i in range(60)])
  found = pj.check(config(source), limit=10)
  line = next(line for line in str(found).splitlines() if line.startswith("training"))
  assert line.split()[1:3] == ["60", "10"] and not found.bad
  answers = [int(line.split(" -> ")[1]) for line in found.text.splitlines() if " -> " in line]
  assert len(answers) == 8 and min(answers) < 20 and max(answers) > 40


def test_notes_on_rows_are_counted(tmp_path):
  source = table(tmp_path, [("0.png", "count", "two " * 40), ("1.png", "count", "one")])
  found = pj.check(config(source, overflow="truncate"))
  assert "truncated" in found.text and [name for name, _, _ in found.bad] == ["val/loss"]


def test_noise_boxes_are_not_shown_as_answers():
  source = pj.sources.Scenes(num_rows=4, tasks=("detect",), size=RES)
  c = config(source, text_len=60)
  ops = (pj.pp.Decode(), pj.pp.Resize(RES), pj.pp.NoiseBoxes(bins=1024, total=4))
  c.train.pp = ops
  c.evals = ()
  found = pj.check(c)
  assert not found.bad and "<loc" in found.text and "<seg127>" not in found.text
  assert "box-target" in found.html and "box-predicted" not in found.html.partition("</style>")[2]


def test_a_configuration_that_cannot_run_is_an_error():
  with pytest.raises(pj.ConfigError, match=r"train\.source"):
    pj.check(pj.default_config())


def test_answers_are_shown_with_their_images():
  image = np.zeros((900, 300, 3), np.uint8)
  answer = api.Prediction("<loc0000><loc0000><loc0512><loc0512> a <b>", (), 0.0, ())
  page = pj.show(image, ["detect a", "caption"], [answer, "a cat"], ["", "a cat"])
  assert str(page).splitlines()[1] == "caption -> a cat"
  body = html.unescape(page._repr_html_())
  assert 'viewBox="0 0 213 640"' in body and "a &lt;b&gt;" in body and "a cat ✓" in body
  alone = pj.show([image, np.zeros((8, 8, 3), np.float32)], "caption", ["x", "y"])
  assert alone.html.count("<article") == 2 and "<dt>target" not in alone.html
  with pytest.raises(pj.ConfigError, match="1 images, 1 prompts, 2 predictions"):
    pj.show([image], ["a"], ["x", "y"])


def test_weights_are_converted_from_python_as_by_the_command(tmp_path):
  said = []
  source = golden_files.path("bv/tiny.npz")
  path = pj.convert(source, tmp_path / "out", format="native", log=said.append)
  assert path == tmp_path / "out" and said[-1] == f"wrote {path}"
  assert pj.load(path).params.keys() == pj.load(source).params.keys()
  with pytest.raises(pj.ConfigError, match="exists; nothing was changed"):
    pj.convert(source, path, format="native")
  with pytest.raises(pj.ConfigError, match=r"'pefd'.*'peft'"):
    pj.convert(source, tmp_path / "other", format="pefd")
  with pytest.raises(pj.CheckpointError, match=r"no run of ours"):
    pj.convert(source, tmp_path / "other", format="peft")
