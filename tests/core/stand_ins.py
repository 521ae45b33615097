"""Small real specs for tests of the configuration: a source, ops and an evaluator."""

from paligemma_jax.core import spec


@spec.spec
class Rows:
  """A source whose columns are told; () means unknown until run time."""

  names: tuple = ("image", "text")
  path: str = "rows.jsonl"

  def columns(self):
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
  reads: tuple = ()

  encoding = "decode"

  def columns(self):
    return self.reads

  def score(self, rows, outputs):
    return {}


RESIZE = Make(("image",), ("image",))
FORMAT = Make(("text",), ("prefix", "suffix"))
OPS = (RESIZE, FORMAT)
