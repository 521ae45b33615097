"""DOCCI in miniature."""

import json

from tests.miniatures import images

_ROWS = {
  "train": ("train_00000", "train_00001"),
  "test": ("test_00000", "test_00001"),
  "qual_dev": ("qual_dev_00000",),
  "qual_test": ("qual_test_00000",),
}


def make(folder):
  lines = []
  for split, ids in _ROWS.items():
    for i, example_id in enumerate(ids):
      file = f"{example_id}.jpg"
      lines.append(
          {"type": "description", "split": split, "image_file": file, "example_id": example_id,
           "description": f" {_description(example_id)}"}
      )  # fmt: skip
      images.write(folder / "images" / file, images.jpeg(i))
  text = "\n".join(map(json.dumps, lines)) + "\n"
  images.write(folder / "docci_descriptions.jsonlines", text.encode())


def _description(example_id):
  return f"A medium shot of {example_id}. It stands on a gray sidewalk; behind it is a wall."


EXPECTED = {
  "docci": {
    split: [{"image_id": i, "caption": _description(i)} for i in ids]
    for split, ids in _ROWS.items()
  }
}
