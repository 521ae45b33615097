"""RSVQA, low resolution, in miniature; dropped questions are still in the files."""

from tests.miniatures import images

_ROWS = [
  ("presence", "Is a water area present?", "yes", "yes"),
  ("rural_urban", "Is it a rural or an urban area", "rural", "rural"),
  ("comp", "Are there less buildings than water areas?", "no", "no"),
  ("count", "What is the number of roads?", "0", "0"),
  ("count", "How many buildings are there?", "10", "between 1 and 10"),
  ("count", "How many buildings are there?", "11", "between 11 and 100"),
  ("count", "How many buildings are there?", "1000", "between 101 and 1000"),
  ("count", "How many buildings are there?", "1001", "more than 1000"),
]
_SPLITS = ("train", "val", "test")


def make(folder):
  for k, split in enumerate(_SPLITS):
    write(folder, f"LR_split_{split}", k, _ROWS)
    images.write(folder / "Images_LR" / f"{k}.tif", images.tiff(k))


def write(folder, stem, image_id, rows):
  """The files of questions and answers, every second entry a dropped one."""
  questions, answers = [], []
  for k, (kind, question, answer, _) in enumerate(rows):
    questions += [
        {"id": 2 * k, "img_id": image_id, "type": kind, "question": question, "active": True,
         "people_id": 0, "answers_ids": [2 * k + 500], "date_added": 1.5},
        {"id": 2 * k + 1, "active": False},
    ]  # fmt: skip
    answers += [
        {"id": 2 * k + 500, "question_id": 2 * k, "answer": answer, "active": True,
         "people_id": 0, "date_added": 1.5},
        {"id": 2 * k + 501, "active": False},
    ]  # fmt: skip
  images.write(folder / f"{stem}_questions.json", {"questions": questions})
  images.write(folder / f"{stem}_answers.json", {"answers": answers})


def expected(image_id, rows, leave_out):
  """The rows that come of it."""
  return [
    {
      "image_id": image_id,
      "question_id": 2 * k,
      "question": question,
      "question_type": kind,
      "answers": [in_range],
      "raw_answer": answer,
    }
    for k, (kind, question, answer, in_range) in enumerate(rows)
    if kind not in leave_out
  ]


EXPECTED = {
  f"rsvqa_lr/{name}": {split: expected(k, _ROWS, leave_out) for k, split in enumerate(_SPLITS)}
  for name, leave_out in (("nonum", ("count",)), ("all", ()))
}
