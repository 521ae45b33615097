"""longcap100 in miniature: lines of text and pictures beside them, no builder."""

import json

from tests.miniatures import images

_ROWS = {"data_train90.jsonl": range(4), "data_val10.jsonl": range(4, 6)}


def make(folder):
  for name, numbers in _ROWS.items():
    for i in numbers:
      images.write(folder / f"{i:04d}.jpg", images.jpeg(i))
    lines = [
      json.dumps({"image": f"{i:04d}.jpg", "prefix": "", "suffix": f"A Cow stands on beach {i}."})
      for i in numbers
    ]
    images.write(folder / name, "".join(f"{line}\n" for line in lines).encode())
