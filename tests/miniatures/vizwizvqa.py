"""VizWiz-VQA in miniature."""

from tests.miniatures import images

_SPLITS = {"train": (0, 1, 2), "val": (0, 1), "test": (0, 1)}
_ANSWERS = ["unanswerable"] * 4 + ["chai"] * 5


def make(folder):
  for split, numbers in _SPLITS.items():
    rows = []
    for number in numbers:
      name = f"VizWiz_{split}_{number:08d}.jpg"
      row = {"image": name, "question": f"What's the name of product {number}?"}
      if split != "test":
        row["answers"] = [{"answer_confidence": "yes", "answer": a} for a in (*_ANSWERS, "")]
        row |= {"answer_type": "other", "answerable": 1}
      rows.append(row)
      images.write(folder / split / name, images.jpeg(number))
    images.write(folder / f"Annotations/{split}.json", rows)


EXPECTED = {
    "vizwizvqa": {
        split: [
            {"image_id": f"VizWiz_{split}_{number:08d}.jpg", "question_id": number,
             "question": f"What's the name of product {number}?",
             "answers": [] if split == "test" else _ANSWERS,
             "answer_type": "" if split == "test" else "other",
             "answerable": -1 if split == "test" else 1}
            for number in numbers
        ]
        for split, numbers in _SPLITS.items()
    }
}  # fmt: skip
