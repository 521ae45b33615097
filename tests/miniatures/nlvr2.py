"""NLVR2 in miniature."""

import json

from tests.miniatures import images

_SPLITS = {"train": "train", "dev": "dev", "test": "test1"}
_PAIRS = {"train": ("10171-0", "4100-1"), "dev": ("850-0",), "test1": ("0-1",)}


def make(folder):
  for k, (name, pairs) in enumerate(_PAIRS.items()):
    rows = []
    for j, pair in enumerate(pairs):
      place = folder / (f"images/train/{j + 30}" if name == "train" else name)
      for i in (0, 1):
        images.write(place / f"{name}-{pair}-img{i}.png", images.png(100 * k + 10 * j + i))
      rows += [_row(name, pair, i, j + 30) for i in (0, 1)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    images.write(folder / f"{name}.json", text.encode())


def _row(name, pair, i, directory):
  row = {
    "validation": {},
    "synset": "dog",
    "query": "dogs",
    "writer": 12,
    "left_url": "https://…",
    "right_url": "https://…",
    "extra_validations": {},
    **_told(name, pair, i),
  }
  row["identifier"] = row.pop("question_id")
  return {**row, "directory": directory} if name == "train" else row


def _told(name, pair, i):
  return {
    "question_id": f"{name}-{pair}-{i}",
    "label": str(i == 0),
    "sentence": f"There are {i} dogs in the left image of {pair}.",
  }


EXPECTED = {
  "nlvr2": {
    split: [_told(name, pair, i) for pair in _PAIRS[name] for i in (0, 1)]
    for split, name in _SPLITS.items()
  }
}
