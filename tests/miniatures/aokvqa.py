"""A-OKVQA in miniature."""

from tests.miniatures import images

_CHOICES = ["skateboard", "bus", "taxi", "train"]
_ROWS = {
    "train": [(1, "22MexNkBPpdZGX6sxbxVBH", 0), (2, "22jbM6gDxdaMaunuzgrsBB", 3),
              (2, "22kPT7XvPAxE9WnGYHrFOK", 2)],
    "val": [(3, "23Aq4NQfZnWvdxL8kFpkeB", 1), (4, "23EvMqiAA9uq6fy3LkmfzY", 0)],
    "test": [(5, "24G6YzMNSNvvd9FY3nVAcW", 1), (6, "24HzmjqMPkqXeSRyQYRxCq", 2)],
}  # fmt: skip


def make(folder):
  for split, rows in _ROWS.items():
    content = []
    for image_id, question_id, correct in rows:
      row = {
        "split": split,
        "image_id": image_id,
        "question_id": question_id,
        "question": f"What is the man {question_id[:4]} waiting for?",
        "choices": _CHOICES,
        "difficult_direct_answer": correct == 3,
      }
      if split != "test":
        row |= {"correct_choice_idx": correct, "direct_answers": _answers(correct)}
        row["rationales"] = ["He stands at the stop."] * 3
      content.append(row)
      images.write(folder / f"{split}2017/{image_id:012d}.jpg", images.jpeg(image_id))
    images.write(folder / f"aokvqa_v1p0_{split}.json", content)


def _answers(correct):
  return [_CHOICES[correct]] * 7 + ["ride"] * 3


EXPECTED = {
  "aokvqa": {
    split: [
      {
        "image_id": image_id,
        "question_id": question_id,
        "choices": _CHOICES,
        "question": f"What is the man {question_id[:4]} waiting for?",
        "correct_choice_idx": -1 if split == "test" else correct,
        "answer": "" if split == "test" else _CHOICES[correct],
        "direct_answers": [] if split == "test" else _answers(correct),
        "difficult_direct_answer": correct == 3,
      }
      for image_id, question_id, correct in rows
    ]
    for split, rows in _ROWS.items()
  }
}
