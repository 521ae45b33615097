"""Counts our functions and files that run in a small fine-tuning run of two steps.

    python -m tests.trace_of_a_step            # the counts, as JSON
    python -m tests.trace_of_a_step --list     # each function too

The run is `loop.train` on a JSONL file, from published weights in an npz, without evaluators or
TensorBoard, saved at the end. A function counts once, in whatever thread it runs; lambdas and
comprehensions are part of the function that they stand in, and imports do not count. Two stretches
are counted: the whole run, and "steps", from the reading of the first batch to the end of the
second step with its line and its save; reading, tracing and compiling are in it.
"""

import inspect
import json
import pathlib
import sys
import tempfile
import threading

import numpy as np
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = str(ROOT / "paligemma_jax") + "/"
_BEGIN, _END = "_Run._do_steps", "_Run._end"
_PARTS = ("<lambda>", "<listcomp>", "<dictcomp>", "<setcomp>", "<genexpr>")
_CONFIG = """
import paligemma_jax as pj
from paligemma_jax import pp
from paligemma_jax import sources

def get_config():
  c = pj.default_config()
  c.model.update(variant="tiny", res=28, overrides={{"llm": {{"depth": 2}}, "img": {{"depth": 2}}}})
  source = sources.Jsonl("{folder}/rows.jsonl", columns=("image", "prefix", "suffix"))
  c.train.update(source=source, pp=(pp.Decode(), pp.Resize(28)), text_len=16, batch_size=8)
  c.train.total = "2 steps"
  c.init, c.tokenizer = "{folder}/weights.npz", "{tokenizer}"
  c.ckpt.update(every="1000 steps", async_save=False)
  c.log.update(every="1 steps", tensorboard=False)
  c.optim.lr = 1e-3
  return c
"""


def make_files(folder: pathlib.Path) -> pathlib.Path:
  """Rows, weights and the config file, whose path is returned."""
  from paligemma_jax.models import paligemma
  from paligemma_jax.models import variants
  from paligemma_jax.trainer import setup as setups

  lines = []
  for i in range(16):
    Image.new("RGB", (32, 32), (i, 60, 200)).save(folder / f"{i}.png")
    lines.append({"image": f"{i}.png", "prefix": "what?", "suffix": f"{i % 4}"})
  (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
  sizes = {"llm": {"depth": 2}, "img": {"depth": 2}}
  shapes = paligemma.param_shapes(variants.get("tiny", res=28, overrides=sizes))
  rng = np.random.default_rng(0)
  leaves = {f"params/{n}": rng.normal(0, 0.02, s.shape) for n, s in shapes.items()}
  np.savez(folder / "weights.npz", **{n: w.astype(np.float32) for n, w in leaves.items()})
  config = folder / "config.py"
  config.write_text(_CONFIG.format(folder=folder, tokenizer=setups.DEMO_TOKENIZER))
  return config


def trace(run) -> dict[str, set[tuple[str, str]]]:
  """{stretch: the (file, function) that ran in it} of `run()`."""
  seen = {"run": set(), "steps": set()}
  is_step = False

  def note(frame, event, _):
    nonlocal is_step
    code = frame.f_code
    if event != "call" or not code.co_filename.startswith(PACKAGE):
      return
    if not code.co_flags & inspect.CO_OPTIMIZED:  # The body of a class or of a module.
      return
    name = code.co_qualname
    is_step = (is_step or name == _BEGIN) and name != _END
    if not name.endswith(_PARTS):
      found = code.co_filename.removeprefix(PACKAGE), name
      seen["run"].add(found)
      if is_step:
        seen["steps"].add(found)

  threading.setprofile(note)
  sys.setprofile(note)
  try:
    run()
  finally:
    sys.setprofile(None)
    threading.setprofile(None)
  return seen


def main() -> None:
  from paligemma_jax.config import load as configs
  from paligemma_jax.trainer import loop

  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    config = configs.load(str(make_files(folder)), [])
    seen = trace(lambda: loop.train(config, folder / "run"))
  if "--list" in sys.argv[1:]:
    for file, function in sorted(seen["run"]):
      print("steps" if (file, function) in seen["steps"] else "     ", file, function)
  counts = {
    stretch: {"functions": len(found), "files": len({file for file, _ in found})}
    for stretch, found in seen.items()
  }
  print(json.dumps(counts))


if __name__ == "__main__":
  main()
