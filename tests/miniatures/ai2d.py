"""AI2D in miniature: each diagram with a question about its labels and one about letters."""

from tests.miniatures import images

_DIAGRAMS = {"train": ("0", "1012", "87"), "test": ("3", "455")}
_CHOICES = ["frog", "snake", "grass", "hawk"]


def make(folder):
  for ids in _DIAGRAMS.values():
    for i in ids:
      root = folder / "ai2d"
      images.write(root / f"images/{i}.png", images.png(int(i), (120, 90)))
      images.write(root / f"annotations/{i}.png.json", _annotation())
      images.write(root / f"questions/{i}.png.json", _questions(i))
  test = "\n".join(_DIAGRAMS["test"])
  images.write(folder / "ai2d_test_ids.csv", f"{test}\n".encode())


def _annotation():
  texts = {
      "T1": {"id": "T1", "rectangle": [[10, 10], [50, 40]], "replacementText": "A",
             "value": "frog"},
      "T2": {"id": "T2", "rectangle": [[70, 50], [110, 80]], "replacementText": "B",
             "value": "snake"},
  }  # fmt: skip
  return {"arrowHeads": {}, "arrows": {}, "blobs": {}, "imageConsts": {}, "relationships": {},
          "text": texts}  # fmt: skip


def _questions(i):
  return {
    "imageName": f"{i}.png",
    "questions": {
      row["question"]: {
        "abcLabel": row["abc_label"],
        "answerTexts": row["choices"],
        "correctAnswer": row["label"],
        "questionId": row["question_id"],
      }
      for row in _rows(i)
    },
  }


def _rows(i):
  return [
    {
      "image_id": i,
      "question_id": f"{i}.png-0",
      "question": f"What eats the frog of {i}?",
      "choices": _CHOICES,
      "label": 1,
      "answer": "snake",
      "abc_label": False,
    },
    {
      "image_id": i,
      "question_id": f"{i}.png-1",
      "question": f"Which letter is it in {i}?",
      "choices": ["A", "B", "C", "D"],
      "label": 0,
      "answer": "A",
      "abc_label": True,
    },
  ]


EXPECTED = {
  "ai2d": {split: [row for i in ids for row in _rows(i)] for split, ids in _DIAGRAMS.items()}
}
