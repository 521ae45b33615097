"""transformers' side of load.py."""

from __future__ import annotations

import torch
import transformers

from tools.bench import checkpoint_side
from tools.bench import load


def main() -> None:
  """Loads and saves as told."""
  args = load.parser().parse_args()
  kind = transformers.PaliGemmaForConditionalGeneration
  checkpoint_side.serve(
    args,
    {"torch": torch.__version__, "transformers": transformers.__version__},
    load=lambda: kind.from_pretrained(args.weights, dtype=torch.float32),
    arrays=lambda model: (p.detach().numpy() for p in model.parameters()),
    save=lambda model, path: model.save_pretrained(path),
  )


if __name__ == "__main__":
  main()
