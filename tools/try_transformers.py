"""Tests our Hugging Face exports and PEFT adapters with many versions of transformers.

    python tools/try_transformers.py --baseline_python baselines/bin/python --folder versions

`--baseline_python` has torch, peft and the rest of requirements/bench.txt. Each version of
transformers is installed into its own folder, which comes first on that Python's path. Models are
small and random, with the demo's tokenizer.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # So that it runs from a clone, from any folder.

import numpy as np  # noqa: E402

# {version: the required versions of the other two packages}
VERSIONS = {
  "4.45.2": ("tokenizers>=0.20,<0.21", "huggingface_hub<0.28"),
  "4.47.1": ("tokenizers>=0.21,<0.22", "huggingface_hub<0.30"),
  "4.49.0": ("tokenizers>=0.21,<0.22", "huggingface_hub<0.30"),
  "4.52.4": ("tokenizers>=0.21,<0.22", "huggingface_hub<1"),
  "4.57.6": ("tokenizers>=0.22,<0.23", "huggingface_hub<1"),
  "5.0.0": ("tokenizers>=0.22,<0.23", "huggingface_hub>=1.5,<2"),
  "5.3.0": ("tokenizers>=0.22,<0.23", "huggingface_hub>=1.5,<2"),
  "5.6.2": ("tokenizers>=0.22,<0.23", "huggingface_hub>=1.5,<2"),
  "5.12.0": ("tokenizers>=0.22,<0.23", "huggingface_hub>=1.5,<2"),
  "": (),  # The version in the baseline's Python.
}
_BESIDE = (
    "requests", "urllib3", "idna", "certifi", "charset_normalizer", "httpx", "httpcore", "sniffio",
)  # fmt: skip
_NUM_NEW = 8
_PROMPTS = ("detect two tigers ; cat", "answer en what is <loc0100>?")
_TEXTS = (
    "<loc0001><loc0100> cat ; <seg005> two tigers   x\n\n", "  a\t b", "caption en\n", "é日本🐯",
    "", "a<loc1023>b<loc1024>", "\n\n\n\n\n", "      ",
)  # fmt: skip


def main() -> None:
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--baseline_python", required=True)
  parser.add_argument("--folder", type=pathlib.Path, required=True)
  parser.add_argument("--versions", nargs="*", default=list(VERSIONS))
  args = parser.parse_args()
  models = args.folder / "models"
  for generation in (1, 2):
    if not (models / f"paligemma{generation}").exists():
      _make(models / f"paligemma{generation}", generation)
  print(
    "| transformers | model | processor | logits | greedy | adapter of text | of vision, with"
    " norms and projector | read back |"
  )
  print("|---|---|---|---|---|---|---|---|")
  for version in args.versions:
    found = _run(version, args.baseline_python, args.folder)
    for name in sorted(p.name for p in models.iterdir()):
      print(_line(found, name, args.folder / "saved" / (version or "newest")), flush=True)


def _run(version: str, python: str, folder: pathlib.Path) -> dict:
  place = folder / "versions" / version
  if version and not place.exists():
    wanted = [f"transformers=={version}", *VERSIONS[version], *_BESIDE]
    command = [python, "-m", "pip", "install", "-q", "--no-deps", "--target", str(place), *wanted]
    subprocess.run(command, check=True)
  env = {**os.environ, "PYTHONPATH": str(place) if version else "", "HF_HUB_OFFLINE": "1"}
  saved = folder / "saved" / (version or "newest")
  side = ROOT / "tools" / "try_transformers_side.py"
  command = [python, str(side), str(folder / "models"), str(saved)]
  done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
  lines = [line for line in done.stdout.splitlines() if line.startswith("FOUND ")]
  if not lines:
    return {"version": version, "error": (done.stderr.strip().splitlines() or ["nothing"])[-1]}
  return json.loads(lines[-1].removeprefix("FOUND "))


def _line(found: dict, name: str, saved: pathlib.Path) -> str:
  result = found.get(name) or {"error": found.get("error", "")}
  head = f"| {found['version']} | {name} |"
  if "error" in result:
    return f"{head} {result.get('processor', '')} | {result['error']} | | | | |"
  cells = [
    result["processor"] or "ours",
    f"{result['logits']:.1e}",
    "ours" if result["greedy"] else "others",
    _adapter(result["text"]),
    _adapter(result["vision"]),
    _read_back(saved / name, saved.parent.parent / "models" / name),
  ]
  return f"{head} {' | '.join(cells)} |"


def _adapter(result: dict) -> str:
  if "error" in result:
    return result["error"]
  greedy = "" if result["greedy"] else ", other tokens"
  warned = f", warns: {result['warned']}" if "warned" in result else ""
  return f"{result['logits']:.1e}{greedy}{warned}"


def _read_back(saved: pathlib.Path, model: pathlib.Path) -> str:
  """The largest difference between our logits with transformers' saved weights and with ours."""
  import paligemma_jax

  with np.load(model / "expected.npz") as file:
    expected = dict(file)
  found = _answers(paligemma_jax.load(saved, dtype="float32"), expected)[0]
  return f"{np.abs(found - expected['base/logits']).max():.1e}"


def _make(folder: pathlib.Path, generation: int) -> None:
  """Exports a model and adapters for transformers; our own outputs with each."""
  from paligemma_jax import api
  from paligemma_jax.checkpoint import opening
  from paligemma_jax.checkpoint import peft_export
  from paligemma_jax.data import text_encoding
  from paligemma_jax.data import tokenizer as tokenizers
  from paligemma_jax.models import param_table
  from paligemma_jax.models import variants
  from paligemma_jax.pp import image_input
  from paligemma_jax.trainer import setup

  sizes = _sizes(generation)
  rng = np.random.default_rng(generation)
  params = {
    name: (0.05 if len(shape) < 3 or "embedding" in name else 0.2)
    * rng.normal(size=shape).astype(np.float32)
    for name, shape in param_table.shapes(sizes).items()
  }
  tokenizer = tokenizers.Tokenizer(setup.DEMO_TOKENIZER)
  config = opening.config_of(sizes, dtype="float32")
  pg = api.PaliGemma(config, params, tokenizer)
  pg.save(folder / "model", format="hf")
  image = rng.integers(0, 256, (56, 56, 3), np.uint8)
  pixels = image_input.read(image, 56).astype(np.float32).transpose(2, 0, 1) / 127.5 - 1
  prompts = [text_encoding.prefix_ids(tokenizer, p) for p in _PROMPTS]
  length = min(map(len, prompts))
  prompts = [[*p[: length - 1], p[-1]] for p in prompts]
  image_token = config.llm.vocab_size
  expected = {
    "texts": np.array(json.dumps([(t, tokenizer.encode(t)) for t in _TEXTS])),
    "image_token": np.array(image_token),
    "image": image,
    "pixel_values": np.stack([pixels] * len(prompts)),
    "input_ids": np.array([[image_token] * config.num_image_tokens + p for p in prompts]),
  }
  expected["base/logits"], expected["base/generated"] = _answers(pg, expected)
  kinds = {
      "text": (variants.Lora(rank=4, alpha=8.0, targets=("llm/layers/.*",)), set()),
      "vision": (
          variants.Lora(
              rank=2, alpha=4.0, rslora=True, dora=True,
              targets=("img/Transformer/.*", "llm/layers/attn/.*"),
          ),
          {"llm/layers/pre_attention_norm/scale", "llm/final_norm/scale", "img/head/kernel",
           "img/Transformer/encoderblock/LayerNorm_0/scale", "img/Transformer/encoder_norm/bias"},
      ),
  }  # fmt: skip
  for kind, (spec, names_trained) in kinds.items():
    adapters = _adapters(spec, params, rng)
    trained = {n: params[n] + 0.1 for n in peft_export.modules_of(names_trained, sizes)}
    peft_export.save_peft(
        folder / "adapters" / kind, adapters, sizes, spec, trained=trained,
        base=str((folder / "model").absolute()),
    )  # fmt: skip
    tuned = api.PaliGemma(config, _merged(spec, params | trained, adapters), tokenizer)
    expected[f"{kind}/logits"], expected[f"{kind}/generated"] = _answers(tuned, expected)
  np.savez(folder / "expected.npz", **expected)


def _answers(pg, expected) -> tuple[np.ndarray, np.ndarray]:
  """(float32[B, V] logits behind the prompts, int[B, N] greedy tokens)."""
  image = expected["pixel_values"].transpose(0, 2, 3, 1)
  prompts = expected["input_ids"][:, -np.sum(expected["input_ids"][0] != expected["image_token"]) :]
  logits = np.asarray(pg.logits(image, prompts, np.zeros_like(prompts)))[:, -1]
  answers = pg.generate(list(image), prompts.tolist(), max_new_tokens=_NUM_NEW, banned=[1])
  return logits, np.array([a.tokens for a in answers])


def _sizes(generation: int) -> dict:
  return {
      "img": {"width": 48, "depth": 2, "mlp_dim": 96, "num_heads": 4, "patch_size": 14},
      "llm": {
          "width": 64, "depth": 3, "mlp_dim": 128, "num_heads": 4,
          "num_kv_heads": 1 if generation == 1 else 2, "head_dim": 16, "vocab_size": 2176,
          "post_norms": generation == 2, "attn_softcap": 50.0 if generation == 2 else 0.0,
          "final_softcap": 0.0, "query_scale": "head_dim", "sliding_window": 0,
      },
      "res": 56,
  }  # fmt: skip


def _adapters(spec, params, rng) -> dict:
  from paligemma_jax.models import linear
  from paligemma_jax.models import lora

  adapters = {}
  for name in lora.targets(spec, params):
    stack, inputs, out = linear.in_out(name, params[name].shape)
    parts = {"lora_a": (*stack, *inputs, spec.rank), "lora_b": (*stack, spec.rank, *out)}
    adapters[name] = {k: 0.1 * rng.normal(size=s).astype(np.float32) for k, s in parts.items()}
    if spec.dora:
      adapters[name]["lora_magnitude"] = rng.uniform(0.5, 2, (*stack, *out)).astype(np.float32)
  return adapters


def _merged(spec, params, adapters) -> dict:
  from paligemma_jax.models import lora

  merged = dict(params)
  for name, parts in adapters.items():
    short = {key.removeprefix("lora_"): x for key, x in parts.items()}
    merged[name] = lora.merged(spec, name, params[name], **short)
  return merged


if __name__ == "__main__":
  main()
