"""For tests of the configuration: a source, ops, an evaluator, a config that uses them, files."""

import textwrap

from paligemma_jax.config import load
from paligemma_jax.core import spec


@spec.spec
class Rows:
  """A source whose columns are told; () means unknown until run time."""

  names: tuple = ("image", "text")
  path: str = "rows.jsonl"

  def makes(self):
    return self.names

  def open(self):
    return []


@spec.spec
class Make:
  """An op that reads `reads` and makes `writes`; `size` is the side of the image it makes."""

  reads: tuple = ()
  writes: tuple = ()
  size: int = 0

  def needs(self):
    return self.reads

  def makes(self):
    return self.writes

  def __call__(self, row, rng):
    return row


@spec.spec
class Judge:
  """An evaluator that reads the columns in `reads`."""

  name: str
  source: object = None
  pp: tuple = ()
  every: str = ""
  batch_size: int = 32
  max_len: int = 64
  text_len: int = 64
  limit: int = 0
  start_limit: int = 0
  bootstrap: int = 0
  overflow: str = "error"
  sampler: str = "greedy"
  best_of: int = 1
  beam_size: int = 1
  banned: tuple = ()
  constraint: object = None
  temperature: object = None
  top_k: int = 0
  top_p: float = 1.0
  repetition_penalty: float = 1.0
  stop: object = ()
  reads: tuple = ()

  encoding = "decode"

  def columns(self):
    return self.reads

  def score(self, rows, outputs):
    return {}


RESIZE = Make(("image",), ("image",))
FORMAT = Make(("text",), ("prefix", "suffix"))
OPS = (RESIZE, FORMAT)


def full_config():
  """A configuration that training could start with, with each kind of value in it."""
  c = load.default_config()
  c.train.update(source=Rows(), pp=OPS, total="3 epochs", batch_size=8)
  c.optim.update(lr=1e-5, freeze=("img/.*",), lr_mults=(("llm/.*", 0.1),))
  c.model.overrides = {"llm": {"depth": 2}}
  c.mesh.shape = (("fsdp", -1),)
  c.evals = (Judge("val/acc", Rows(), OPS, every="10%"),)
  return c


def write(folder, body, name="conf.py"):
  """Writes the dedented text into the folder; the path."""
  path = folder / name
  path.write_text(textwrap.dedent(body), encoding="utf-8")
  return str(path)
