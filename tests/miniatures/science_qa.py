"""ScienceQA in miniature; one of the questions has no image and is left out."""

from tests.miniatures import images

_PLACES = {"train": ("1", "7", "12"), "val": ("2", "30"), "test": ("5", "16")}
_WITHOUT_IMAGE = "4"
_TEXTS = {"task": "closed choice", "grade": "grade2", "subject": "natural science",
          "topic": "physics", "category": "Materials", "skill": "Compare properties",
          "lecture": "An object has properties.", "solution": "Look at each object."}  # fmt: skip


def make(folder):
  problems = {_WITHOUT_IMAGE: {**_problem(_WITHOUT_IMAGE, "train"), "image": None}}
  for split, ids in _PLACES.items():
    for i in ids:
      problems[i] = _problem(i, split)
      images.write(folder / split / i / "image.png", images.png(int(i)))
  images.write(folder / "problems.json", problems)


def _problem(i, split):
  return {
    "question": _question(i),
    "choices": ["sticky", "yellow", "hard"],
    "answer": int(i) % 3,
    "hint": _hint(i),
    "image": "image.png",
    "split": split,
    **_TEXTS,
  }


def _question(i):
  return f"Which property do the {i} objects have in common?"


def _hint(i):
  return "" if int(i) % 2 else "Select the better answer."


EXPECTED = {
  "science_qa": {
    split: [
      {
        "question_id": i,
        "question": _question(i),
        "choices": ["sticky", "yellow", "hard"],
        "answer": int(i) % 3,
        "hint": _hint(i) or "N/A",
        **_TEXTS,
      }
      for i in ids
    ]
    for split, ids in _PLACES.items()
  }
}
