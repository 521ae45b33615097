"""The part of try_transformers.py that runs with one version of transformers: FOLDER -> JSON line.

For each model of the folder: whether `AutoProcessor` gives our ids and pixels, the largest
difference of the logits at the prompt's last token, whether greedy tokens are identical; the same
with each PEFT adapter. Each model is also saved again, to be loaded by us.
"""

from __future__ import annotations

import argparse
import inspect
import json
import pathlib
import warnings

import numpy as np


def main() -> None:
  """Prints {model: {check: value}}."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("folder", type=pathlib.Path)
  parser.add_argument("saved", type=pathlib.Path, help="folder for transformers' saved models")
  args = parser.parse_args()
  warnings.simplefilter("ignore")
  import torch
  import transformers

  transformers.logging.set_verbosity_error()
  torch.set_grad_enabled(False)
  found = {"version": transformers.__version__}
  for path in sorted(p for p in args.folder.iterdir() if (p / "expected.npz").exists()):
    with np.load(path / "expected.npz") as file:
      expected = dict(file)
    found[path.name] = _tried(path, expected, args.saved)
  print("FOUND", json.dumps(found))


def _tried(path: pathlib.Path, expected: dict[str, np.ndarray], saved: pathlib.Path) -> dict:
  import transformers

  result = {}
  try:
    result["processor"] = _processor(path / "model", expected)
    kind = transformers.PaliGemmaForConditionalGeneration
    model = kind.from_pretrained(path / "model", attn_implementation="eager").eval()
    result |= _compared(model, expected, "base")
    model.save_pretrained(saved / path.name)
  except Exception as e:
    result["error"] = f"{type(e).__name__}: {e}"[:200]
    return result
  for adapter in sorted((path / "adapters").iterdir()):
    try:
      result[adapter.name] = _adapted(path / "model", adapter, expected)
    except ImportError as e:
      result[adapter.name] = {"error": f"no peft: {e}"[:120]}
    except Exception as e:
      result[adapter.name] = {"error": f"{type(e).__name__}: {e}"[:200]}
  return result


def _adapted(base: pathlib.Path, adapter: pathlib.Path, expected: dict) -> dict:
  from peft import AutoPeftModel

  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    model = AutoPeftModel.from_pretrained(adapter, attn_implementation="eager").eval()
  said = [str(w.message) for w in caught if "adapter" in str(w.message).lower()]
  result = _compared(model, expected, adapter.name)
  return {**result, **({"warned": said[0][:200]} if said else {})}


def _processor(path: pathlib.Path, expected: dict[str, np.ndarray]) -> str:
  """'' if ids and pixels equal ours."""
  from PIL import Image
  from transformers import AutoProcessor

  processor = AutoProcessor.from_pretrained(path)
  for text, ids in json.loads(str(expected["texts"])):
    theirs = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    if list(theirs) != ids:
      return f"{text!r}: {theirs}, ours {ids}"[:200]
  image_id = processor.tokenizer.convert_tokens_to_ids("<image>")
  if image_id != int(expected["image_token"]):
    return f"<image> is {image_id}"
  pixels = processor.image_processor(Image.fromarray(expected["image"]), return_tensors="np")[
    "pixel_values"
  ][0]
  off = float(np.abs(pixels - expected["pixel_values"][0]).max())
  return "" if off < 1e-5 else f"pixels differ by {off:.3g}"


def _compared(model, expected: dict[str, np.ndarray], name: str) -> dict:
  import torch

  ids = torch.from_numpy(expected["input_ids"])
  inputs = {
    "input_ids": ids,
    "attention_mask": torch.ones_like(ids),
    "pixel_values": torch.from_numpy(expected["pixel_values"]),
  }
  inner = getattr(getattr(model, "base_model", None), "model", model)
  if "token_type_ids" in inspect.signature(inner.forward).parameters:
    inputs["token_type_ids"] = torch.zeros_like(ids)
  want = expected[f"{name}/logits"]
  logits = model(**inputs).logits[:, -1].float().numpy()[:, : want.shape[1]]
  num = expected[f"{name}/generated"].shape[1]
  tokens = model.generate(**inputs, max_new_tokens=num, min_new_tokens=num, do_sample=False)
  tokens = tokens[:, -num:].numpy()
  same = bool((tokens == expected[f"{name}/generated"]).all())
  return {"logits": float(np.abs(logits - want).max()), "greedy": same}


if __name__ == "__main__":
  main()
