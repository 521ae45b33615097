"""POPE in miniature."""

import json

from tests.miniatures import images

_SETS = ("random", "popular", "adversarial")
_ROWS = [(310196, "snowboard", "yes"), (310196, "dining table", "no"), (210789, "car", "no")]


def make(folder):
  for name in _SETS:
    lines = [
      {"question_id": k, "image": _image(i), "text": _question(thing), "label": label}
      for k, (i, thing, label) in enumerate(_ROWS, 1)
    ]
    data = "".join(json.dumps(line) + "\n" for line in lines).encode()
    images.write(folder / f"coco_pope_{name}.json", data)
  for i, _, _ in _ROWS:
    images.write(folder / "val2014" / _image(i), images.jpeg(i))


def _image(number):
  return f"COCO_val2014_{number:012d}.jpg"


def _question(thing):
  return f"Is there a {thing} in the image?"


EXPECTED = {
    f"pope/{name}": {
        "test": [
            {"question_id": k, "image_id": _image(i), "question": _question(thing),
             "answer": label}
            for k, (i, thing, label) in enumerate(_ROWS, 1)
        ]
    }
    for name in _SETS
}  # fmt: skip
