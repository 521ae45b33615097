"""A config file with a row op of its own, in a folder from which nothing can be imported."""

import json

import numpy as np
from PIL import Image

_NEIGHBOUR = """
def darker(image, by):
  return image // by
"""
_CONFIG = '''
import os
import pathlib
import threading

import neighbour_of_own_ops
import paligemma_jax as pj
from paligemma_jax import evals
from paligemma_jax import pp
from paligemma_jax import sources


@pj.spec
class Darken:
  """Notes its process, and hangs at one row."""

  folder: str
  by: int = 2
  hang_at: int = -1

  def needs(self):
    return ("image",)

  def makes(self):
    return ("image",)

  def __call__(self, row, rng):
    (pathlib.Path(self.folder) / f"pid-{os.getpid()}").touch()
    if row["_row"] == self.hang_at:
      (pathlib.Path(self.folder) / "hangs").touch()
      threading.Event().wait()
    return {**row, "image": neighbour_of_own_ops.darker(row["image"], self.by)}


@pj.sweepable
def get_config(hang_at: int = -1, total: str = "3 steps", evaluate: bool = True):
  c = pj.default_config()
  c.model.update(variant="tiny", res=28, overrides={"llm": {"depth": 1}, "img": {"depth": 1}})
  here = pathlib.Path(__file__).parent
  rows = sources.Jsonl(str(here / "rows.jsonl"), images=str(here))
  ops = (pp.Decode(), pp.Resize(28), Darken(str(here), hang_at=hang_at), pp.Format("what"))
  c.train.update(source=rows, pp=ops, text_len=16, batch_size=4, total=total, shuffle=False)
  c.optim.lr = 1e-3
  c.log.update(every="1 steps", tensorboard=False)
  every = "end" if evaluate else ""
  c.evals = (evals.Perplexity("val/loss", rows, ops, every=every, text_len=16, batch_size=8),)
  return c
'''


def write(folder):
  """The path of the config file; its folder has a blank in its name, the file a dash."""
  folder = folder / "my configs"
  folder.mkdir()
  rng = np.random.default_rng(0)
  lines = []
  for i in range(24):
    Image.fromarray(rng.integers(0, 255, (30, 30, 3), np.uint8)).save(folder / f"{i}.png")
    lines.append(json.dumps({"image": f"{i}.png", "suffix": f"number {i}"}) + "\n")
  (folder / "rows.jsonl").write_text("".join(lines))
  (folder / "neighbour_of_own_ops.py").write_text(_NEIGHBOUR)
  (folder / "own-op.py").write_text(_CONFIG)
  return folder / "own-op.py"
