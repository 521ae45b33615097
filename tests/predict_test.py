"""python -m paligemma_jax.predict, as a user runs it."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from paligemma_jax.checkpoint import export
from paligemma_jax.core import sampling_options
from paligemma_jax.models import param_table
from paligemma_jax.trainer import setup
from tests import run_train

_SIZES = {
  "img": dict(width=16, depth=1, mlp_dim=16, num_heads=2, patch_size=14),
  "llm": dict(
    width=16,
    depth=1,
    mlp_dim=16,
    num_heads=2,
    num_kv_heads=1,
    head_dim=8,
    vocab_size=2176,
    post_norms=False,
    attn_softcap=0.0,
    final_softcap=0.0,
    query_scale="head_dim",
    sliding_window=0,
  ),
  "res": 28,
}


def _predict(*args):
  return subprocess.run(
    [sys.executable, "-m", "paligemma_jax.predict", *map(str, args)],
    cwd=run_train.ROOT,
    text=True,
    capture_output=True,
    check=False,
  )


def test_help_and_wrong_calls_cost_no_jax():
  usage = _predict("--help").stdout
  assert "usage: python -m paligemma_jax.predict" in usage
  for key in (*sampling_options.FIELDS, "exif"):
    assert f"--{key} " in usage
  asked = ["--ckpt=a", "--out=b", "--prompt=p", "c.png"]
  for args, code, logged in (
    (["--ckpt=a", "--out=b"], 78, "Name images, or --rows"),
    (["--ckpt=a", "--out=b", "c.png"], 78, "need a --prompt"),
    (["--ckpt=a", "c.png"], 2, "--out"),
    (["--ckpt=a", "--out=b", "--prompt=p", "--seed=-1", "c.png"], 78, "--seed is a whole number"),
    ([*asked, "--temperature=-1"], 78, "temperature=-1.0 must be a number from 0 on"),
    ([*asked, "--top_k=-1"], 78, "top_k=-1 must be a whole number from 0 on"),
    ([*asked, "--top_p=2"], 78, "top_p=2.0 must be a number above 0 and at most 1"),
    ([*asked, "--repetition_penalty=0"], 78, "repetition_penalty=0.0 must be a number above 0"),
    ([*asked, "--stop", ""], 78, "stop=[''] must be a text, or several, that are not empty"),
    ([*asked, "--sampler=top_k(5)", "--top_k=5"], 78, "choose one of the two ways"),
  ):
    done = _predict(*args)
    assert done.returncode == code and logged in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow  # 60 s: three processes with JAX.
def test_images_and_rows_are_answered_and_a_second_run_has_nothing_to_do(tmp_path):
  rng = np.random.default_rng(0)
  params = {
    n: rng.normal(0, 0.3, s).astype(np.float32) for n, s in param_table.shapes(_SIZES).items()
  }
  tokenizer = setup.DEMO_TOKENIZER.read_bytes()
  weights = export.save_native(tmp_path / "weights", params, _SIZES, tokenizer=tokenizer)
  paths = []
  for i in range(3):
    paths.append(tmp_path / f"{i}.png")
    Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save(paths[-1])
  shared = (f"--ckpt={weights}", "--dtype=float32", "--batch_size=2", "--max_new_tokens=4")
  by_name = (*shared, "--prompt=caption en", f"--out={tmp_path / 'out.jsonl'}", *paths)
  done = _predict(*by_name)
  assert done.returncode == 0, done.stderr
  lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
  assert [line["image"] for line in lines] == list(map(str, paths))
  assert all(line["logprob"] < 0 and isinstance(line["text"], str) for line in lines)
  again = _predict(*by_name)
  assert again.returncode == 0 and "all 3 answers are in" in again.stderr

  exif = Image.Exif()
  exif[0x112] = 6
  for path in paths:
    Image.open(path).save(path.with_suffix(".tiff"), exif=exif)
  stop = lines[0]["text"][1:3]
  done = _predict(
    *shared,
    "--prompt=caption en",
    f"--out={tmp_path / 'cut.jsonl'}",
    "--top_k=1",
    "--exif=false",
    *(path.with_suffix(".tiff") for path in paths),
    "--stop",
    stop,
  )
  assert done.returncode == 0, done.stderr
  cut = [json.loads(line)["text"] for line in (tmp_path / "cut.jsonl").read_text().splitlines()]
  assert stop and cut == [line["text"].partition(stop)[0] for line in lines]

  rows = [{"image": p.name, "prefix": "caption en", "id": i} for i, p in enumerate(paths)]
  (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  by_row = (*shared, f"--rows={tmp_path / 'rows.jsonl'}", f"--out={tmp_path / 'rows_out.jsonl'}")
  done = _predict(*by_row)
  assert done.returncode == 0, done.stderr
  from_rows = [json.loads(line) for line in (tmp_path / "rows_out.jsonl").read_text().splitlines()]
  assert [line["id"] for line in from_rows] == [0, 1, 2]
  assert [line["text"] for line in from_rows] == [line["text"] for line in lines]
