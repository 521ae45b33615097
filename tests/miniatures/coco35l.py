"""COCO-35L in miniature: two captions for each image, those of dev still in their bz2 file."""

import bz2
import json

from tests.miniatures import cococap
from tests.miniatures import images
from tools.prepare import coco35l

_ROWS = {
  "train": cococap.ROWS["train"],
  "dev": cococap.ROWS["val"],
}
_LANGUAGES = coco35l.TRANSLATED


def make(folder):
  cococap.write_karpathy(folder, {"train": _ROWS["train"], "val": _ROWS["dev"]})
  for split, rows in _ROWS.items():
    lines = [
        {"image_id": f"{i}_{k}", "caption_tokenized": _tokenized(text), "src_lang": "en",
         "trg_lang": language, "translation_tokenized": _translated(text, language),
         "backtranslation_tokenized": _tokenized(text)}
        for i, _, captions in rows
        for k, text in enumerate(captions)
        for language in _LANGUAGES
    ]  # fmt: skip
    data = "".join(json.dumps(line) + "\n" for line in lines).encode()
    if split == "dev":
      images.write(folder / "coco_mt_dev.jsonl.bz2", bz2.compress(data))
    else:
      images.write(folder / "coco_mt_train.jsonl", data)


def _tokenized(text):
  return text.replace(".", " .")


def _translated(text, language):
  return f"{language} {_tokenized(text)}" if language != "zh" else "一 张 桌子 。"


EXPECTED = {
  "coco35l": {
    split: [
      {
        "image_id": i,
        "captions_en": [_tokenized(text) for text in captions],
        **{
          f"captions_{language}": [_translated(text, language) for text in captions]
          for language in _LANGUAGES
        },
      }
      for i, _, captions in rows
    ]
    for split, rows in _ROWS.items()
  }
}
