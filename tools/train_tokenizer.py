"""Trains the demo's small tokenizer: SentencePiece BPE with byte fallback, in Gemma's conventions.

The <loc> and <seg> tokens are not in the file; they are appended on load, as for Gemma's own
tokenizer file. The text is committed (words.txt, names.json), and training is deterministic:

  python tools/train_tokenizer.py
"""

from __future__ import annotations

import argparse
import io
import json
import pathlib

import sentencepiece as spm

DEMO = pathlib.Path(__file__).resolve().parent.parent / "paligemma_jax" / "assets" / "demo"
NUM_PIECES = 1024

# Fixed phrases, so that prompts are short.
LINES = (
    "caption en", "count", "detect", "segment", "answer en", "question en", "describe en", "ocr",
    "describe the picture", "what is in the picture?", "how many", "how many are there?",
    "are there?", "where is the?", "left", "right", "yes", "no", "0123456789", " ; ",
    "a, a and a", "an, an and an", "two, two and two", "three, three and three",
    "four, four and four",
)  # fmt: skip
LINE_WEIGHT = 40


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
  parser.add_argument("--data", type=pathlib.Path, default=DEMO)
  parser.add_argument("--out", type=pathlib.Path, default=DEMO / "tokenizer.model")
  args = parser.parse_args()

  model = io.BytesIO()
  spm.SentencePieceTrainer.train(
      sentence_iterator=iter(corpus(args.data)), model_writer=model,
      model_type="bpe", vocab_size=NUM_PIECES, byte_fallback=True, split_digits=True,
      normalization_rule_name="identity", add_dummy_prefix=False, remove_extra_whitespaces=False,
      allow_whitespace_only_pieces=True, character_coverage=1.0, num_threads=1,
      pad_id=0, eos_id=1, bos_id=2, unk_id=3,
      pad_piece="<pad>", eos_piece="<eos>", bos_piece="<bos>", unk_piece="<unk>",
      user_defined_symbols=symbols(args.data),
      minloglevel=2,
  )  # fmt: skip
  args.out.write_bytes(model.getvalue())
  print(f"{NUM_PIECES} pieces, {len(model.getvalue())} bytes, in {args.out}")


def corpus(data: pathlib.Path) -> list[str]:
  """The training sentences: CLDR's names once, fixed phrases repeated."""
  words = (data / "words.txt").read_text(encoding="utf-8").splitlines()
  return [word for word in words if word.isascii()] + list(LINES) * LINE_WEIGHT


def symbols(data: pathlib.Path) -> list[str]:
  """Pieces that are never split: Gemma's runs of line breaks and spaces, and the class names.

  With class names as pieces, "two pandas" is " two", " panda", "s", so singular and plural share a
  token; byte pairs alone would give " p", "and", "as".
  """
  classes = json.loads((data / "names.json").read_text(encoding="utf-8"))["classes"]
  blanks = ["\n" * n for n in range(1, 5)] + ["▁" * n for n in range(2, 5)]
  return ["<mask>"] + blanks + ["▁" + c["name"] for c in classes]


if __name__ == "__main__":
  main()
