"""Makes tests/golden/peft and tests/golden/tokenizers.json: outputs of PEFT and tokenizers.

    baselines/bin/python tools/make_hf_goldens.py     # with requirements/bench.txt

tokenizers.json has the ids of difficult texts, by the tokenizers package with the demo's
tokenizer.json. Each folder of peft has one kind of adapter with random weights, as written by
`save_pretrained`, and `expected.npz`: for the first row of the base's golden.npz, the logits at its
text and the greedy tokens after its prompt.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import pathlib
import random
import shutil
import sys

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # So that it runs from a clone, from any folder.

GOLDEN = ROOT / "tests" / "golden"
BASE = GOLDEN / "hf_paligemma2"
_NUM_IMAGE_TOKENS = 16
_CHARACTERS = "aábßçéfgæØ ñ😀🐯👨‍👩‍👧한국어日本語العربيةहि\t\r\n\u200b\u00a0\u2028"
_CHARACTERS += "\ufeff▁<>0123456789.,;:!?'-_/"
_VISION_OR_TEXT = r".*\.(q_proj|v_proj|o_proj|out_proj|down_proj|fc1)"

KINDS = {
    "all_linear": {
        "r": 2, "lora_alpha": 5, "target_modules": "all-linear", "use_rslora": True,
        "rank_pattern": {"k_proj": 1}, "alpha_pattern": {r"layers\.1\.self_attn\.q_proj": 3},
        "bias": "all",
    },
    "dora_projector": {
        "r": 2, "lora_alpha": 4, "target_modules": _VISION_OR_TEXT, "use_dora": True,
        "modules_to_save": ["multi_modal_projector", "input_layernorm"],
    },
    "embeddings": {
        "r": 2, "lora_alpha": 4,
        "target_modules": ["q_proj", "position_embedding", "patch_embedding"],
        "trainable_token_indices": [3, 70, 71],
    },
}  # fmt: skip


def main() -> None:
  """Writes the folders and tokenizers.json."""
  argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
  _tokenizers()
  import peft
  import torch
  import transformers

  with np.load(BASE / "golden.npz") as file:
    golden = {key: file[key][:1] for key in file.files if file[key].ndim}
  for name, settings in KINDS.items():
    torch.manual_seed(0)
    base = transformers.PaliGemmaForConditionalGeneration.from_pretrained(
      BASE, dtype=torch.float32, attn_implementation="eager"
    )
    model = peft.get_peft_model(base, peft.LoraConfig(**settings)).eval()
    with torch.no_grad():
      for key, parameter in model.named_parameters():
        if parameter.requires_grad and "lora_magnitude" not in key:
          parameter.add_(0.05 * torch.randn_like(parameter))
    folder = GOLDEN / "peft" / name
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    keys = ("input_ids", "attention_mask", "token_type_ids", "pixel_values")
    inputs = {key: torch.from_numpy(golden[key]) for key in keys}
    real = int(golden["prompt_mask"].sum())
    prompt = golden["prompt_ids"][:, -real:]
    with torch.no_grad():
      logits = model(**inputs).logits.numpy()[0, _NUM_IMAGE_TOKENS:]
      tokens = model.generate(
        input_ids=torch.from_numpy(prompt),
        attention_mask=torch.ones(prompt.shape, dtype=torch.int64),
        token_type_ids=torch.zeros(prompt.shape, dtype=torch.int64),
        pixel_values=inputs["pixel_values"],
        max_new_tokens=6,
        do_sample=False,
      ).numpy()[0, real:]
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "tests/golden/hf_paligemma2"
    if isinstance(config["target_modules"], list):
      config["target_modules"].sort()  # PEFT stores a set.
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
    np.savez_compressed(folder / "expected.npz", logits=logits, generated=tokens)
    print(name, sum(p.stat().st_size for p in folder.iterdir()), "bytes", tokens)


def _tokenizers() -> None:
  """Writes seeded random texts of scripts, spaces, newlines, <loc…> and <seg…>, with their ids."""
  import tokenizers

  from paligemma_jax.data import tokenizer
  from paligemma_jax.data import tokenizer_files

  ours = tokenizer.Tokenizer(ROOT / "paligemma_jax" / "assets" / "demo" / "tokenizer.model")
  text = tokenizer_files.from_model(ours.whole_bytes, num_ids=2176, image_token=2176)
  theirs = tokenizers.Tokenizer.from_str(text)
  rng = random.Random(0)
  parts = [
    lambda: "".join(rng.choice(_CHARACTERS) for _ in range(rng.randrange(1, 8))),
    lambda: rng.choice(("two tigers", " cat", "caption en\n", "detect", "<mask>", "▁▁ x")),
    lambda: f"<loc{rng.randrange(1100):04d}>",
    lambda: f"<seg{rng.randrange(140):03d}>",
    lambda: "\n" * rng.randrange(1, 7),
    lambda: " " * rng.randrange(1, 9),
    lambda: chr(rng.choice((rng.randrange(1, 0xD7FF), rng.randrange(0xE000, 0x10FFFF)))),
  ]
  texts = ["".join(rng.choice(parts)() for _ in range(rng.randrange(9))) for _ in range(300)]
  ids = [theirs.encode(x, add_special_tokens=False).ids for x in texts]
  digest = hashlib.sha256(text.encode()).hexdigest()
  content = {"version": tokenizers.__version__, "sha256": digest, "texts": texts, "ids": ids}
  (GOLDEN / "tokenizers.json").write_text(json.dumps(content, separators=(",", ":")) + "\n")
  wrong = sum(ours.encode(x) != y for x, y in zip(texts, ids, strict=True))
  print(f"tokenizers.json: {len(texts)} texts, {wrong} of them differ from ours")


if __name__ == "__main__":
  main()
