"""Makes tests/golden/peft: adapters that PEFT saved over a small model, and what PEFT computes.

    rivals/bin/python tools/make_peft_goldens.py     # with requirements-bench.txt

Each folder is one kind of adapter with random numbers in it, as `save_pretrained` writes it, and
`expected.npz`: of the first row of the base's own golden.npz the logits at its text, and of its
prompt the greedy tokens.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import shutil

import numpy as np

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden"
BASE = GOLDEN / "hf_paligemma2"
_NUM_IMAGE_TOKENS = 16
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
  """Writes the folders anew."""
  argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
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
      config["target_modules"].sort()  # PEFT keeps a set.
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
    np.savez_compressed(folder / "expected.npz", logits=logits, generated=tokens)
    print(name, sum(p.stat().st_size for p in folder.iterdir()), "bytes", tokens)


if __name__ == "__main__":
  main()
